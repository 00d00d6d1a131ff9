/**
 * The engine under mirror and commit: copies what is dirty from a source to a target while the source is being
 * written, with several pieces in flight, until somebody says it is enough. Rules that make it lose nothing:
 * - a chunk's dirty bit is cleared before the source is read, and every write that ends sets it again, so a write
 *   that races with the copy is copied again;
 * - no chunk is copied twice at the same time, so an older copy never lands on a newer one.
 * A guest that writes faster than the target takes is slowed down (each write waits up to MAX_THROTTLE_MS), so that
 * the lag stays bounded. A piece that makes no progress fails: a dead target ends the job, it does not hang it.
 */
import { Deferred, withDeadline } from '../../base/async.ts';
import { ColoError } from '../../base/errors.ts';
import type { BlockExtent } from '../driver.ts';
import type { BlockNode } from '../node.ts';
import { ChunkBitmap } from './chunk-bitmap.ts';
import type { RateLimit } from './rate-limit.ts';
import { WriteWatch } from './write-watch.ts';

const CHUNK_BYTES = 64 * 1024;
const PIECE_CHUNKS = 16;
const MAX_IN_FLIGHT = 16;
/** Once caught up, writers wait while more than this is dirty. */
const MAX_LAG_BYTES = 4 * 1024 * 1024;
const MAX_THROTTLE_MS = 1000;
/** Near enough; more than the limit above, at which a guest that never pauses keeps it. */
const NEAR_BYTES = 2 * MAX_LAG_BYTES;
const DEFAULT_STALL_MS = 30_000;

export interface DiskCopierOptions {
  readonly source: BlockNode;
  readonly target: BlockNode;
  /** What a range consists of; extents that are not `allocated` are skipped. */
  readonly extents: (offset: number, length: number) => Promise<BlockExtent[]>;
  /** True: the target reads as zeros where nothing was copied yet, so zeros of the first pass are not written. */
  readonly targetIsZero?: boolean;
  readonly limit: RateLimit;
  readonly signal: AbortSignal;
  /** Waits while the job is paused; throws when it is broken off. */
  readonly checkpoint: () => Promise<void>;
  readonly onError: (operation: 'read' | 'write', error: unknown) => void;
  /** A request that takes longer than this counts as failed, in milliseconds. */
  readonly stallMs?: number;
}

export class DiskCopier {
  readonly dirty: ChunkBitmap;
  readonly #options: DiskCopierOptions;
  readonly #stallMs: number;
  readonly #busy: ChunkBitmap;
  #watch: WriteWatch | null = null;
  /** Writers are no longer slowed down: their end is being waited for. */
  #holding = false;
  #cursor = 0;
  #firstPassDone = false;
  /** The first pass is over and found chunks that were written again. */
  #wrapped = false;
  #inFlight = 0;
  #copiedBytes = 0;
  #failure: { readonly error: unknown } | null = null;
  #change = new Deferred<void>();

  constructor(options: DiskCopierOptions) {
    this.#options = options;
    this.#stallMs = options.stallMs ?? DEFAULT_STALL_MS;
    this.dirty = new ChunkBitmap(options.source.lengthBytes, CHUNK_BYTES);
    this.#busy = new ChunkBitmap(options.source.lengthBytes, CHUNK_BYTES);
  }

  /** Nothing is left to copy and nothing is being copied. */
  get caughtUp(): boolean {
    return this.dirty.count === 0 && this.#inFlight === 0;
  }

