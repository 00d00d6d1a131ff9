/**
 * The engine under mirror and commit: copies what is dirty from a source to a target while the source is being
 * written, with several pieces in flight, until somebody says it is enough. What keeps it from losing anything is in
 * chunk-states.ts; how a range becomes pieces is in copy-plan.ts.
 *
 * Two ways to keep up with the guest. In the background: a write makes its chunks dirty; a guest that writes faster
 * than the target takes is slowed down (writer-throttle.ts), so that the lag stays bounded.
 * Write-blocking (active-writes.ts): a write goes to both disks before it ends. A request that makes no progress fails
 * after the stall time, and then nothing waits any more: a dead target ends the job, it does not hang the guest.
 */
import { Deferred, withDeadline } from '../../base/async.ts';
import { ColoError } from '../../base/errors.ts';
import type { BlockExtent } from '../driver.ts';
import type { BlockNode } from '../node.ts';
import { ActiveWrites } from './active-writes.ts';
import type { ChunkBitmap } from './chunk-bitmap.ts';
import { ChunkStates } from './chunk-states.ts';
import type { Claim } from './chunk-states.ts';
import { planItems } from './copy-plan.ts';
import type { CopyItem } from './copy-plan.ts';
import type { ErrorAction } from './job.ts';
import { PieceBuffers } from './piece-buffers.ts';
import { onSide, sideOf } from './piece-error.ts';
import type { RateLimit } from './rate-limit.ts';
import { WriteWatch } from './write-watch.ts';
import { WriterThrottle } from './writer-throttle.ts';

export const DEFAULT_GRANULARITY_BYTES = 64 * 1024;
/** Largest piece that is read and written at once. */
const PIECE_BYTES = 1024 * 1024;
const MAX_IN_FLIGHT = 16;
/** Memory for pieces in flight, unless buf-size says otherwise. More than this leaves the processor's caches. */
const DEFAULT_BUFFER_BYTES = 4 * 1024 * 1024;
const MAX_BUFFER_BYTES = MAX_IN_FLIGHT * PIECE_BYTES;
/** Block status is asked for this much at once. */
const STATUS_BYTES = 64 * 1024 * 1024;
/** Longest request that writes zeros. */
const ZERO_BYTES = 16 * 1024 * 1024;
/** Three bitmaps of so many bits are kept. */
export const MAX_CHUNKS = 2 ** 28;
/** Once caught up, writers wait while more than this is dirty. */
const MAX_LAG_BYTES = 4 * 1024 * 1024;
/** Near enough; more than the limit above, at which a guest that never pauses keeps it. */
const NEAR_BYTES = 2 * MAX_LAG_BYTES;
const DEFAULT_STALL_MS = 30_000;
/** A request whose error is ignored is tried again after this time. */
const RETRY_MS = 100;

export interface DiskCopierOptions {
  readonly source: BlockNode;
  readonly target: BlockNode;
  /** What a range consists of; extents that are not `allocated` are skipped. */
  readonly extents: (offset: number, length: number) => Promise<BlockExtent[]>;
  /** True: zeros are not written where the target says that it reads as zeros there. */
  readonly trustTargetZeros?: boolean;
  /** False: zeros are written so that their space stays allocated. Default true. */
  readonly unmap?: boolean;
  readonly writeBlocking?: boolean;
  /** A power of two. */
  readonly granularityBytes?: number;
  /** Bounds the memory of the pieces in flight. */
  readonly bufferBytes?: number;
  readonly limit: RateLimit;
  readonly signal: AbortSignal;
  /** Waits while the job is paused; throws when it is broken off. */
  readonly checkpoint: () => Promise<void>;
  readonly isPaused: () => boolean;
  readonly onError: (operation: 'read' | 'write', error: unknown) => ErrorAction;
  /** A request that takes longer than this counts as failed, in milliseconds. */
  readonly stallMs?: number;
}

