/** A ColoCompare on chardevs in memory, with a clock of the test's own. */
import { ColoCompare } from '../../../src/net/compare/compare.ts';
import type { CheckpointReason, ColoCompareOptions } from '../../../src/net/compare/options.ts';
import type { StreamMark } from '../../../src/base/participant.ts';
import { MemoryChardev, joined } from './memory-chardev.ts';

export interface Rig {
  readonly compare: ColoCompare;
  readonly primary: MemoryChardev;
  readonly secondary: MemoryChardev;
  readonly out: MemoryChardev;
  readonly requests: CheckpointReason[];
  readonly clock: { ms: number };
  /** Frames released since the last call. */
  released(): Uint8Array[];
  /** A whole checkpoint, cut where both sides have been read. */
  checkpoint(): Promise<void>;
  secondaryMark(bytes?: number): StreamMark[];
}

export function makeRig(options: Partial<ColoCompareOptions> = {}): Rig {
  const [, primary] = joined('compare0', 'compare0-0');
  const [, secondary] = joined('red1', 'compare1');
  const out = new MemoryChardev('compare_out0');
  const requests: CheckpointReason[] = [];
  const clock = { ms: 0 };
  const compare = new ColoCompare('comp0', {
    primaryIn: primary,
    secondaryIn: secondary,
    outdev: out,
    now: () => clock.ms,
    // The scans are the test's to call.
    expiredScanCycleMs: 1_000_000,
    ...options,
  });
  compare.onCheckpointRequest = (reason) => requests.push(reason);
  let seen = 0;
  const rig: Rig = {
    compare,
    primary,
    secondary,
    out,
    requests,
    clock,
    released() {
      const frames = out.frames(options.vnetHdrSupport ?? false);
      const fresh = frames.slice(seen);
      seen = frames.length;
      return fresh;
    },
    secondaryMark: (bytes = secondary.bytesIn) => [{ stream: 'red1:1>compare1:2', bytes }],
    async checkpoint() {
      compare.stopped('primary');
      await compare.peerMarks('primary', rig.secondaryMark());
      compare.resumed('primary');
      await compare.commit('primary');
    },
  };
  return rig;
}

/** Runs with a rig and closes its comparer. */
export async function withRig(
  run: (rig: Rig) => Promise<void> | void,
  options: Partial<ColoCompareOptions> = {},
): Promise<void> {
  const rig = makeRig(options);
  try {
    await run(rig);
  } finally {
    rig.compare.close();
  }
}