  /** What was dirty at first has been taken up, and a writer keeps the rest from vanishing, but it is little. */
  get nearlyCaughtUp(): boolean {
    return this.#wrapped && this.dirty.bytes <= NEAR_BYTES;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  progress(): { readonly offset: number; readonly len: number } {
    return { offset: this.#copiedBytes, len: this.#copiedBytes + this.dirty.bytes + this.#busy.bytes };
  }

  /** Begins to notice the source's writes. To be called before the dirty bits are first set. */
  attach(): void {
    this.#watch ??= new WriteWatch(this.#options.source, {
      guard: () => this.#throttle(),
      ended: (offset, length) => {
        this.dirty.setRange(offset, length);
        this.wake();
      },
    });
  }

  detach(): void {
    this.#watch?.detach();
    this.#watch = null;
    this.wake();
  }

  /** Keeps new writes of the source waiting; resolves when those in flight have ended. Throws after the stall time. */
  async holdWrites(): Promise<void> {
    this.#holding = true;
    this.wake();
    if (this.#watch) await this.bounded(this.#watch.hold(), `Writes to '${this.#options.source.nodeName}'`);
  }

  /** Makes `copyUntil` look again. */
  wake(): void {
    const change = this.#change;
    this.#change = new Deferred<void>();
    change.resolve();
  }

  /** `work`, or an error when it takes longer than the stall time or the job is broken off. */
  bounded<T>(work: Promise<T>, what: string): Promise<T> {
    return withDeadline(work, this.#stallMs, what, this.#options.signal);
  }

  /** Marks dirty what the chain from `top` down to `base` has allocated. */
  async markAllocated(status: (offset: number, length: number) => Promise<BlockExtent[]>): Promise<void> {
    const step = 64 * 1024 * 1024;
    const end = this.#options.source.lengthBytes;
    for (let offset = 0; offset < end; offset += step) {
      await this.#options.checkpoint();
      for (const extent of await status(offset, Math.min(step, end - offset))) {
        if (extent.allocated) this.dirty.setRange(extent.offset, extent.length);
      }
    }
  }

  /** Copies until `enough` says so (asked after every change). Throws the first error, once no copy is in flight. */
  async copyUntil(enough: () => boolean): Promise<void> {
    try {
      for (;;) {
        await this.#options.checkpoint();
        if (this.#failure !== null || enough()) break;
        if (this.#inFlight < MAX_IN_FLIGHT && this.#options.limit.free && this.#startPiece()) continue;
        // Taken before waiting for the limit: what changes meanwhile must not be missed.
        const change = this.#change.promise;
        if (!this.#options.limit.free) await this.#options.limit.wait(this.#options.signal);
        else await this.#orAborted(change);
      }
    } finally {
      if (this.#failure !== null || this.#options.signal.aborted) {
        while (this.#inFlight > 0) await this.#change.promise;
      }
    }
    if (this.#failure !== null) throw this.#failure.error;
  }

  /** Takes the next dirty run that is not being copied already; false when there is none. */
  #startPiece(): boolean {
    let first = this.dirty.nextSet(this.#cursor);
    for (let skipped = 0; first >= 0 && this.#busy.has(first); skipped++) {
      if (skipped > this.#busy.count) return false;
      first = this.dirty.nextSet(first + 1);
    }
    if (first < this.#cursor) this.#firstPassDone = true;
    if (first < 0) return false;
    this.#wrapped ||= this.#firstPassDone;
    let end = first;
    while (
      end < first + PIECE_CHUNKS &&
      end < this.dirty.chunks &&
      this.dirty.has(end) &&
      !this.#busy.has(end)
    ) {
      this.dirty.clear(end);
      this.#busy.set(end);
      end++;
    }
    this.#cursor = end;
    this.#inFlight++;
    void this.#copyPiece(first, end);
    return true;
  }

  async #copyPiece(first: number, end: number): Promise<void> {
    const offset = first * CHUNK_BYTES;
    const length = Math.min(end * CHUNK_BYTES, this.#options.source.lengthBytes) - offset;
    const firstPass = !this.#firstPassDone;
    let done = false;
    try {
      const extents = await this.#side('read', this.#options.extents(offset, length));
      for (const extent of extents) {
        if (extent.allocated) await this.#copyExtent(extent, firstPass);
      }
      done = true;
    } catch (error) {
      this.#failure ??= { error };
    }
    for (let chunk = first; chunk < end; chunk++) {
      this.#busy.clear(chunk);
      if (!done) this.dirty.set(chunk);
    }
    if (done) this.#copiedBytes += length;
    this.#inFlight--;
    this.wake();
  }

  async #copyExtent(extent: BlockExtent, firstPass: boolean): Promise<void> {
    const { source, target, limit } = this.#options;
    if (extent.zero) {
      if (firstPass && this.#options.targetIsZero === true) return;
      await this.#side('write', target.writeZeroes(extent.offset, extent.length));
      return;
    }
    limit.spend(extent.length);
    const buffer = new Uint8Array(extent.length);
    await this.#side('read', source.read(extent.offset, buffer));
    await this.#side('write', target.write(extent.offset, buffer));
  }

  async #side<T>(operation: 'read' | 'write', work: Promise<T>): Promise<T> {
    try {
      return await this.bounded(work, `${operation} of a block job`);
    } catch (error) {
      if (!this.#options.signal.aborted) this.#options.onError(operation, error);
      throw error;
    }
  }

  async #throttle(): Promise<void> {
    if (!this.#throttles()) return;
    const until = performance.now() + MAX_THROTTLE_MS;
    const timer = setTimeout(() => this.wake(), MAX_THROTTLE_MS + 1);
    do await this.#change.promise;
    while (this.#throttles() && performance.now() < until);
    clearTimeout(timer);
  }

  #throttles(): boolean {
    const due = this.#firstPassDone && this.dirty.bytes > MAX_LAG_BYTES;
    return due && this.#watch !== null && !this.#holding && this.#failure === null;
  }

  async #orAborted(change: Promise<void>): Promise<void> {
    const { signal } = this.#options;
    if (signal.aborted) return;
    const wake = (): void => this.wake();
    signal.addEventListener('abort', wake, { once: true });
    await change;
    signal.removeEventListener('abort', wake);
  }
}

/** Throws when a copy between the two cannot be whole. */
export function requireSameLength(source: BlockNode, target: BlockNode): void {
  if (source.lengthBytes !== target.lengthBytes) {
    throw new ColoError('Source and target image have different sizes');
  }
}
