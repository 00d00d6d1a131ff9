/** What a controller's state looks like to people: a pure function. */
import type { CheckpointView, CopyRole, VmEntry, VmView } from '../ha/index.ts';
import type { Life } from '../ha/life/life.ts';
import type { Phase, Side } from '../ha/side.ts';
import { displayOf, type VmSpec } from '../ha/spec/vm-spec.ts';

export const ROLES: Readonly<Record<Phase, CopyRole>> = {
  idle: 'idle',
  reading: 'starting',
  joining: 'joining',
  secondary: 'secondary',
  primary: 'primary',
  arming: 'alone',
  pairing: 'primary',
  asking: 'idle',
  alone: 'alone',
  stopping: 'idle',
};

export interface CopyState {
  readonly host: string;
  readonly spec: VmSpec;
  readonly side: Side;
  readonly life: Life;
  /** Of the record that this host spoke under last, or may start under. */
  readonly lastEpoch: number;
  readonly pid: number | null;
  readonly entry: VmEntry | null;
  /** With the arbiter, with a disk. */
  readonly troubles: readonly string[];
  readonly protecting: {
    readonly target: string;
    readonly progress: { readonly doneBytes: number; readonly totalBytes: number } | undefined;
  } | null;
  readonly checkpoints: CheckpointView | undefined;
  readonly lastFailover: VmView['lastFailover'];
}

export function viewOf(state: CopyState): VmView {
  const { host, spec, life, pid, entry, troubles, protecting, checkpoints, lastFailover } = state;
  const { phase, peer, known } = state.side;
  const isFollower = phase === 'secondary' || phase === 'joining';
  const resync = protecting?.progress;
  return {
    version: 1,
    name: spec.name,
    state: life.state,
    reason: [life.reason, ...troubles].join('; '),
    sinceMs: life.sinceMs,
    epoch: known?.epoch ?? state.lastEpoch,
    primary: isFollower ? peer : pid === null ? null : host,
    secondary: isFollower ? host : phase === 'primary' || phase === 'pairing' ? peer : null,
    copies: [
      { host, role: ROLES[phase], pid },
      ...(protecting && resync
        ? [{ host: protecting.target, role: 'joining' as const, pid: null, resync }]
        : []),
    ],
    isWanted: entry?.isWanted ?? false,
    isPaused: entry?.isPaused ?? false,
    memoryMiB: spec.memoryMiB,
    engine: spec.engine,
    display: displayOf(spec),
    ...(checkpoints ? { checkpoints } : {}),
    ...(lastFailover ? { lastFailover } : {}),
  };
}
