/**
 * The messages between a V86Engine and its worker. Buffers are transferred, never cloned. A MessagePort keeps order, and
 * the engine relies on it: frames that the guest sent before a pause arrive before that pause's reply.
 */
import type { V86Shape } from './options.ts';

/** Frames that may wait, in the worker and on the way to it (each way). */
export const MAX_WAITING_FRAMES = 4096;
export const MAX_WAITING_FRAME_BYTES = 8 * 1024 * 1024;
/** 1500 bytes of payload, the header and a VLAN tag. */
export const MAX_FRAME_BYTES = 1522;
export const MAX_WAITING_SERIAL_BYTES = 1024 * 1024;

/** Slots of the shared counters (Int32Array): how much the other side has taken, so that each side can bound its own. */
export const SLOT_WORKER_TOOK_FRAMES = 0;
export const SLOT_MAIN_TOOK_MESSAGES = 1;
export const SLOT_WORKER_DROPPED_FRAMES = 2;
export const SLOT_COUNT = 3;

/** The worker's `workerData`. */
export interface WorkerStart {
  readonly shape: V86Shape;
  readonly bios: Uint8Array;
  readonly vgaBios: Uint8Array;
  readonly rtcBaseMs: number;
  readonly onGuestReset: 'reboot' | 'pause';
  readonly counters: SharedArrayBuffer;
}

export interface WireSnapshot {
  readonly ram: Uint8Array;
  readonly device: Uint8Array;
  readonly pages: number;
}

export type Command =
  | { readonly kind: 'pause' }
  | { readonly kind: 'resume'; readonly lateMs: number }
  | { readonly kind: 'reset' }
  | { readonly kind: 'capture'; readonly full: boolean; readonly ramOnly: boolean }
  | { readonly kind: 'load'; readonly snapshots: readonly WireSnapshot[] };

export type ToWorker =
  | { readonly kind: 'command'; readonly id: number; readonly command: Command }
  | { readonly kind: 'frame'; readonly nic: number; readonly data: Uint8Array }
  | { readonly kind: 'serial'; readonly data: Uint8Array }
  /** `data` for a read that succeeded. */
  | {
      readonly kind: 'diskDone';
      readonly id: number;
      readonly ok: boolean;
      readonly data: Uint8Array | null;
    };

export interface Reply {
  /** A capture's result. */
  readonly snapshot?: WireSnapshot;
  /** The NICs' addresses after a load. */
  readonly macs?: readonly Uint8Array[];
}

export interface WireError {
  readonly message: string;
  /** The peer's data was at fault, not this engine. */
  readonly isProtocolError: boolean;
}

/** `probe`: a read before the guest runs; a disk that cannot be read yet is no error then. */
export type DiskOp = 'read' | 'write' | 'flush' | 'probe';

export type FromWorker =
  | { readonly kind: 'ready'; readonly buildId: string }
  | { readonly kind: 'reply'; readonly id: number; readonly error: WireError | null; readonly reply: Reply }
  | { readonly kind: 'frame'; readonly nic: number; readonly data: Uint8Array }
  | { readonly kind: 'serial'; readonly data: Uint8Array }
  | {
      readonly kind: 'disk';
      readonly id: number;
      readonly disk: number;
      readonly op: DiskOp;
      readonly offset: number;
      readonly length: number;
      readonly data: Uint8Array | null;
    }
  | {
      readonly kind: 'shutdown';
      readonly reason: 'guest-shutdown' | 'guest-reset';
      readonly isPaused: boolean;
    }
  | { readonly kind: 'failed'; readonly message: string }
  | { readonly kind: 'log'; readonly text: string };
