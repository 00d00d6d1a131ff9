/** Ports for pairs: never the same to two at once, never one that is in use, and all of them again in the end. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { test } from 'node:test';
import fc from 'fast-check';
import { PortPool } from '../../../src/ha/room/port-pool.ts';
import type { PortLease } from '../../../src/ha/room.ts';

const ADDRESS = '127.0.0.77';
const FIRST = 41_000;
const LAST = 41_011;

type Step = { readonly reserve: number } | { readonly release: number };

const steps = fc.array(
  fc.oneof(
    fc.record({ reserve: fc.integer({ min: 1, max: 6 }) }),
    fc.record({ release: fc.nat({ max: 20 }) }),
  ),
  { maxLength: 30 },
);

test('whatever is asked at once, each port has one owner, and a refusal takes nothing', async () => {
  await fc.assert(
    fc.asyncProperty(steps, fc.nat({ max: LAST - FIRST }), async (script: readonly Step[], busy) => {
      const listener = net.createServer().listen(FIRST + busy, ADDRESS);
      await once(listener, 'listening');
      const pool = new PortPool(ADDRESS, [FIRST, LAST]);
      const held: PortLease[] = [];
      try {
        // Reservations that follow each other are made at once.
        let asked: Promise<PortLease | null>[] = [];
        const settle = async (): Promise<void> => {
          for (const lease of await Promise.all(asked)) if (lease) held.push(lease);
          asked = [];
          const ports = held.flatMap((lease) => lease.ports);
          assert.equal(new Set(ports).size, ports.length, 'two owners');
          for (const port of ports) {
            assert.ok(port >= FIRST && port <= LAST, 'out of range');
            assert.notEqual(port, FIRST + busy, 'in use');
          }
        };
        for (const step of script) {
          if ('reserve' in step) asked.push(pool.reserve(step.reserve).catch(() => null));
          else {
            await settle();
            const [lease] = held.splice(step.release % Math.max(1, held.length), 1);
            lease?.release();
            // A second time is nobody else's loss.
            lease?.release();
          }
        }
        await settle();
        for (const lease of held.splice(0)) lease.release();
        const all = await pool.reserve(LAST - FIRST);
        assert.equal(all.ports.length, LAST - FIRST, 'all that are not in use');
        await assert.rejects(
          pool.reserve(1),
          /no 1 free ports among pairPorts 41000 to 41011 of 127\.0\.0\.77; widen/,
        );
      } finally {
        listener.close();
      }
    }),
    { numRuns: 25 },
  );
});

test('an address that is not this host is told as such', async () => {
  const pool = new PortPool('192.0.2.1', [FIRST, FIRST + 1]);
  await assert.rejects(pool.reserve(1), /no 1 free ports .* of 192\.0\.2\.1: .*EADDRNOTAVAIL/);
});
