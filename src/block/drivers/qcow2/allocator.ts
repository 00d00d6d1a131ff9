/**
 * Clusters for the driver, on top of the counts (refcounts.ts). It makes the order of metadata cheap:
 *
 * - Clusters are counted ahead, a chunk at a time, and the chunk is handed out only when its counts are on stable
 *   storage. So no table can ever refer to a cluster that is not counted, not even after a power failure, and a request
 *   that needs a cluster writes no count at all. A killed process leaks what it had not handed out.
 * - Clusters that are let go of keep their counts until a flush has made the tables stable that no longer refer to
 *   them, and are not used anew before. A killed process leaks these.
 */
import { Mutex } from '../../../base/async.ts';
import { loggerFor } from '../../../base/logger.ts';
import type { HostFile } from './host-file.ts';
import type { ClusterRange } from './metadata-ranges.ts';
import type { Allocation, Refcounts } from './refcounts.ts';

/** Clusters of the first chunk; each chunk is twice as large as the one before. */
const FIRST_CHUNK = 4;
/** The largest chunk. */
export const MAX_CHUNK_BYTES = 32 * 2 ** 20;
/** Freed clusters that wait for a flush; beyond that we flush ourselves. */
export const MAX_FREED_BYTES = 32 * 2 ** 20;
const log = loggerFor('qcow2');

interface Run {
  offset: number;
  count: number;
  readonly virgin: boolean;
}

export class Allocator {
  readonly #refcounts: Refcounts;
  readonly #file: HostFile;
  readonly #clusterBytes: number;
  readonly #maxChunk: number;
  readonly #maxFreed: number;
  /** Counted, stable, referred to by nothing. */
  #pool: Run[] = [];
  #pooled = 0;
  #chunk = FIRST_CHUNK;
  #refilling: Promise<void> | null = null;
  /** No longer referred to, still counted. */
  #freed: ClusterRange[] = [];
  #freedCount = 0;
  /** Goes up with each reset. */
  #generation = 0;
  /** Where the next compressed cluster may begin, inside a cluster that holds others; 0: nowhere. */
  #packedEnd = 0;
  readonly #packing = new Mutex();

  constructor(refcounts: Refcounts, file: HostFile, clusterBytes: number) {
    this.#refcounts = refcounts;
    this.#file = file;
    this.#clusterBytes = clusterBytes;
    this.#maxChunk = Math.max(1, Math.floor(MAX_CHUNK_BYTES / clusterBytes));
    this.#maxFreed = Math.max(16, Math.floor(MAX_FREED_BYTES / clusterBytes));
  }

