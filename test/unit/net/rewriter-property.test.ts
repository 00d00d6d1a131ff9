/**
 * Random conversations, checkpoints, failovers and new secondaries: see rewriter-model.ts. Longer with COLO_FUZZ.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { CARRIER_NAMES } from './carriers.ts';
import type { Action } from './rewriter-model.ts';
import { Model } from './rewriter-model.ts';

const RUNS = 150 * Number(process.env['COLO_FUZZ'] ?? 1);

/** Small, good enough, and repeated by its seed. */
function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

test('whatever happens, the client hears its numbers and each guest its own', async () => {
  let moved = 0;
  let failovers = 0;
  const action = fc.tuple(fc.nat(999), fc.nat(999), fc.nat(999)) as fc.Arbitrary<Action>;
  await fc.assert(
    fc.asyncProperty(
      fc.array(action, { minLength: 20, maxLength: 120 }),
      fc.nat(),
      fc.shuffledSubarray(CARRIER_NAMES, { minLength: 1, maxLength: 3 }),
      async (actions, seed, carriers) => {
        const model = new Model(carriers, randomOf(seed));
        await model.run(actions);
        moved += model.moved;
        failovers += model.failovers;
      },
    ),
    { numRuns: RUNS },
  );
  assert.ok(moved > RUNS / 3 && failovers > RUNS / 2, `${moved} frames moved, ${failovers} failovers`);
});
