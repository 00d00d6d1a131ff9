/**
 * Writes after a failover whose merge failed. They go to the secondary disk where the overlays own nothing; but a write
 * to the active disk copies whole clusters up, and what it has copied up the overlays own from then on.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Deferred } from '../../../src/base/async.ts';
import { IoError } from '../../../src/base/errors.ts';
import { Blkdebug } from '../../../src/block/filters/blkdebug.ts';
import { DelayFilter } from '../../../src/block/filters/delay.ts';
import { CLUSTER, KIB, bytesOf, filled, turns } from './jobs-helpers.ts';
import { rawBytes, secondaryChain } from './replication-chain.ts';
import type { Chain } from './replication-chain.ts';

const LENGTH = 4 * CLUSTER;

/** One cluster of the active disk is two of the hidden disk. */
interface Made {
  readonly chain: Chain;
  /** The secondary disk. */
  readonly disk: Blkdebug;
}

function withWideClusters(): Made {
  const disks: Blkdebug[] = [];
  const chain = secondaryChain(
    LENGTH,
    (layer, driver) => {
      if (layer !== 'secondary') return driver;
      const filter = new Blkdebug(driver);
      disks.push(filter);
      return filter;
    },
    { active: 2 * CLUSTER },
  );
  return { chain, disk: disks[0] ?? assert.fail() };
}

/** A failover that cannot bring what the overlays own into the secondary disk. */
async function failTheMerge({ chain: { replication }, disk }: Made): Promise<void> {
  disk.add({ op: 'write' });
  await replication.stopReplication(true);
  await replication.commitJob?.ended;
  assert.equal(replication.stage, 'failover-failed');
  disk.clear();
}

describe('replication: writes after a merge that failed', () => {
  for (const zero of [false, true]) {
    const what = zero ? 'zeroes' : 'a write';
    it(`one reaches past what it copies up itself: ${what}`, async () => {
      const made = withWideClusters();
      const { secondary, replication, top, raw } = made.chain;
      await secondary.write(0, filled(LENGTH, 1));
      await replication.start('secondary');
      await secondary.write(0, filled(512, 7));
      await failTheMerge(made);
      const expected = Buffer.alloc(LENGTH, 1);
      // The hidden disk owns the first cluster. Its part goes to the active disk, which copies the second one up too.
      const length = 2 * CLUSTER;
      if (zero) await top.writeZeroes(CLUSTER - KIB, length);
      else await top.write(CLUSTER - KIB, filled(length, 3));
      expected.fill(zero ? 0 : 3, CLUSTER - KIB, CLUSTER - KIB + length);
      assert.deepEqual(await bytesOf(top), expected);
      // The third cluster is nobody's but the secondary disk's.
      const disk = await rawBytes(raw.secondary);
      assert.deepEqual(disk.subarray(2 * CLUSTER), expected.subarray(2 * CLUSTER));
    });
  }

  it('one comes while another, from before the merge failed, still copies its cluster up', async () => {
    const made = withWideClusters();
    const { disk } = made;
    const { secondary, replication, top } = made.chain;
    await secondary.write(0, filled(LENGTH, 1));
    await replication.start('secondary');
    await secondary.write(2 * CLUSTER, filled(512, 7));
    disk.breakAt('read_aio', 'copy-up');
    const before = top.write(CLUSTER, filled(KIB, 2));
    // It has read the first half of its cluster in the active disk and is about to read the second.
    await disk.waitBreak('copy-up');
    disk.resume('copy-up');
    await disk.waitBreak('copy-up');
    await failTheMerge(made);
    const after = top.write(0, filled(KIB, 3));
    await turns();
    disk.removeBreak('copy-up');
    await Promise.all([before, after]);
    const expected = Buffer.alloc(LENGTH, 1)
      .fill(2, CLUSTER, CLUSTER + KIB)
      .fill(3, 0, KIB);
    assert.deepEqual(await bytesOf(top), expected);
  });

  it('several come while the merge fails, in every interleaving', async () => {
    const GUESTS = 3;
    const PAGE = 4 * KIB;
    const op = fc.record({
      kind: fc.constantFrom('read', 'write', 'write', 'zero'),
      page: fc.nat(Math.floor(LENGTH / PAGE / GUESTS) - 1),
      value: fc.integer({ min: 2, max: 255 }),
    });
    const guestOps = fc.array(op, { minLength: 1, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(
        fc.scheduler(),
        fc.array(guestOps, { minLength: GUESTS, maxLength: GUESTS }),
        fc.record({
          active: fc.constantFrom(CLUSTER, 2 * CLUSTER, 4 * CLUSTER),
          hidden: fc.constantFrom(PAGE, CLUSTER),
        }),
        fc.nat(3),
        async (scheduler, guests, clusters, owned) => {
          let slow = false;
          /** The merge is about to fail. */
          const begun = new Deferred<void>();
          const { secondary, replication, top } = secondaryChain(
            LENGTH,
            (layer, driver) =>
              new DelayFilter(driver, async (what) => {
                if (!slow || what === 'flush') return;
                const fails = layer === 'secondary' && what === 'write' && replication.stage === 'failover';
                if (fails) begun.resolve();
                await scheduler.schedule(Promise.resolve(), `${layer} ${what}`);
                if (fails) throw new IoError('EIO', 'the merge fails');
              }),
            clusters,
          );
          await secondary.write(0, filled(LENGTH, 1));
          await replication.start('secondary');
          await secondary.write(owned * CLUSTER, filled(512, 7));
          const view = Buffer.alloc(LENGTH, 1);
          slow = true;
          await replication.stopReplication(true);
          // They share clusters but no pages.
          const running = guests.map(async (ops, guest) => {
            await begun.promise;
            await scheduler.schedule(Promise.resolve(), `guest ${guest}`);
            for (const { kind, page, value } of ops) {
              const at = (page * GUESTS + guest) * PAGE;
              if (kind === 'write') await top.write(at, filled(PAGE, value));
              else if (kind === 'zero') await top.writeZeroes(at, PAGE);
              if (kind !== 'read') view.fill(kind === 'zero' ? 0 : value, at, at + PAGE);
              const got = await bytesOf(top, at, PAGE);
              assert.ok(got.equals(view.subarray(at, at + PAGE)), `page ${at / PAGE} is not as it was left`);
            }
          });
          await scheduler.waitFor(Promise.all([...running, replication.commitJob?.ended]));
          assert.equal(replication.stage, 'failover-failed');
          slow = false;
          assert.ok((await bytesOf(top)).equals(view), 'the whole disk is not as it was left');
        },
      ),
      { numRuns: 50 },
    );
  });
});
