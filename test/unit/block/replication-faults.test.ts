/**
 * The secondary's view under faults, as a property: writes to any of the three disks fail or are torn at random, and the
 * VM still sees the last checkpoint plus its own writes (what a failed write of its own left is open); a checkpoint that
 * cannot be carried is refused and changes nothing; a failover ends with that very view, merged or not, and later
 * writes change what they write and nothing else.
 */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import fc from 'fast-check';
import { Blkdebug } from '../../../src/block/filters/blkdebug.ts';
import type { InjectRule } from '../../../src/block/filters/fault-rules.ts';
import { CLUSTER, KIB, bytesOf, filled } from './jobs-helpers.ts';
import { secondaryChain } from './replication-chain.ts';
import type { Layer } from './replication-chain.ts';

const LENGTH = 3 * CLUSTER + 4 * KIB;

const step = fc.record({
  what: fc.constantFrom('guest', 'guest', 'export', 'export', 'export', 'checkpoint', 'fault', 'heal'),
  layer: fc.constantFrom<Layer>('active', 'hidden', 'secondary'),
  at: fc.nat(LENGTH - 1),
  length: fc.integer({ min: 1, max: CLUSTER + 999 }),
  value: fc.integer({ min: 1, max: 255 }),
  zero: fc.boolean(),
});
const clusterBytes = fc.constantFrom(4 * KIB, CLUSTER, 2 * CLUSTER);
/** Of the guest's, when the failover is over. */
const laterWrite = fc.record({
  at: fc.nat(LENGTH - 1),
  length: fc.integer({ min: 1, max: 2 * CLUSTER }),
  value: fc.nat(255),
});

it("the secondary's view survives failing and torn writes on every disk", async () => {
  let refused = 0;
  let failed = 0;
  let unmerged = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { minLength: 10, maxLength: 60 }),
      fc.record({ active: clusterBytes, hidden: clusterBytes }),
      fc.boolean(),
      fc.array(laterWrite, { minLength: 1, maxLength: 4 }),
      async (steps, clusters, failMerge, later) => {
        const debug = new Map<Layer, Blkdebug>();
        const chain = secondaryChain(
          LENGTH,
          (layer, driver) => {
            const filter = new Blkdebug(driver);
            debug.set(layer, filter);
            return filter;
          },
          clusters,
        );
        const { secondary, replication, top } = chain;
        await secondary.write(0, filled(LENGTH, 1));
        await replication.start('secondary');
        const view = await bytesOf(top);
        /** 1: a failed write of the guest's has been here since the checkpoint. */
        const open = Buffer.alloc(LENGTH);
        const look = async (where: string): Promise<void> => {
          const got = await bytesOf(top);
          for (let from = open.indexOf(1); from >= 0;) {
            const end = open.indexOf(0, from);
            const to = end < 0 ? LENGTH : end;
            view.copy(got, from, from, to);
            from = open.indexOf(1, to);
          }
          assert.ok(got.equals(view), `${where}: the view is not as it should be`);
        };

        for (const [index, { what, layer, at, length, value, zero }] of steps.entries()) {
          const cut = Math.min(length, LENGTH - at);
          const write = (node: typeof top): Promise<boolean> =>
            (zero ? node.writeZeroes(at, cut) : node.write(at, filled(cut, value))).then(
              () => true,
              () => false,
            );
          if (what === 'fault') {
            const rule: InjectRule = {
              types: ['write', 'write-zeroes'],
              partial: value % 2 === 0 ? 'torn' : 0,
              skip: at % 3,
              times: 1 + (length % 3),
            };
            debug.get(layer)?.program([rule], [], value);
          } else if (what === 'heal') debug.get(layer)?.clear();
          else if (what === 'export') {
            if (!(await write(secondary))) failed++;
          } else if (what === 'guest') {
            if (await write(top)) {
              view.fill(zero ? 0 : value, at, at + cut);
              open.fill(0, at, at + cut);
            } else open.fill(1, at, at + cut);
          } else if (replication.getError() === null) {
            await replication.doCheckpoint();
            view.set(await bytesOf(secondary));
            open.fill(0);
          } else {
            refused++;
            await assert.rejects(replication.doCheckpoint());
          }
          await look(`step ${index}, ${what}`);
        }

        if (failMerge) debug.get('secondary')?.program([{ types: ['write', 'write-zeroes'] }], []);
        await replication.stopReplication(true);
        await replication.commitJob?.ended;
        if (replication.stage === 'done') {
          // Open bytes are as the guest finds them now, and stay so.
          const got = await bytesOf(top);
          assert.ok((await bytesOf(secondary)).equals(got));
        } else {
          assert.equal(replication.stage, 'failover-failed');
          unmerged++;
        }
        await look('after the failover');
        for (const filter of debug.values()) filter.clear();
        for (const { at, length, value } of later) {
          const cut = Math.min(length, LENGTH - at);
          if (value === 0) await top.writeZeroes(at, cut);
          else await top.write(at, filled(cut, value));
          view.fill(value, at, at + cut);
          await look('after a write');
        }
        await top.close();
      },
    ),
    { numRuns: 60 },
  );
  // A property that never met what it is about would prove nothing.
  assert.ok(
    refused > 0 && failed > 0 && unmerged > 0,
    `${refused} refused, ${failed} failed, ${unmerged} unmerged`,
  );
});
