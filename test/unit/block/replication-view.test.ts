/**
 * The rule of replication's secondary as a property: whatever the export writes to the secondary disk, and however the
 * steps of reads, writes and copies interleave, the VM sees the last checkpoint plus its own writes; and a failover
 * leaves exactly that on the secondary disk.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Deferred } from '../../../src/base/async.ts';
import { DelayFilter } from '../../../src/block/filters/delay.ts';
import { CLUSTER, KIB, filled } from './jobs-helpers.ts';
import { rawBytes, secondaryChain } from './replication-chain.ts';

const PAGE = 4 * KIB;
const LENGTH = 3 * CLUSTER + PAGE;
const PAGES = LENGTH / PAGE;

interface GuestOp {
  readonly kind: 'read' | 'write' | 'zero';
  readonly page: number;
  readonly value: number;
}
interface ExportOp {
  readonly kind: 'write' | 'zero';
  readonly at: number;
  readonly length: number;
  readonly value: number;
}

const guestOp: fc.Arbitrary<GuestOp> = fc.record({
  kind: fc.constantFrom('read', 'read', 'write', 'zero'),
  page: fc.nat(Math.floor(PAGES / 2) - 1),
  value: fc.integer({ min: 1, max: 127 }),
});
const exportOp: fc.Arbitrary<ExportOp> = fc.record({
  kind: fc.constantFrom('write', 'write', 'zero'),
  at: fc.nat(LENGTH - 1),
  length: fc.integer({ min: 1, max: CLUSTER + 999 }),
  value: fc.integer({ min: 128, max: 255 }),
});
const clusterBytes = fc.constantFrom(PAGE, CLUSTER, 2 * CLUSTER);
const few = <T>(op: fc.Arbitrary<T>): fc.Arbitrary<T[]> => fc.array(op, { minLength: 1, maxLength: 5 });
const epoch = fc.record({
  guests: fc.tuple(few(guestOp), few(guestOp)),
  exports: fc.tuple(few(exportOp), few(exportOp)),
});

describe("replication: the secondary's view", () => {
  it('is the last checkpoint plus its own writes, in every interleaving', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.scheduler(),
        fc.array(epoch, { minLength: 1, maxLength: 3 }),
        fc.boolean(),
        fc.record({ active: clusterBytes, hidden: clusterBytes }),
        async (scheduler, epochs, failover, clusters) => {
          /** The first thing that the merge of a failover does, and nobody else here. */
          const begun = new Deferred<void>();
          let onEmpty: (() => Promise<void>) | null = null;
          const { secondary, replication, top, raw } = secondaryChain(
            LENGTH,
            (layer, driver) =>
              new DelayFilter(driver, async (op, _offset, _length, done) => {
                if (layer === 'active' && op === 'status') begun.resolve();
                await scheduler.schedule(Promise.resolve(), `${layer} ${op}`);
                if (layer === 'active' && op === 'makeEmpty' && !done) await onEmpty?.();
              }),
            clusters,
          );
          const later: Promise<void>[] = [];
          let view: Buffer = Buffer.alloc(LENGTH);

          const exportWrites = async (ops: readonly ExportOp[]): Promise<void> => {
            for (const { kind, at, length, value } of ops) {
              const cut = Math.min(length, LENGTH - at);
              if (kind === 'zero') await secondary.writeZeroes(at, cut);
              else await secondary.write(at, filled(cut, value));
            }
          };
          // Two guest tasks, one on the even pages and one on the odd ones, so that they share clusters but no bytes.
          const guest = async (ops: readonly GuestOp[], odd: number): Promise<void> => {
            for (const { kind, page, value } of ops) {
              const at = (page * 2 + odd) * PAGE;
              if (kind === 'read') {
                const got = Buffer.alloc(PAGE);
                await top.read(at, got);
                assert.ok(
                  got.equals(view.subarray(at, at + PAGE)),
                  `page ${at / PAGE} is not as the guest left it`,
                );
              } else if (kind === 'zero') {
                await top.writeZeroes(at, PAGE);
                view.fill(0, at, at + PAGE);
              } else {
                await top.write(at, filled(PAGE, value));
                view.fill(value, at, at + PAGE);
              }
            }
          };
          const whole = async (): Promise<void> => {
            const got = Buffer.alloc(LENGTH);
            await scheduler.waitFor(top.read(0, got));
            assert.ok(got.equals(view), 'the whole disk is not as it should be');
          };

          await scheduler.waitFor(exportWrites(epochs[0]?.exports[0] ?? []));
          await scheduler.waitFor(replication.start('secondary'));
          view = await rawBytes(raw.secondary);
          for (const { guests, exports } of epochs) {
            await scheduler.waitFor(
              Promise.all([guest(guests[0], 0), guest(guests[1], 1), ...exports.map(exportWrites), ...later]),
            );
            await whole();
            onEmpty = async () => {
              // Now the cut has been made: what is written from here on belongs to the next epoch.
              onEmpty = null;
              view = await rawBytes(raw.secondary);
              later.push(exportWrites(exports[1]));
            };
            await scheduler.waitFor(replication.doCheckpoint());
            await whole();
          }
          await scheduler.waitFor(Promise.all(later));
          const last = epochs[0];
          if (!failover || !last) return;
          await scheduler.waitFor(Promise.all([guest(last.guests[0], 0), ...last.exports.map(exportWrites)]));
          const refused: boolean[] = [];
          const stopping = replication.stopReplication(true);
          let merged = false;
          const busy = async (ops: readonly GuestOp[], odd: number): Promise<void> => {
            await stopping;
            await begun.promise;
            for (let round = 0; round < 40 && !merged; round++) {
              // A new value in every round, or a lost write would look like the one before it.
              await guest(
                ops.map((op) => ({ ...op, value: (op.value + round) % 128 })),
                odd,
              );
            }
          };
          const during = Promise.all([
            busy(last.guests[0], 0),
            busy(last.guests[1], 1),
            stopping.then(async () => {
              if (replication.stage !== 'failover') return;
              await secondary.write(0, filled(512, 255)).then(
                () => refused.push(false),
                () => refused.push(true),
              );
            }),
            stopping.then(async () => {
              await replication.commitJob?.ended;
              merged = true;
            }),
          ]);
          await scheduler.waitFor(during);
          assert.equal(replication.stage, 'done');
          assert.ok(!refused.includes(false), 'the fence let a foreign write through');
          await whole();
          assert.ok(
            (await rawBytes(raw.secondary)).equals(view),
            'the secondary disk is not what the guest saw',
          );
        },
      ),
      { numRuns: 60 },
    );
  });
});