export class DiskCopier {
  readonly states: ChunkStates;
  readonly #options: DiskCopierOptions;
  readonly #stallMs: number;
  readonly #buffers: PieceBuffers;
  readonly #bufferBytes: number;
  readonly #active: ActiveWrites | null;
  readonly #throttle = new WriterThrottle({
    isDue: () => this.#throttles(),
    changed: () => this.#changed(),
    wake: () => this.wake(),
  });
  #watch: WriteWatch | null = null;
  #stopRepeating: (() => void) | null = null;
  /** Planned and not begun. */
  #queue: { readonly item: CopyItem; readonly claim: Claim }[] = [];
  /** Writers are no longer slowed down: their end is being waited for. */
  #holding = false;
  #cursor = 0;
  #firstPassDone = false;
  /** The first pass is over and found chunks that were written again. */
  #wrapped = false;
  #inFlight = 0;
  /** Of the buffers that pieces in flight hold. */
  #inFlightBytes = 0;
  #copiedBytes = 0;
  #failure: { readonly error: unknown } | null = null;
  /** Made only when somebody waits. */
  #change: Deferred<void> | null = null;

  constructor(options: DiskCopierOptions) {
    const { source, target, signal } = options;
    this.#options = options;
    this.#stallMs = options.stallMs ?? DEFAULT_STALL_MS;
    const granularity = options.granularityBytes ?? defaultGranularity(source.lengthBytes);
    this.states = new ChunkStates(source.lengthBytes, granularity);
    const wanted = Math.min(options.bufferBytes ?? DEFAULT_BUFFER_BYTES, MAX_BUFFER_BYTES);
    const pieceBytes = Math.min(PIECE_BYTES, Math.ceil(wanted / granularity) * granularity);
    this.#buffers = new PieceBuffers(pieceBytes, granularity);
    this.#bufferBytes = Math.max(wanted, pieceBytes);
    this.#active = options.writeBlocking
      ? new ActiveWrites({
          states: this.states,
          target,
          unmap: options.unmap ?? true,
          isOff: () => this.#watch === null || this.#failure !== null || signal.aborted,
          isPaused: options.isPaused,
          changed: () => this.#changed(),
          wake: () => this.wake(),
          bounded: (work) => this.bounded(work, 'write of a block job'),
          onError: (error) => this.#failed('write', error),
          onCopied: (bytes) => (this.#copiedBytes += bytes),
        })
      : null;
    signal.addEventListener('abort', () => this.wake(), { once: true });
  }

  get dirty(): ChunkBitmap {
    return this.states.dirty;
  }

  /** Nothing is left to copy and nothing is being copied. */
  get caughtUp(): boolean {
    return this.states.dirty.count === 0 && this.#queue.length === 0 && this.#inFlight === 0;
  }

  /** What was dirty at first has been taken up, and a writer keeps the rest from vanishing, but it is little. */
  get nearlyCaughtUp(): boolean {
    return this.#active === null && this.#wrapped && this.states.waitingBytes <= NEAR_BYTES;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  progress(): { readonly offset: number; readonly len: number } {
    return { offset: this.#copiedBytes, len: this.#copiedBytes + this.states.restBytes };
  }

  /** Begins to notice the source's writes. To be called before the dirty bits are first set. */
  attach(): void {
    const active = this.#active;
    const { source } = this.#options;
    this.#watch ??= new WriteWatch(source, {
      guard: (offset, length) => (active ? active.enter(offset, length) : this.#throttle.pass()),
      ended: (offset, length) => {
        if (active?.leave(offset, length) !== true) this.states.dirty.setRange(offset, length);
        this.wake();
      },
    });
    if (active) {
      this.#stopRepeating ??= source.onRepeatWrite((offset, length, bytes) =>
        active.repeat(offset, length, bytes),
      );
    }
  }

  detach(): void {
    this.#watch?.detach();
    this.#watch = null;
    this.#stopRepeating?.();
    this.#stopRepeating = null;
    this.#buffers.release();
    this.wake();
  }

  /** No writer is slowed down any more. */
  letWritersPass(): void {
    this.#holding = true;
    this.wake();
  }

  /** Keeps new writes of the source waiting; resolves when those in flight have ended. Throws after the stall time. */
  async holdWrites(): Promise<void> {
    this.letWritersPass();
    if (this.#watch) await this.bounded(this.#watch.hold(), `Writes to '${this.#options.source.nodeName}'`);
  }

  /** Makes `copyUntil` look again. */
  wake(): void {
    const change = this.#change;
    this.#change = null;
    change?.resolve();
  }

  /** `work`, or an error when it takes longer than the stall time or the job is broken off. */
  bounded<T>(work: Promise<T>, what: string): Promise<T> {
    return withDeadline(work, this.#stallMs, what, this.#options.signal);
  }

  /** Marks dirty what the chain from `top` down to `base` has allocated. */
  async markAllocated(status: (offset: number, length: number) => Promise<BlockExtent[]>): Promise<void> {
    const end = this.#options.source.lengthBytes;
    for (let offset = 0; offset < end; offset += STATUS_BYTES) {
      await this.#options.checkpoint();
      for (const extent of await status(offset, Math.min(STATUS_BYTES, end - offset))) {
        if (extent.allocated) this.states.dirty.setRange(extent.offset, extent.length);
      }
    }
  }

  /** Copies until `enough` says so (asked after every change). Throws the first error, once no copy is in flight. */
  async copyUntil(enough: () => boolean): Promise<void> {
    const { limit, signal } = this.#options;
    try {
      for (;;) {
        // A paused job has nothing taken up, so that writes of the guest find their chunks free.
        if (this.#options.isPaused()) this.#giveBackQueue();
        await this.#options.checkpoint();
        if (this.#failure !== null || enough()) break;
        if (this.#startNext()) continue;
        // Taken before waiting for the limit: what changes meanwhile must not be missed.
        const change = this.#changed();
        if (!limit.free) await limit.wait(signal);
        else if (!signal.aborted) await change;
      }
    } finally {
      if (this.#failure !== null || signal.aborted) {
        this.#giveBackQueue();
        while (this.#inFlight > 0) await this.#changed();
      }
    }
    if (this.#failure !== null) throw this.#failure.error;
  }

  /** Begins one more piece, or asks what comes next; false when there is nothing to do or no room. */
  #startNext(): boolean {
    if (!this.#options.limit.free || this.#inFlight >= MAX_IN_FLIGHT) return false;
    const next = this.#queue[0];
    if (next !== undefined) {
      const { item, claim } = next;
      const bytes = item.dataBytes === 0 ? 0 : this.#buffers.sizeFor(item.dataBytes);
      if (this.#inFlightBytes + bytes > this.#bufferBytes) return false;
      this.#queue.shift();
      if (this.states.begin(claim, item)) void this.#copy(item);
      return true;
    }
    if (this.states.claimed.count * this.states.chunkBytes >= STATUS_BYTES) return false;
    const most = Math.max(1, Math.floor(STATUS_BYTES / this.states.chunkBytes));
    const claim = this.states.claim(this.#cursor, most);
    if (claim === null || claim.first < this.#cursor) this.#firstPassDone = true;
    if (claim === null) return false;
    this.#wrapped ||= this.#firstPassDone;
    this.#cursor = claim.end;
    void this.#plan(claim);
    return true;
  }

  async #plan(claim: Claim): Promise<void> {
    const { states } = this;
    this.#inFlight++;
    try {
      const extents = this.#options.extents(states.offsetOf(claim.first), states.bytesOf(claim));
      const items = planItems(claim, await this.#side('read', extents), {
        chunkBytes: states.chunkBytes,
        lengthBytes: states.lengthBytes,
        pieceChunks: Math.max(1, Math.floor(this.#buffers.pieceBytes / states.chunkBytes)),
        zeroChunks: Math.max(1, Math.floor(ZERO_BYTES / states.chunkBytes)),
      });
      for (const item of items) this.#queue.push({ item, claim });
    } catch (error) {
      states.giveBack(claim);
      await this.#pieceFailed(error);
    }
    this.#inFlight--;
    this.wake();
  }

  async #copy(item: CopyItem): Promise<void> {
    this.#inFlight++;
    let copied = false;
    try {
      for (const extent of item.extents) {
        if (extent.zero) await this.#copyZeros(extent.offset, extent.length);
        else await this.#copyData(extent.offset, extent.length);
      }
      copied = true;
    } catch (error) {
      await this.#pieceFailed(error);
    }
    this.states.end(item, copied);
    if (copied) this.#copiedBytes += this.states.bytesOf(item);
    this.#inFlight--;
    this.wake();
  }

  async #copyData(offset: number, length: number): Promise<void> {
    const buffer = this.#buffers.take(length);
    this.#inFlightBytes += buffer.byteLength;
    try {
      await this.#copyThrough(buffer, offset, length);
    } finally {
      this.#inFlightBytes -= buffer.byteLength;
    }
    // After a failure it is dropped: a request that is stuck may still use it.
    this.#buffers.give(buffer);
  }

  async #copyThrough(buffer: Uint8Array, offset: number, length: number): Promise<void> {
    const { source, target, limit } = this.#options;
    for (let done = 0; done < length; done += buffer.byteLength) {
      const bytes = Math.min(buffer.byteLength, length - done);
      const piece = bytes === buffer.byteLength ? buffer : buffer.subarray(0, bytes);
      limit.spend(bytes);
      await this.#side('read', source.read(offset + done, piece));
      await this.#side('write', target.write(offset + done, piece));
    }
  }

  async #copyZeros(offset: number, length: number): Promise<void> {
    const { target, trustTargetZeros } = this.#options;
    const flags = { unmap: this.#options.unmap ?? true };
    if (trustTargetZeros !== true) {
      await this.#side('write', target.writeZeroes(offset, length, flags));
      return;
    }
    for (const there of await this.#side('write', target.blockStatus(offset, length))) {
      if (!there.zero) await this.#side('write', target.writeZeroes(there.offset, there.length, flags));
    }
  }

  #side<T>(operation: 'read' | 'write', work: Promise<T>): Promise<T> {
    return onSide(operation, this.bounded(work, `${operation} of a block job`));
  }

  async #pieceFailed(thrown: unknown): Promise<void> {
    const { operation, error } = sideOf(thrown);
    // What failed is as good as never copied: the first pass begins anew.
    this.#cursor = 0;
    this.#firstPassDone = false;
    this.#wrapped = false;
    if (this.#failed(operation, error) !== 'ignore') return;
    // Not at once, or a disk that fails all the time would be asked all the time.
    await this.bounded(new Promise((resolve) => setTimeout(resolve, RETRY_MS)), 'a retry').catch(
      () => undefined,
    );
  }

  #failed(operation: 'read' | 'write', error: unknown): ErrorAction {
    const action = this.#options.signal.aborted ? 'report' : this.#options.onError(operation, error);
    if (action === 'report') this.#failure ??= { error };
    return action;
  }

  #giveBackQueue(): void {
    for (const { item, claim } of this.#queue) this.states.giveBack(claim, item);
    this.#queue = [];
  }

  #changed(): Promise<void> {
    this.#change ??= new Deferred<void>();
    return this.#change.promise;
  }

  #throttles(): boolean {
    const due = this.#firstPassDone && this.states.waitingBytes > MAX_LAG_BYTES;
    return due && this.#watch !== null && !this.#holding && this.#failure === null;
  }
}

/** 64 KiB, or what a very large disk needs to be within MAX_CHUNKS. */
function defaultGranularity(lengthBytes: number): number {
  let granularity = DEFAULT_GRANULARITY_BYTES;
  while (lengthBytes / granularity > MAX_CHUNKS) granularity *= 2;
  return granularity;
}

/** Throws when a copy between the two cannot be whole. */
export function requireSameLength(source: BlockNode, target: BlockNode): void {
  if (source.lengthBytes !== target.lengthBytes) {
    throw new ColoError('Source and target image have different sizes');
  }
}
