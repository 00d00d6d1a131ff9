/**
 * `colo-ft/compare`: COLO's packet comparison without a VM around it. Two machines that are to say the same send their
 * Ethernet frames; a frame of the primary is let out when the secondary has said its like, and a checkpoint is asked for
 * when the two differ or one is late. What is compared with what: docs/compare.md.
 *
 * Frames are those of docs/qemu-behaviour.md 1.1: without FCS, up to 69,632 bytes. Times are milliseconds.
 */
import { ColoError, ParameterError } from '../base/errors.ts';
import { classify } from '../net/compare/classify.ts';
import { Comparison } from '../net/compare/comparison.ts';
import type { CheckpointCause, CheckpointReason, FirstDifference } from '../net/compare/comparer.ts';
import { HeldPacket } from '../net/compare/held-packet.ts';
import {
  DEFAULT_COMPARE_TIMEOUT_MS,
  DEFAULT_EXPIRED_SCAN_CYCLE_MS,
  DEFAULT_MAX_QUEUE_SIZE,
  MAX_HELD_BYTES,
  emptyStats,
} from '../net/compare/options.ts';
import { MAX_FRAME_BYTES } from '../net/framing.ts';
import { PacketView } from '../net/packet.ts';

export type { CheckpointCause, FirstDifference } from '../net/compare/comparer.ts';
export { encodeFrame, readFrames } from './frames.ts';
export type { Frame, ReadFramesOptions } from './frames.ts';
export * from './errors.ts';

/** Why a checkpoint is needed. */
export interface CheckpointNeed {
  /** What led to it. */
  readonly cause: CheckpointCause;
  /** `protocol/source:port>destination:port`, or a word in parentheses when it is about no single flow. */
  readonly flow: string;
  /** When two bytes were found to differ. */
  readonly difference: FirstDifference | null;
}

/** Two callbacks, and bounds. Times are milliseconds, memory is bytes. */
export interface PacketComparerOptions {
  /**
   * Lets a frame of the primary out. `frame` (with the `vnetHdrLen` bytes in front that it came with) is valid during the
   * call only.
   */
  readonly onRelease: (frame: Uint8Array, vnetHdrLen: number) => void;
  /** Called once, and again only after a checkpoint, or when a scan finds that none has come. */
  readonly onCheckpointNeeded: (need: CheckpointNeed) => void;
  /** How long a frame may wait for its like before a checkpoint is needed: 1 or more, default 3000. */
  readonly compareTimeoutMs?: number;
  /** Time between two scans for what is late: 1 or more, default 1000. */
  readonly scanIntervalMs?: number;
  /** Frames held of each side of one connection: 1 or more, default 1024. */
  readonly maxQueueSize?: number;
  /** Memory for what is held of both sides, over all connections: default 64 MiB. */
  readonly maxHeldBytes?: number;
}

/** Counters from the beginning on, of frames unless they say otherwise. */
export interface PacketComparerStats {
  /** Handed in by `fromPrimary`. */
  readonly primaryIn: number;
  /** Handed in by `fromSecondary`. */
  readonly secondaryIn: number;
  /** Let out because the secondary said the same. */
  readonly released: number;
  /** Let out because a checkpoint covers them. */
  readonly releasedByCheckpoint: number;
  /** Dropped because a bound was reached; a checkpoint is asked for then. */
  readonly droppedPrimary: number;
  /** The same of the secondary's. */
  readonly droppedSecondary: number;
  /** Secondary frames that came while a checkpoint was taken. */
  readonly stale: number;
  /** Differences that were found. */
  readonly mismatches: number;
  /** Times that a scan has found something that waited too long. */
  readonly timeouts: number;
  /** Checkpoints asked for. */
  readonly requests: number;
}

/**
 * A checkpoint has two moments: `beginCheckpoint`, when both machines stand still and all that they said has been handed
 * in, and `commitCheckpoint`, when the secondary holds the primary's state. In between nothing is let out.
 *
 * No method may be called from within a callback. An error that a callback throws comes out of the method that called it.
 */
export class PacketComparer {
  readonly #options: PacketComparerOptions;
  readonly #stats = emptyStats();
  readonly #comparison: Comparison;
  readonly #view = new PacketView();
  readonly #packet = new HeldPacket();
  readonly #timeoutMs: number;
  readonly #timer: NodeJS.Timeout;
  #isBusy = false;
  #isClosed = false;
  #thrown: { readonly error: unknown } | null = null;

