/**
 * Which clusters of the file are in use: the refcount table and its blocks, and the search for free clusters.
 *
 * Write-through: a count is in the file before the caller goes on. A structure is on stable storage before anything
 * refers to it. One mutex guards everything; sections are short. Blocks are cached within a bound and are never dirty.
 * When counts change is decided by allocator.ts. Source: docs/qemu-behaviour.md 9.3.
 */
import { Mutex } from '../../../base/async.ts';
import { IoError } from '../../../base/errors.ts';
import { loggerFor } from '../../../base/logger.ts';
import { FIELD, Qcow2Error } from './header.ts';
import type { Qcow2Header } from './header.ts';
import type { HostFile } from './host-file.ts';
import { MAX_REFCOUNT_TABLE_BYTES, setUint64, viewOf } from './format.ts';
import { dropRounds, fixedRanges, neededBlocks, partsByBlock } from './metadata-ranges.ts';
import type { BlockPart, ClusterRange } from './metadata-ranges.ts';
import { decodeRefcountTable, refcountCodec } from './refcount-codec.ts';
import type { RefcountCodec } from './refcount-codec.ts';
import { planGrowth } from './refcount-growth.ts';

const CACHE_BYTES = 4 * 2 ** 20;
const MAX_STRAY_CLUSTERS = 2 ** 21;
const log = loggerFor('qcow2');

interface Block {
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

/** A run of clusters. `virgin`: they have never been written and read as zeros. */
export interface Allocation {
  readonly offset: number;
  readonly count: number;
  readonly virgin: boolean;
}

export class Refcounts {
  readonly codec: RefcountCodec;
  readonly #file: HostFile;
  readonly #header: Qcow2Header;
  readonly #clusterBytes: number;
  readonly #perBlock: number;
  readonly #mutex = new Mutex();
  readonly #blocks = new Map<number, Block>();
  readonly #maxBlocks: number;
  /** How many clusters behind the end of the file may be counted before that is held to be damage. */
  readonly #maxStray: number;
  /** Block index → file offset; 0: all counts are zero. */
  #table: number[];
  /** The clusters that hold refcount blocks. */
  #blockClusters: Set<number>;
  /** No cluster below this index is free. */
  #firstFree = 0;
  /** Blocks that may count more than metadata (see `reset`). */
  #used: Set<number>;

  private constructor(file: HostFile, header: Qcow2Header, table: number[]) {
    this.#file = file;
    this.#header = header;
    this.#clusterBytes = 2 ** header.clusterBits;
    this.codec = refcountCodec(header.refcountOrder);
    this.#perBlock = (this.#clusterBytes * 8) / this.codec.bits;
    this.#maxBlocks = Math.max(4, Math.floor(CACHE_BYTES / this.#clusterBytes));
    this.#maxStray = Math.min(MAX_STRAY_CLUSTERS, Math.max(this.#perBlock, 2 ** 30 / this.#clusterBytes));
    this.#table = table;
    this.#blockClusters = new Set(table.map((offset) => offset / this.#clusterBytes));
    this.#used = new Set(table.flatMap((offset, index) => (offset === 0 ? [] : [index])));
  }

  static async load(file: HostFile, header: Qcow2Header): Promise<Refcounts> {
    const bytes = new Uint8Array(header.refcountTableClusters * 2 ** header.clusterBits);
    await file.read(header.refcountTableOffset, bytes);
    return new Refcounts(file, header, decodeRefcountTable(bytes, 2 ** header.clusterBits));
  }

  /**
   * Takes up to `count` free clusters that lie side by side (exactly `count` with `exact`) and gives them the count 1,
   * in the file too. Throws IoError.
   */
  allocate(count: number, exact = false): Promise<Allocation> {
    return this.#mutex.run(() => this.#allocate(count, exact));
  }

