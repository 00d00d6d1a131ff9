/**
 * Copy before write, the engine of a backup job and of block replication (there QEMU has an internal backup job with
 * sync=none, no id, no events): before a write reaches the source, the old content of every cluster it touches is
 * copied to the target, once per cluster and epoch. `beginEpoch` marks all clusters as not yet copied. A backup job
 * copies the other clusters by `copyRange`. Facts: docs/qemu-behaviour.md 5.2.
 *
 * Why it is safe while somebody reads the chain target → source (the secondary VM): such a read may find a cluster
 * missing in the target and be about to fetch it from the source. `readersPassed` lets the write wait for the reads
 * that had begun before the copy was complete; later ones find the cluster in the target. So readers never wait.
 *
 * A copy that fails fails the write (the source stays as it was) and is remembered as `error`. One that gets no answer
 * within `stallMs` is told to `onStall` instead, and the write goes on: a dead target must not hang the guest.
 */
import { withDeadline } from '../../base/async.ts';
import { ClosedError, IoError, TimeoutError, errnoOf, messageOf } from '../../base/errors.ts';
import type { BlockNode } from '../node.ts';
import { ChunkBitmap } from './chunk-bitmap.ts';
import { PieceBuffers } from './piece-buffers.ts';
import { onSide, sideOf } from './piece-error.ts';
import { WriteWatch } from './write-watch.ts';

/** Least copy-before-write granularity (QEMU block/block-copy.c). */
const MIN_CLUSTER_BYTES = 64 * 1024;
/** Most that is read and written at once, and copied at a time for a write of the guest. */
const MAX_COPY_BYTES = 1024 * 1024;

export interface CopyBeforeWriteOptions {
  readonly source: BlockNode;
  readonly target: BlockNode;
  /** Resolves when the reads of the chain that overlap the range and have begun by now have ended. */
  readonly readersPassed?: (offset: number, length: number) => Promise<void>;
  /**
   * What becomes of zeros. copy (default): they are data. write: they are written as zeroes. skip: the same, but for
   * ranges that the target says read as zeros already.
   */
  readonly zeros?: 'copy' | 'write' | 'skip';
  /** Patience with one request of a copy. */
  readonly stall?: {
    readonly ms: number;
    readonly signal: AbortSignal;
    readonly onStall: (error: Error) => void;
  };
}

export class CopyBeforeWrite {
  readonly source: BlockNode;
  readonly target: BlockNode;
  readonly clusterBytes: number;
  readonly #copied: ChunkBitmap;
  /** Clusters being copied now; a second write to one of them waits for the same copy. */
  readonly #copying = new Map<number, Promise<void>>();
  readonly #readersPassed: ((offset: number, length: number) => Promise<void>) | null;
  readonly #buffers: PieceBuffers;
  readonly #zeros: 'copy' | 'write' | 'skip';
  readonly #stall: CopyBeforeWriteOptions['stall'];
  #watch: WriteWatch | null = null;
  #refuseHeld = false;
  #error: Error | null = null;

  constructor(options: CopyBeforeWriteOptions) {
    this.source = options.source;
    this.target = options.target;
    this.clusterBytes = Math.max(MIN_CLUSTER_BYTES, options.target.driver.clusterBytes ?? 0);
    this.#buffers = new PieceBuffers(MAX_COPY_BYTES, this.clusterBytes);
    this.#copied = new ChunkBitmap(options.source.lengthBytes, this.clusterBytes);
    this.#readersPassed = options.readersPassed ?? null;
    this.#zeros = options.zeros ?? 'copy';
    this.#stall = options.stall;
  }

  /** The first copy that failed, or null. */
  get error(): Error | null {
    return this.#error;
  }

  get active(): boolean {
    return this.#watch !== null;
  }

  /** Clusters copied in this epoch. */
  get copiedClusters(): number {
    return this.#copied.count;
  }

  /** Bytes of the clusters copied in this epoch. */
  get copiedBytes(): number {
    return this.#copied.bytes;
  }

  get inFlight(): number {
    return this.#copying.size;
  }

  /** Whether [offset, offset+length) of whole clusters needs no copy. */
  isCopied(offset: number, length: number): boolean {
    const last = Math.floor((offset + length - 1) / this.clusterBytes);
    for (let at = Math.floor(offset / this.clusterBytes); at <= last; at++)
      if (!this.#copied.has(at)) return false;
    return true;
  }

  /** A cluster that needs no copy; false when it has been copied or is being copied. */
  leaveOut(cluster: number): boolean {
    if (this.#copied.has(cluster) || this.#copying.has(cluster)) return false;
    this.#copied.set(cluster);
    return true;
  }

  /** Copies what of the range has not been copied yet. Throws PieceError. */
  async copyRange(offset: number, length: number): Promise<void> {
    if (length === 0) return;
    const first = Math.floor(offset / this.clusterBytes);
    await this.#copyClusters(first, Math.floor((offset + length - 1) / this.clusterBytes), length);
  }

  /** From here on writes to the source are preceded by copies. Idempotent. */
  start(): void {
    this.#watch ??= new WriteWatch(this.source, {
      guard: (offset, length) => this.#beforeWrite(offset, length),
    });
  }

