/**
 * What the cluster tells about itself: to people (`colo status`, `events`), to other hosts (the registry), to Prometheus.
 * Plain JSON; a reader ignores members that it does not know.
 */
import type { VmSpec } from './spec/vm-spec.ts';

export const VIEW_VERSION = 1;

/** The life of a VM, as the host tells it that speaks for it. docs/states/life.md. */
export const VM_STATES = [
  /** Nobody is asked to run it. */
  'down',
  /** The guest is being started from its disks. */
  'starting',
  /** Runs on one host; its loss would be felt. */
  'unprotected',
  /** A second host has been chosen; the disks are being copied. */
  'syncing',
  /** The first checkpoint is on its way. */
  'protecting',
  'protected',
  /** The other copy is silent, though its host says that it lives: a short cut of the link is waited out. */
  'suspect',
  /** Somebody died or disagreed; the arbiter is being asked. */
  'dissolving',
  /** The last try at protection failed: the next one waits for its time. */
  'backing-off',
  /** Wants to run and may not: no member's disk is here, or the arbiter is out of reach at the start. */
  'blocked',
  'stopping',
] as const;
export type VmState = (typeof VM_STATES)[number];

export type CopyRole = 'alone' | 'primary' | 'secondary' | 'joining' | 'starting' | 'idle';

/** One copy on one host. */
export interface CopyView {
  readonly host: string;
  readonly role: CopyRole;
  readonly pid: number | null;
  /** Disk bytes that a resync still has to copy, and of how many. */
  readonly resync?: { readonly doneBytes: number; readonly totalBytes: number };
}

export interface VmView {
  readonly version: typeof VIEW_VERSION;
  readonly name: string;
  readonly state: VmState;
  /** Why it is in this state, one sentence. */
  readonly reason: string;
  /** Since when, milliseconds since 1970 by the host's clock. For people: nothing decides by it. */
  readonly sinceMs: number;
  /** Of the arbiter's record; 0: there is none yet. */
  readonly epoch: number;
  /** Host of the copy that is heard, or of the primary. */
  readonly primary: string | null;
  readonly secondary: string | null;
  readonly copies: readonly CopyView[];
  readonly isWanted: boolean;
  /** Automatic actions are suspended. */
  readonly isPaused: boolean;
  readonly memoryMiB: number;
  readonly engine: string;
  /** `vnc`: its copies have screens to look at. */
  readonly display?: 'vnc' | 'none';
  readonly checkpoints?: CheckpointView;
  readonly lastFailover?: {
    readonly atMs: number;
    readonly from: string;
    readonly to: string;
    readonly reason: string;
  };
}

export interface CheckpointView {
  readonly count: number;
  readonly perSecond: number;
  readonly byCause: Readonly<Record<string, number>>;
  /** Of the newest checkpoint, milliseconds. */
  readonly lastPauseMs: number | null;
  readonly lastAtMs: number | null;
}

export interface HostView {
  readonly version: typeof VIEW_VERSION;
  readonly name: string;
  /** `host:port` of its API, and of its heartbeats. */
  readonly api: string;
  readonly heartbeat: string;
  readonly software: string;
  /** Its registration is kept up. */
  readonly isAlive: boolean;
  /** Nothing new is placed there. */
  readonly isInMaintenance: boolean;
  readonly memoryMiB: number;
  readonly freeMemoryMiB: number;
  readonly vms: { readonly primary: number; readonly secondary: number };
  /** `rack=r7` and the like, for whoever spreads. */
  readonly labels?: Readonly<Record<string, string>>;
}

/** One line of `colo events`. */
export interface HaEvent {
  readonly version: typeof VIEW_VERSION;
  /** Of one host's daemon, counting up from 1 over its restarts. */
  readonly sequence: number;
  /** ISO 8601, UTC. */
  readonly time: string;
  readonly host: string;
  readonly vm?: string;
  /** `state`: `from` and `to` are states. Others: see docs/events.md. */
  readonly type: string;
  readonly from?: VmState;
  readonly to?: VmState;
  readonly reason: string;
  readonly data?: Readonly<Record<string, unknown>>;
}

/** What a VM is kept as in the registry: written by whoever is told `up`, `down`, `pause`. */
export interface VmEntry {
  readonly version: typeof VIEW_VERSION;
  readonly spec: VmSpec;
  readonly isWanted: boolean;
  readonly isPaused: boolean;
  /** The host that makes the first record of the VM and starts it. */
  readonly home: string;
  /** A person's wish, cleared when it has been done: the primary, or the secondary, is to be on that host. */
  readonly wish?: { readonly kind: 'failover' | 'migrate'; readonly to?: string; readonly id: string };
}

/** One reason why a VM cannot be started or protected; `colo check`. */
export interface Finding {
  readonly severity: 'error' | 'warning';
  /** Host that found it, or null: the file itself. */
  readonly host: string | null;
  /** `disks[0].image`, … */
  readonly path: string;
  readonly message: string;
}
