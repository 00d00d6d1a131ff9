/** A VM and its numbers as the dashboard's page gets them, for tests that need one with a few things changed. */
import type { PairPicture, VmPicture } from '../../src/dashboard/protocol.ts';
import type { CopyView } from '../../src/ha/views.ts';

export function vmPicture(changes: Partial<VmPicture> = {}): VmPicture {
  const primary = changes.primary === undefined ? 'alpha' : changes.primary;
  const secondary = changes.secondary === undefined ? 'beta' : changes.secondary;
  const copies: CopyView[] = [];
  if (primary !== null) copies.push({ host: primary, role: 'primary', pid: 1 });
  if (secondary !== null) copies.push({ host: secondary, role: 'secondary', pid: 2 });
  const screen = { serial: true, vnc: false };
  return {
    ...{ version: 1, name: 'web', state: 'protected', reason: 'both copies run', sinceMs: 0, epoch: 3 },
    ...{ isWanted: true, isPaused: false, memoryMiB: 128, engine: 'v86', actions: [] },
    ...{ primary, secondary, copies, screens: { primary: screen, secondary: screen }, ...changes },
  };
}

export const emptyPair = (vm: string): PairPicture => ({
  ...{ vm, atMs: 0, mirror: null, primaryOut: null, secondaryOut: null, released: null },
  ...{ held: null, replication: null, channel: null },
});

export const busyPair = (vm: string): PairPicture => {
  const flow = { framesPerSec: 120, bytesPerSec: 90_000 };
  return {
    ...{ vm, atMs: 0, mirror: flow, primaryOut: flow, secondaryOut: flow, released: flow },
    held: { packets: 2, bytes: 2512, p50Us: 400, p99Us: 12_000 },
    replication: { bytesPerSec: 204_800, writesPerSec: 50, inFlight: 3 },
    channel: { checkpointsPerSec: 0.5, bytesPerSec: 2_000_000, silentMs: 40 },
  };
};