  /** Throws ParameterError. */
  constructor(options: PacketComparerOptions) {
    const atLeastOne = (name: string, value: number): number => {
      if (value >= 1 && Number.isFinite(value)) return value;
      throw new ParameterError(`${name} is ${value}: it has to be 1 or more`);
    };
    this.#options = options;
    this.#timeoutMs = atLeastOne('compareTimeoutMs', options.compareTimeoutMs ?? DEFAULT_COMPARE_TIMEOUT_MS);
    const scanMs = atLeastOne('scanIntervalMs', options.scanIntervalMs ?? DEFAULT_EXPIRED_SCAN_CYCLE_MS);
    this.#comparison = new Comparison(
      {
        stats: this.#stats,
        maxFlows: undefined,
        maxHeldBytes: atLeastOne('maxHeldBytes', options.maxHeldBytes ?? MAX_HELD_BYTES),
        release: (packet) => this.#release(packet),
        request: (reason) => this.#request(reason),
      },
      atLeastOne('maxQueueSize', options.maxQueueSize ?? DEFAULT_MAX_QUEUE_SIZE),
    );
    this.#timer = setInterval(() => this.scan(), scanMs);
    this.#timer.unref();
  }

  /** Frames of the primary that wait. */
  get heldFrames(): number {
    return this.#comparison.heldPackets;
  }

  /** A copy of the counters. */
  get stats(): PacketComparerStats {
    return { ...this.#stats };
  }

  /**
   * A frame that the primary sends; `frame` is the caller's again afterwards. `vnetHdrLen`: bytes of virtio-net header in
   * front of it. Throws ParameterError for a frame above 69,632 bytes.
   */
  fromPrimary(frame: Uint8Array, vnetHdrLen = 0): void {
    this.#enter();
    try {
      const packet = this.#parse(frame, vnetHdrLen);
      this.#stats.primaryIn++;
      this.#comparison.fromPrimary(this.#view, packet, false);
    } finally {
      this.#isBusy = false;
    }
    this.#rethrow();
  }

  /**
   * The same of the secondary. What comes while a checkpoint is taken is void: it is counted and dropped. Throws
   * ParameterError as above.
   */
  fromSecondary(frame: Uint8Array, vnetHdrLen = 0): void {
    this.#enter();
    try {
      const packet = this.#parse(frame, vnetHdrLen);
      this.#stats.secondaryIn++;
      if (this.#comparison.isOpen) this.#comparison.fromSecondary(this.#view, packet);
      else this.#stats.stale++;
    } finally {
      this.#isBusy = false;
    }
    this.#rethrow();
  }

  /** The epoch ends here: what waits will leave by the checkpoint, and what the secondary said is void. */
  beginCheckpoint(): void {
    this.#enter();
    this.#comparison.isOpen = false;
    this.#comparison.cut();
    this.#isBusy = false;
  }

  /** The secondary holds the checkpoint: what was said before it leaves. Throws ColoError when none was begun. */
  commitCheckpoint(): void {
    if (this.#comparison.isOpen) throw new ColoError('no checkpoint has been begun');
    this.#enter();
    try {
      const nowMs = performance.now();
      this.#comparison.cover(nowMs);
      this.#comparison.isOpen = true;
      this.#comparison.compareAll(nowMs);
    } finally {
      this.#isBusy = false;
    }
    this.#rethrow();
  }

  /** Asks for a checkpoint when something has waited too long. A timer calls it. */
  scan(): void {
    if (!this.#comparison.isOpen) return;
    this.#enter();
    try {
      this.#comparison.scan(performance.now() - this.#timeoutMs);
    } finally {
      this.#isBusy = false;
    }
    this.#rethrow();
  }

  /** What is held then is lost. Idempotent. */
  close(): void {
    if (this.#isClosed) return;
    this.#enter();
    this.#isClosed = true;
    clearInterval(this.#timer);
    this.#comparison.clear();
  }

  #enter(): void {
    if (this.#isClosed) throw new ColoError('the packet comparer is closed');
    if (this.#isBusy) throw new ColoError('the packet comparer was called from within its own callback');
    this.#isBusy = true;
  }

  #parse(frame: Uint8Array, vnetHdrLen: number): HeldPacket {
    if (frame.length > MAX_FRAME_BYTES)
      throw new ParameterError(`a frame of ${frame.length} bytes: the limit is ${MAX_FRAME_BYTES}`);
    if (!Number.isInteger(vnetHdrLen) || vnetHdrLen < 0)
      throw new ParameterError(`vnetHdrLen is ${vnetHdrLen}: it has to be a whole number from 0`);
    this.#view.parse(frame, vnetHdrLen, 0, frame.length);
    const packet = this.#packet.fill(frame, 0, frame.length, vnetHdrLen, this.#view);
    packet.atMs = performance.now();
    classify(this.#view, packet);
    return packet;
  }

  #release({ bytes, start, end, vnetHdrLen }: HeldPacket): void {
    try {
      this.#options.onRelease(bytes.subarray(start, end), vnetHdrLen);
    } catch (error) {
      this.#thrown ??= { error };
    }
  }

  #request({ cause, flow, difference }: CheckpointReason): void {
    try {
      this.#options.onCheckpointNeeded({ cause, flow, difference });
    } catch (error) {
      this.#thrown ??= { error };
    }
  }

  /** Only when the comparison is done with what it was doing. */
  #rethrow(): void {
    const thrown = this.#thrown;
    if (thrown === null) return;
    this.#thrown = null;
    throw thrown.error;
  }
}
