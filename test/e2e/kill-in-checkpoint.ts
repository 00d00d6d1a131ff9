/** SIGKILL for one side of a pair at a random moment while checkpoints follow one another; then the failover lines. */
import assert from 'node:assert/strict';
import type { Member, PairRig } from './pair-rig.ts';
import { STEP_MS } from './pair-rig.ts';

/** Marsaglia's xorshift32: a seed tells the whole run. Returns numbers from 0 to below 1. */
export function random(seed: number): () => number {
  let state = seed | 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

export interface Murder {
  /** By the dice unless told. */
  readonly side?: 'primary' | 'secondary';
  /** Ends when the VM is gone; SIGKILL for its process unless told otherwise. */
  readonly kill?: (victim: Member) => Promise<void>;
}

/** Protects the guest, kills a side, types the survivor's lines, waits for the client. Returns what was done. */
export async function killInCheckpoint(
  rig: PairRig,
  next: () => number,
  { side = next() < 0.5 ? 'primary' : 'secondary', kill = ({ vm }) => vm.kill() }: Murder = {},
): Promise<string> {
  await rig.protect();
  const { qmp } = rig.primary.vm;
  // One checkpoint after the other: a random moment is nearly always inside of one.
  await qmp.execute('migrate-set-parameters', { 'x-checkpoint-delay': 0 });
  await rig.answered(5);
  const afterMs = next() * 200;
  const { count } = (await qmp.execute('query-colo-checkpoints')) as { count: number };
  await new Promise((resolve) => setTimeout(resolve, afterMs));
  const survivor = side === 'primary' ? rig.secondary! : rig.primary;
  const exit = survivor.vm.qmp.waitFor('COLO_EXIT', () => true, STEP_MS);
  await kill(side === 'primary' ? rig.primary : rig.secondary!);
  const killed = performance.now();
  assert.equal((await exit).data['reason'], 'error');
  if (side === 'primary') await rig.takeOver();
  else await rig.goOnAlone();
  await rig.answered(1);
  const ms = (performance.now() - killed).toFixed(0);
  await rig.answered(10);
  return `${side} killed ${afterMs.toFixed(1)} ms after checkpoint ${count}: the next answer came ${ms} ms later`;
}