  /** Up to `count` clusters side by side, when some are at hand. */
  take(count: number): Allocation | null {
    const run = this.#pool[0];
    if (!run) return null;
    const taken = { offset: run.offset, count: Math.min(count, run.count), virgin: run.virgin };
    if (taken.count === run.count) this.#pool.shift();
    else {
      run.offset += taken.count * this.#clusterBytes;
      run.count -= taken.count;
    }
    this.#pooled -= taken.count;
    // Ahead of need, so that nobody waits for the disk. What goes wrong here is told to who then finds none.
    if (this.#pooled * 2 < this.#chunk && !this.#refilling) this.#refill(1).catch(() => undefined);
    return taken;
  }

  /** Up to `count` clusters side by side (exactly `count` with `exact`). Throws IoError. */
  async allocate(count: number, exact = false): Promise<Allocation> {
    if (exact) {
      const run = await this.#refcounts.allocate(count, true);
      await this.#file.barrier();
      return run;
    }
    for (;;) {
      const taken = this.take(count);
      if (taken) return taken;
      await this.#refill(count);
    }
  }

  /**
   * Room for `length` bytes (at most a cluster) of a compressed cluster, behind the last one if it fits. Every cluster
   * that the bytes touch gets one more reference, which is stable after the next barrier. Throws IoError.
   */
  allocateBytes(length: number): Promise<number> {
    return this.#packing.run(() => this.#place(length));
  }

  async #place(length: number): Promise<number> {
    const at = this.#packedEnd;
    const room = this.#clusterBytes - (at % this.#clusterBytes);
    const fresh = at === 0 || length > room ? await this.allocate(1) : null;
    // Across two clusters only where they are neighbours. The end is asked for again: it may have been given back.
    const fits = at > 0 && this.#packedEnd === at && (fresh === null || fresh.offset === at + room);
    const shared = fits && (await this.#refcounts.raise(Math.floor(at / this.#clusterBytes)));
    const offset = shared ? at : (fresh ?? (await this.allocate(1))).offset;
    const end = offset + length;
    this.#packedEnd = end % this.#clusterBytes === 0 ? 0 : end;
    return offset;
  }

  /** `count` clusters from file offset `offset` have one reference less, as the tables in the file already say. */
  release(offset: number, count: number): void {
    const first = Math.floor(offset / this.#clusterBytes);
    const packed = Math.floor(this.#packedEnd / this.#clusterBytes);
    if (packed >= first && packed < first + count) this.#packedEnd = 0;
    const last = this.#freed.at(-1);
    if (last && last.first + last.count === first) {
      this.#freed[this.#freed.length - 1] = { first: last.first, count: last.count + count };
    } else this.#freed.push({ first, count });
    this.#freedCount += count;
  }

  /** More was let go of than should wait: call `settle`. */
  get isOverdue(): boolean {
    return this.#freedCount > this.#maxFreed;
  }

  /** Flushes (`barrier`: only if the image has something to keep); what was let go of before is then free. */
  async settle(how: 'flush' | 'barrier'): Promise<void> {
    const freed = this.#freed;
    const generation = this.#generation;
    this.#freed = [];
    this.#freedCount = 0;
    try {
      await this.#file[how]();
    } catch (error) {
      if (generation === this.#generation) {
        this.#freed = [...freed, ...this.#freed];
        for (const { count } of freed) this.#freedCount += count;
      }
      throw error;
    }
    // After a reset these clusters may be somebody's again.
    if (freed.length > 0 && generation === this.#generation) await this.#refcounts.lower(freed);
  }

  /** Resolves when no chunk is on its way. */
  async quiet(): Promise<void> {
    await this.#refilling?.catch(() => undefined);
  }

  /** All counts were rewritten: nothing is at hand, nothing waits. */
  reset(): void {
    this.#generation++;
    this.#pool = [];
    this.#pooled = 0;
    this.#chunk = FIRST_CHUNK;
    this.#freed = [];
    this.#freedCount = 0;
    this.#packedEnd = 0;
  }

  /** Gives everything back before the image is closed. */
  async close(): Promise<void> {
    await this.quiet();
    await this.settle('flush');
    const pool = this.#pool.splice(0);
    this.#pooled = 0;
    if (pool.length === 0) return;
    pool.sort((a, b) => b.offset - a.offset);
    await this.#refcounts.lower(
      pool.map(({ offset, count }) => ({ first: offset / this.#clusterBytes, count })),
    );
    for (const { offset, count } of pool) this.#file.unreserve(offset, offset + count * this.#clusterBytes);
  }

  /** Counts another chunk, of at least `wanted` clusters if they lie side by side. */
  #refill(wanted: number): Promise<void> {
    this.#refilling ??= this.#fill(wanted).finally(() => (this.#refilling = null));
    return this.#refilling;
  }

  async #fill(wanted: number): Promise<void> {
    const chunk = Math.max(wanted, this.#chunk);
    const run = await this.#refcounts.allocate(chunk, false).catch((error: unknown) => {
      if (chunk <= wanted) throw error;
      log.debug({ err: error, chunk, wanted }, 'no room for a chunk of clusters, trying for fewer');
      return this.#refcounts.allocate(wanted, false);
    });
    await this.#file.barrier();
    this.#chunk = Math.min(this.#maxChunk, this.#chunk * 2);
    this.#pool.push({ ...run });
    this.#pooled += run.count;
  }
}
