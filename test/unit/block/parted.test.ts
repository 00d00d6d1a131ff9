// The survivor knows what its peer's old disk lacks: whichever side dies, and whenever, a resync of that makes both equal.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { CLUSTER, turns } from './jobs-helpers.ts';
import { Pair, resync } from './parted-model.ts';
import type { Resynced } from './parted-model.ts';

const seeds = fc.integer({ min: 0, max: 2 ** 31 });
const moments = fc.nat(60);

/** Nothing that differs is missing in the bitmap, and no more was copied than it held and the guest has added. */
function assertFrugal({ differed, dirty, copiedBytes, rewritten }: Resynced): void {
  for (const chunk of differed) assert.ok(dirty.includes(chunk), `chunk ${chunk} differs and is not dirty`);
  // A chunk that was being copied while it was written is copied once more, for each write.
  if (rewritten === 0) assert.ok(copiedBytes <= dirty.length * CLUSTER);
}

/** Takes checkpoints until the moment has come, which may be in the middle of one. */
async function until(pair: Pair, moment: number, act: () => Promise<void>): Promise<void> {
  const state = { isOver: false };
  const checkpoints = (async () => {
    while (!state.isOver) {
      await pair.checkpoint();
      await turns(pair.choice.below(12));
    }
  })();
  await turns(moment);
  state.isOver = true;
  await act();
  await checkpoints;
}

async function primaryDies(seed: number, moment: number, parallel = false): Promise<void> {
  const pair = await Pair.start(seed, parallel);
  try {
    await until(pair, moment, () => pair.killPrimary());
    await pair.secondaryTakesOver();
    assertFrugal(await resync(pair.chain.top, pair.disk.raw, pair.secondaryGuest));
  } finally {
    pair.close();
  }
}

async function secondaryDies(pair: Pair, moment: number, powerLoss: boolean): Promise<void> {
  try {
    await until(pair, moment, () => pair.killSecondary(powerLoss));
    await pair.primaryGoesOn();
    assertFrugal(await resync(pair.top, pair.secondaryDisk.raw, pair.guest));
  } finally {
    pair.close();
  }
}

describe('the disks part', () => {
  it('by the death of the primary', async () => {
    await fc.assert(
      fc.asyncProperty(seeds, moments, (seed, moment) => primaryDies(seed, moment)),
      {
        numRuns: 40,
      },
    );
  });

  it('by the death of the primary, whose disk would be ahead if it were written before the forward', async () => {
    await assert.rejects(
      fc.assert(
        fc.asyncProperty(seeds, moments, (seed, moment) => primaryDies(seed, moment, true)),
        {
          // It ends with the first that fails, one in forty.
          numRuns: 1500,
          endOnFailure: true,
        },
      ),
      (error: Error) => /is not dirty|differs after the resync|The target differs/.test(String(error.cause)),
    );
  });

  it('by the death of the secondary, or of its machine', async () => {
    await fc.assert(
      fc.asyncProperty(seeds, moments, fc.boolean(), async (seed, moment, powerLoss) => {
        await secondaryDies(await Pair.start(seed), moment, powerLoss);
      }),
      { numRuns: 40 },
    );
  });

  it('by a failed write on either side, after which only the primary can go on', async () => {
    await fc.assert(
      fc.asyncProperty(seeds, moments, fc.boolean(), fc.nat(10), async (seed, moment, ours, skip) => {
        const pair = await Pair.start(seed);
        (ours ? pair.diskFaults : pair.secondaryFaults).add({ op: 'write', skip, times: 2 });
        await secondaryDies(pair, moment, false);
      }),
      { numRuns: 30 },
    );
  });
});