  /** Ends when no write is in flight on the source; new ones wait until `release`. */
  async hold(): Promise<void> {
    await this.#watch?.hold();
  }

  release(): void {
    this.#watch?.release();
  }

  /** Every cluster needs its copy again. To be called between `hold` and `release`. */
  beginEpoch(): void {
    this.#copied.clearAll();
  }

  /**
   * Waits for the writes in flight, then copies no more. Writes that are held meanwhile go straight to the source,
   * or fail if `refuseHeld`; those that begin later are none of this job's business.
   */
  async stop(refuseHeld = false): Promise<void> {
    const watch = this.#watch;
    if (watch === null) return;
    this.#refuseHeld = refuseHeld;
    await watch.hold();
    this.#watch = null;
    watch.detach();
  }

  /** As `stop`, without waiting for anybody: for a target that is of no use any more, or whole. */
  detach(): void {
    this.#watch?.detach();
    this.#watch = null;
    this.#buffers.release();
  }

  async #beforeWrite(offset: number, length: number): Promise<void> {
    if (this.#watch === null && this.#refuseHeld) {
      throw new IoError(
        'EPERM',
        `Node '${this.source.nodeName}' no longer takes writes of the replication's other side`,
      );
    }
    if (this.#watch === null || length === 0) return;
    const first = Math.floor(offset / this.clusterBytes);
    const last = Math.floor((offset + length - 1) / this.clusterBytes);
    try {
      await this.#copyClusters(first, last, MAX_COPY_BYTES);
    } catch (thrown) {
      const { error } = sideOf(thrown);
      if (this.#stall && (error instanceof TimeoutError || error instanceof ClosedError)) {
        if (error instanceof TimeoutError) this.#stall.onStall(error);
        return;
      }
      this.#error ??= error instanceof Error ? error : new IoError('EIO', messageOf(error));
      throw new IoError(
        errnoOf(error),
        `Copy before write to '${this.source.nodeName}' failed: ${messageOf(error)}`,
        {
          cause: error,
        },
      );
    }
    const from = first * this.clusterBytes;
    await this.#readersPassed?.(from, (last + 1) * this.clusterBytes - from);
  }

  async #copyClusters(first: number, last: number, maxBytes: number): Promise<void> {
    let at = first;
    while (at <= last) {
      if (this.#copied.has(at)) {
        at++;
        continue;
      }
      const running = this.#copying.get(at);
      if (running !== undefined) {
        // Not `at++`: one that succeeded is found in the bitmap, one that failed is tried again here.
        await running.catch(() => undefined);
        continue;
      }
      let end = at + 1;
      const limit = Math.min(last + 1, at + Math.max(1, Math.floor(maxBytes / this.clusterBytes)));
      while (end < limit && !this.#copied.has(end) && !this.#copying.has(end)) end++;
      const copy = this.#copy(at, end);
      for (let cluster = at; cluster < end; cluster++) this.#copying.set(cluster, copy);
      try {
        await copy;
      } finally {
        for (let cluster = at; cluster < end; cluster++) this.#copying.delete(cluster);
      }
      at = end;
    }
  }

  async #copy(first: number, end: number): Promise<void> {
    const offset = first * this.clusterBytes;
    const length = Math.min(end * this.clusterBytes, this.source.lengthBytes) - offset;
    if (this.#zeros === 'copy') await this.#copyData(offset, length);
    else {
      for (const extent of await this.#side('read', this.source.blockStatus(offset, length))) {
        if (extent.zero) await this.#copyZeros(extent.offset, extent.length);
        else await this.#copyData(extent.offset, extent.length);
      }
    }
    for (let cluster = first; cluster < end; cluster++) this.#copied.set(cluster);
  }

  async #copyData(offset: number, length: number): Promise<void> {
    const buffer = this.#buffers.take(length);
    for (let done = 0; done < length; done += buffer.byteLength) {
      const piece = buffer.subarray(0, Math.min(buffer.byteLength, length - done));
      await this.#side('read', this.source.read(offset + done, piece));
      await this.#side('write', this.target.write(offset + done, piece));
    }
    // After a failure it is dropped: a request that is stuck may still use it.
    this.#buffers.give(buffer);
  }

  async #copyZeros(offset: number, length: number): Promise<void> {
    if (this.#zeros === 'write') {
      await this.#side('write', this.target.writeZeroes(offset, length));
      return;
    }
    for (const there of await this.#side('write', this.target.blockStatus(offset, length))) {
      if (!there.zero) await this.#side('write', this.target.writeZeroes(there.offset, there.length));
    }
  }

  #side<T>(operation: 'read' | 'write', work: Promise<T>): Promise<T> {
    const stall = this.#stall;
    if (stall === undefined) return onSide(operation, work);
    return onSide(operation, withDeadline(work, stall.ms, `${operation} of a block job`, stall.signal));
  }
}