  /** Gives a cluster in use one more reference. False: its count is 0 or as large as it can be. */
  raise(cluster: number): Promise<boolean> {
    return this.#mutex.run(async () => {
      const index = Math.floor(cluster / this.#perBlock);
      const block = await this.#block(index);
      const at = cluster % this.#perBlock;
      const count = block ? this.codec.get(block.view, at) : 0;
      if (!block || count === 0 || count >= this.codec.max) return false;
      await this.#change(index, block, at, at, () => count + 1);
      return true;
    });
  }

  /** Lowers the counts of these clusters by one, with one write for each block concerned. */
  lower(ranges: readonly ClusterRange[]): Promise<void> {
    return this.#mutex.run(() => this.#lower(ranges));
  }

  /** Sets one count (repair). Throws Qcow2Error when there is no block for it. */
  set(cluster: number, count: number): Promise<void> {
    return this.#mutex.run(() => this.#set(cluster, count));
  }

  /**
   * Forgets every cluster but the header, the L1 table and the refcount structures themselves; blocks that are then
   * needed for nothing are dropped. The caller has already made the L1 table empty in the file. Gives the end of what
   * is left, behind which the file can be cut.
   */
  reset(): Promise<number> {
    return this.#mutex.run(async () => {
      const fixed = fixedRanges(this.#header);
      const needed = neededBlocks(this.#table, fixed, this.#clusterBytes, this.#perBlock);
      // The table lets go of a block before the count of the block's own cluster is dropped: a kill leaks, no more.
      const table = [...this.#table];
      for (const round of dropRounds(table, needed, this.#clusterBytes, this.#perBlock)) {
        for (const index of round) table[index] = 0;
        await this.#writeTable(table, round[0] ?? 0, round.at(-1) ?? 0);
      }
      for (const index of needed) fixed.push({ first: (table[index] ?? 0) / this.#clusterBytes, count: 1 });
      for (const index of needed) {
        if (this.#used.has(index)) await this.#rewriteBlock(index, fixed);
      }
      this.#table = table;
      this.#blockClusters = new Set(table.map((offset) => offset / this.#clusterBytes));
      for (const index of [...this.#blocks.keys()]) if (!needed.has(index)) this.#blocks.delete(index);
      this.#used = new Set();
      this.#firstFree = 0;
      return Math.max(...fixed.map(({ first, count }) => first + count)) * this.#clusterBytes;
    });
  }

  async #rewriteBlock(index: number, fixed: readonly ClusterRange[]): Promise<void> {
    const block = newBlock(this.#clusterBytes);
    const start = index * this.#perBlock;
    for (const { first, count } of fixed) {
      const end = Math.min(first + count, start + this.#perBlock);
      for (let cluster = Math.max(first, start); cluster < end; cluster++)
        this.codec.set(block.view, cluster - start, 1);
    }
    this.#blocks.delete(index);
    await this.#file.write(this.#table[index] ?? 0, block.bytes);
    this.#remember(index, block);
  }

  async #set(cluster: number, count: number): Promise<void> {
    const index = Math.floor(cluster / this.#perBlock);
    const block = await this.#block(index);
    if (!block) {
      if (count === 0) return;
      throw new Qcow2Error(`Refcount block ${index} is missing`);
    }
    const at = cluster % this.#perBlock;
    await this.#change(index, block, at, at, () => count);
    if (count === 0) this.#firstFree = Math.min(this.#firstFree, cluster);
  }

  async #allocate(count: number, exact: boolean): Promise<Allocation> {
    let run = 0;
    let cluster = this.#firstFree;
    let start = cluster;
    let skipped = false;
    const limit = Math.ceil(this.#file.lengthBytes / this.#clusterBytes) + this.#maxStray + count;
    for (;;) {
      if (cluster > limit) {
        throw new IoError(
          'EIO',
          `Clusters far behind the end of the image file are counted as used (${cluster}); run \`colo img check\``,
        );
      }
      const index = Math.floor(cluster / this.#perBlock);
      const block = await this.#block(index);
      if (!block) {
        if (index >= this.#table.length) {
          await this.#growTable();
          return this.#allocate(count, exact);
        }
        if (run > 0 && !exact) break;
        await this.#newBlock(index, cluster);
        // The new block lies where an exact run wanted to go on.
        if (run > 0) skipped = true;
        run = 0;
        continue;
      }
      const end = (index + 1) * this.#perBlock;
      const base = index * this.#perBlock;
      while (cluster < end && run < count) {
        if (this.codec.get(block.view, cluster - base) === 0) {
          if (run++ === 0) start = cluster;
        } else if (run > 0 && !exact) break;
        else {
          if (run > 0) skipped = true;
          run = 0;
        }
        cluster++;
      }
      if (run >= count || (run > 0 && !exact && cluster < end)) break;
    }
    const offset = start * this.#clusterBytes;
    this.#refuseMetadata(start, run);
    const virgin = this.#file.isVirgin(offset);
    await this.#file.reserve(offset + run * this.#clusterBytes);
    await this.#setRange(start, run, 1);
    if (!skipped) this.#firstFree = start + run;
    return { offset, count: run, virgin };
  }

  /** Broken counts must not make us write data over the image's own tables. */
  #refuseMetadata(first: number, count: number): void {
    const last = first + count - 1;
    let hit = fixedRanges(this.#header).some(
      (fixed) => first < fixed.first + fixed.count && fixed.first <= last,
    );
    for (let cluster = first; cluster <= last && !hit; cluster++) hit = this.#blockClusters.has(cluster);
    if (!hit) return;
    throw new IoError(
      'EIO',
      `Cluster ${first} of the image holds its tables but is counted as free; run \`colo img check\``,
    );
  }

  async #setRange(first: number, count: number, value: number): Promise<void> {
    for (let cluster = first; cluster < first + count;) {
      const index = Math.floor(cluster / this.#perBlock);
      const base = index * this.#perBlock;
      const last = Math.min(first + count, base + this.#perBlock) - 1;
      const block = await this.#block(index);
      if (!block) throw new Qcow2Error(`Refcount block ${index} is missing`);
      await this.#change(index, block, cluster - base, last - base, () => value);
      cluster = last + 1;
    }
  }

  async #lower(ranges: readonly ClusterRange[]): Promise<void> {
    for (const [index, parts] of partsByBlock(ranges, this.#perBlock)) await this.#lowerInBlock(index, parts);
  }

  async #lowerInBlock(index: number, parts: readonly BlockPart[]): Promise<void> {
    const base = index * this.#perBlock;
    let first = Infinity;
    let last = 0;
    for (const part of parts) {
      first = Math.min(first, part.first);
      last = Math.max(last, part.last);
    }
    const block = await this.#block(index);
    if (!block) {
      log.warn({ cluster: base + first }, 'a cluster in use has no refcount block; run `colo img check`');
      return;
    }
    let uncounted = 0;
    for (const part of parts) {
      for (let at = part.first; at <= part.last; at++) {
        const old = this.codec.get(block.view, at);
        if (old > 0) this.codec.set(block.view, at, old - 1);
        else uncounted++;
      }
    }
    if (uncounted > 0)
      log.warn({ from: base + first, uncounted }, 'clusters in use have refcount 0; run `colo img check`');
    await this.#store(index, block, first, last);
    this.#firstFree = Math.min(this.#firstFree, base + first);
  }

  /** Changes entries of a block in memory and in the file. */
  async #change(
    index: number,
    block: Block,
    first: number,
    last: number,
    next: (old: number, at: number) => number,
  ): Promise<void> {
    for (let at = first; at <= last; at++)
      this.codec.set(block.view, at, next(this.codec.get(block.view, at), at));
    await this.#store(index, block, first, last);
  }

  /** Writes entries of a block; on failure the block is read again next time. */
  async #store(index: number, block: Block, first: number, last: number): Promise<void> {
    this.#used.add(index);
    const { from, to } = this.codec.span(first, last);
    try {
      await this.#file.write((this.#table[index] ?? 0) + from, block.bytes.subarray(from, to));
    } catch (error) {
      this.#blocks.delete(index);
      throw error;
    }
  }

  /** The block, or null when the table has none there. Throws IoError when the table is broken. */
  async #block(index: number): Promise<Block | null> {
    const cached = this.#blocks.get(index);
    if (cached) {
      if (this.#blocks.size >= this.#maxBlocks) {
        this.#blocks.delete(index);
        this.#blocks.set(index, cached);
      }
      return cached;
    }
    const offset = this.#table[index];
    if (offset === undefined || offset === 0) return null;
    if (Number.isNaN(offset))
      throw new IoError('EIO', `Refcount table entry ${index} is invalid; run \`colo img check\``);
    const block = newBlock(this.#clusterBytes);
    await this.#file.read(offset, block.bytes);
    this.#remember(index, block);
    return block;
  }

  #remember(index: number, block: Block): void {
    this.#blocks.set(index, block);
    if (this.#blocks.size <= this.#maxBlocks) return;
    for (const oldest of this.#blocks.keys()) {
      if (oldest !== index) this.#blocks.delete(oldest);
      if (this.#blocks.size <= this.#maxBlocks) return;
    }
  }

  /** Makes the missing block of a range, in the free `cluster`; it counts itself if it lies in that range. */
  async #newBlock(index: number, cluster: number): Promise<Block> {
    const block = newBlock(this.#clusterBytes);
    const offset = cluster * this.#clusterBytes;
    if (Math.floor(cluster / this.#perBlock) === index)
      this.codec.set(block.view, cluster % this.#perBlock, 1);
    await this.#file.reserve(offset + this.#clusterBytes);
    await this.#file.write(offset, block.bytes);
    await this.#file.barrier();
    const entry = new Uint8Array(8);
    setUint64(viewOf(entry), 0, offset);
    await this.#file.write(this.#header.refcountTableOffset + index * 8, entry);
    this.#table[index] = offset;
    this.#blockClusters.add(cluster);
    this.#used.add(index);
    this.#remember(index, block);
    return block;
  }

  async #writeTable(table: readonly number[], first: number, last: number): Promise<void> {
    const bytes = new Uint8Array((last - first + 1) * 8);
    const view = viewOf(bytes);
    for (let index = first; index <= last; index++) setUint64(view, (index - first) * 8, table[index] ?? 0);
    await this.#file.write(this.#header.refcountTableOffset + first * 8, bytes);
  }

  /**
   * Moves the table to a place twice as large, behind everything that the old one can count: new blocks that count
   * themselves and the new table, then the table, then (after a flush) the header points to it.
   */
  async #growTable(): Promise<void> {
    const oldClusters = this.#header.refcountTableClusters;
    const clusters = oldClusters * 2;
    if (clusters * this.#clusterBytes > MAX_REFCOUNT_TABLE_BYTES) {
      throw new IoError('ENOSPC', 'The qcow2 refcount table has reached its largest size');
    }
    const plan = planGrowth(this.#table, clusters, this.#clusterBytes, this.codec);
    await this.#file.reserve(plan.end);
    for (const { offset, bytes } of plan.blocks) await this.#file.write(offset, bytes);
    await this.#file.write(plan.tableOffset, plan.tableBytes);
    await this.#file.barrier();
    await this.#file.write(FIELD.refcountTable, plan.field);
    await this.#file.barrier();
    const oldOffset = this.#header.refcountTableOffset;
    this.#header.refcountTableOffset = plan.tableOffset;
    this.#header.refcountTableClusters = clusters;
    for (const { index } of plan.blocks) this.#used.add(index);
    this.#table = plan.table;
    this.#blockClusters = new Set(plan.table.map((offset) => offset / this.#clusterBytes));
    await this.#lower([{ first: oldOffset / this.#clusterBytes, count: oldClusters }]);
  }
}

function newBlock(clusterBytes: number): Block {
  const bytes = new Uint8Array(clusterBytes);
  return { bytes, view: viewOf(bytes) };
}
