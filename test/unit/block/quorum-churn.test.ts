/**
 * Quorum under random requests while children come, go and break: no acknowledged write is missing on a child that was
 * there when it began, stayed, and never failed; and what is acknowledged is on as many children as the threshold asks.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { QuorumDriver } from '../../../src/block/drivers/quorum.ts';
import { MemoryDriver } from '../../../src/block/drivers/memory.ts';
import { Blkdebug } from '../../../src/block/filters/blkdebug.ts';
import { DelayFilter } from '../../../src/block/filters/delay.ts';
import { BlockNode } from '../../../src/block/node.ts';
import { bytesOf, filled, turns } from './jobs-helpers.ts';

const SLOT = 512;
const SLOTS = 128;

interface Child {
  readonly node: BlockNode;
  readonly faults: Blkdebug;
  /** Writes with this number and later ones began when it was there. */
  readonly since: number;
  failed: boolean;
}

/** Writes end after a number of turns that nobody can foresee, and so in any order. */
function makeChild(name: string, since: number, random: () => number): Child {
  const faults = new Blkdebug(new MemoryDriver(SLOT * SLOTS));
  const slow = new DelayFilter(faults, () => turns(random() % 4));
  return { node: new BlockNode(name, slow), faults, since, failed: false };
}

const step = fc.record({
  what: fc.constantFrom('write', 'write', 'write', 'write', 'flush', 'read', 'add', 'remove', 'fail', 'wait'),
  pick: fc.nat(1000),
});

for (const [voteThreshold, readPattern] of [
  [1, 'fifo'],
  [2, 'quorum'],
] as const) {
  test(`threshold ${voteThreshold}, ${readPattern}`, async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 150 }), fc.nat(), async (steps, seed) => {
        let state = seed;
        const random = (): number => (state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff) >> 8;
        const first = [0, 1, 2].map((at) => makeChild(`c${at}`, 0, random));
        const quorum = new QuorumDriver({
          nodeName: 'q',
          children: first.map(({ node }) => node),
          voteThreshold,
          readPattern,
          emit: () => undefined,
        });
        const top = new BlockNode('q', quorum);
        const roles = new Map(first.map((child, at) => [`children.${at}`, child]));
        const everybody = [...first];
        const acknowledged: number[] = [];
        const running: Promise<unknown>[] = [];
        let writes = 0;

        for (const { what, pick } of steps) {
          const [role, child] = [...roles][pick % roles.size] ?? [];
          if (what === 'write' && writes < SLOTS) {
            const slot = writes++;
            const done = (): number => acknowledged.push(slot);
            running.push(top.write(slot * SLOT, filled(SLOT, slot + 1)).then(done, () => undefined));
          } else if (what === 'flush') running.push(top.flush().catch(() => undefined));
          else if (what === 'read') running.push(bytesOf(top, 0, SLOT).catch(() => undefined));
          else if (what === 'add' && roles.size < 5) {
            const added = makeChild(`c${everybody.length}`, writes, random);
            everybody.push(added);
            roles.set(quorum.addChild(added.node), added);
          } else if (what === 'remove' && role !== undefined && roles.size > voteThreshold) {
            quorum.removeChild(role);
            roles.delete(role);
          } else if (
            what === 'fail' &&
            child &&
            [...roles.values()].filter((one) => !one.failed).length > 1
          ) {
            child.failed = true;
            child.faults.add({ op: 'write', skip: pick % 3 });
          } else if (what === 'wait') await turns(1 + (pick % 5));
        }
        await Promise.all(running);

        for (const child of roles.values()) {
          await child.node.drain();
          if (child.failed) continue;
          for (const slot of acknowledged.filter((one) => one >= child.since)) {
            const there = await bytesOf(child.node, slot * SLOT, SLOT);
            assert.deepEqual(
              there,
              Buffer.alloc(SLOT, slot + 1),
              `${child.node.nodeName} lacks write ${slot}`,
            );
          }
        }
        for (const child of everybody) await child.node.drain();
        for (const slot of acknowledged) {
          let copies = 0;
          for (const child of everybody) {
            if ((await bytesOf(child.node, slot * SLOT, 1))[0] === slot + 1) copies++;
          }
          assert.ok(copies >= voteThreshold, `write ${slot} is on ${copies} children`);
        }
      }),
      { numRuns: 60 },
    );
  });
}
