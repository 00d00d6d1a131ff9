/**
 * The internal backup job of block replication (QEMU: sync=none, no id, no events): before a write reaches the source,
 * the old content of every cluster it touches is copied to the target, once per cluster and epoch. `beginEpoch` marks
 * all clusters as not yet copied. Facts: docs/qemu-behaviour.md 5.2.
 *
 * Why it is safe while somebody reads the chain target → source (the secondary VM): such a read may find a cluster
 * missing in the target and be about to fetch it from the source. `readersPassed` lets the write wait for the reads
 * that had begun before the copy was complete; later ones find the cluster in the target. So readers never wait.
 *
 * A copy that fails fails the write (the source stays as it was) and is remembered as `error`.
 */
import { IoError, errnoOf, messageOf } from '../../base/errors.ts';
import type { BlockNode } from '../node.ts';
import { ChunkBitmap } from './chunk-bitmap.ts';
import { WriteWatch } from './write-watch.ts';

/** Least copy-before-write granularity (QEMU block/block-copy.c). */
const MIN_CLUSTER_BYTES = 64 * 1024;
/** Most that is copied in one piece, which bounds the memory a write can make us take. */
const MAX_COPY_BYTES = 1024 * 1024;

export interface CopyBeforeWriteOptions {
  readonly source: BlockNode;
  readonly target: BlockNode;
  /** Resolves when the reads of the chain that overlap the range and have begun by now have ended. */
  readonly readersPassed?: (offset: number, length: number) => Promise<void>;
}

export class CopyBeforeWrite {
  readonly source: BlockNode;
  readonly target: BlockNode;
  readonly clusterBytes: number;
  readonly #copied: ChunkBitmap;
  /** Clusters being copied now; a second write to one of them waits for the same copy. */
  readonly #copying = new Map<number, Promise<void>>();
  readonly #readersPassed: ((offset: number, length: number) => Promise<void>) | null;
  #watch: WriteWatch | null = null;
  #refuseHeld = false;
  #error: Error | null = null;

  constructor(options: CopyBeforeWriteOptions) {
    this.source = options.source;
    this.target = options.target;
    this.clusterBytes = Math.max(MIN_CLUSTER_BYTES, options.target.driver.clusterBytes ?? 0);
    this.#copied = new ChunkBitmap(options.source.lengthBytes, this.clusterBytes);
    this.#readersPassed = options.readersPassed ?? null;
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
      await this.#copyClusters(first, last);
    } catch (error) {
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

  async #copyClusters(first: number, last: number): Promise<void> {
    let at = first;
    while (at <= last) {
      if (this.#copied.has(at)) {
        at++;
        continue;
      }
      const running = this.#copying.get(at);
      if (running !== undefined) {
        await running;
        // Not `at++`: a copy that failed has thrown; one that succeeded is found in the bitmap.
        continue;
      }
      let end = at + 1;
      const limit = Math.min(last + 1, at + Math.max(1, Math.floor(MAX_COPY_BYTES / this.clusterBytes)));
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
    const buffer = new Uint8Array(length);
    await this.source.read(offset, buffer);
    await this.target.write(offset, buffer);
    for (let cluster = first; cluster < end; cluster++) this.#copied.set(cluster);
  }
}
