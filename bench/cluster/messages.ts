/** What the simulation's processes say to each other over Node's IPC. Times: milliseconds of the machine's monotonic clock. */
import type { RecordId } from '../../src/ha/arbiter/arbiter.ts';

export interface SimOptions {
  readonly hosts: number;
  readonly vms: number;
  readonly rackSize: number;
  readonly workers: number;
  readonly members: number;
  readonly steadySeconds: number;
  readonly vmMemoryMiB: number;
  readonly hostMemoryMiB: number;
  /** Drawn evenly: a resync after the rack is lost. */
  readonly resyncMs: readonly [number, number];
  /** Drawn evenly: until a survivor suspects its peer. */
  readonly detectMs: readonly [number, number];
  readonly deadlineMs: number;
  readonly attemptMs: number;
}

/** Between two hosts, about one VM. */
export type PeerMessage =
  | { readonly kind: 'join'; readonly memoryMiB: number; readonly id: number }
  | { readonly kind: 'joined'; readonly id: number; readonly isTaken: boolean }
  | { readonly kind: 'checkpoint'; readonly pairing: RecordId }
  | { readonly kind: 'confirmed' };

export interface Envelope {
  readonly type: 'peer';
  readonly to: number;
  readonly from: number;
  readonly vm: string;
  readonly message: PeerMessage;
}

export type ToWorker =
  | {
      readonly type: 'start';
      readonly worker: number;
      readonly options: SimOptions;
      readonly endpoints: readonly string[];
    }
  | { readonly type: 'kill'; readonly hosts: readonly number[] }
  | { readonly type: 'measure' }
  | { readonly type: 'stop' }
  | Envelope;

export type ToMain =
  | { readonly type: 'started' }
  | {
      readonly type: 'told';
      readonly vm: string;
      readonly host: number;
      readonly what: 'speaks' | 'protected' | 'unprotected';
      readonly atMs: number;
      readonly resyncMs: number;
    }
  | { readonly type: 'measured'; readonly load: Load }
  | { readonly type: 'trouble'; readonly text: string }
  | Envelope;

/** Counted since the start, by one worker. */
export interface Load {
  readonly requests: number;
  readonly bytesOut: number;
  readonly bytesIn: number;
  readonly hints: number;
  readonly failures: number;
  readonly cpuMs: number;
}

export const nowMs = (): number => Number(process.hrtime.bigint()) / 1e6;
export const hostName = (at: number): string => `h${String(at).padStart(4, '0')}`;
export const hostIndex = (name: string): number => Number(name.slice(1));
export const between = ([low, high]: readonly [number, number]): number => low + Math.random() * (high - low);
export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
