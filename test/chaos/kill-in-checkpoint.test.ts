/**
 * The long form of frozen-peer.test.ts's kills: COLO_CHAOS=N rounds (default 3), COLO_CHAOS_SEED for other moments.
 * A failure's message holds the seed and the round.
 */
import { test } from 'node:test';
import { killInCheckpoint, random } from '../e2e/kill-in-checkpoint.ts';
import { PairRig, skipWithoutGuest } from '../e2e/pair-rig.ts';

const rounds = Number(process.env['COLO_CHAOS'] ?? 3);
const seed = Number(process.env['COLO_CHAOS_SEED'] ?? 1);

test(
  `${rounds} kills inside of checkpoints, seed ${seed}`,
  { skip: skipWithoutGuest, timeout: 300_000 + rounds * 120_000 },
  async (t) => {
    const rig = await PairRig.boot();
    try {
      const next = random(seed);
      for (let round = 1; round <= rounds; round++) {
        await t.test(`round ${round}`, async (t) => t.diagnostic(await killInCheckpoint(rig, next)));
      }
      await rig.assertNothingLost();
    } finally {
      await rig.close();
    }
  },
);
