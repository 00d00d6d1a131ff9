/**
 * The two-level map from guest clusters to L2 entries: the L1 table in memory, L2 tables in a bounded cache
 * (table-cache.ts).
 *
 * Write-through: an entry is in the file before `update` ends, so eviction just forgets a table; one that is being
 * changed is pinned. One write of a table is under way at a time; updates that come meanwhile share the next one. The
 * caller holds the guest clusters whose entries it changes (range-lock.ts); tables themselves need no lock, as updates
 * of other entries touch other bytes.
 */
import { Deferred, Mutex } from '../../../base/async.ts';
import { IoError } from '../../../base/errors.ts';
import type { Qcow2Header } from './header.ts';
import { FIELD } from './header.ts';
import type { HostFile } from './host-file.ts';
import type { Allocator } from './allocator.ts';
import { entryOffset, isCopied, putEntry, setUint64, viewOf } from './format.ts';
import { TableCache, newTable, pin, unpin } from './table-cache.ts';
import type { L2Table } from './table-cache.ts';

/** Enough for 16 GiB of guest data in 64 KiB clusters. */
export const DEFAULT_L2_CACHE_BYTES = 2 * 2 ** 20 * 8;

export class MappingTables {
  readonly l2Entries: number;
  readonly #file: HostFile;
  readonly #header: Qcow2Header;
  readonly #allocator: Allocator;
  readonly #clusterBytes: number;
  readonly #cache: TableCache;
  readonly #mutex = new Mutex();
  /** The L1 table as it is in the file. */
  #l1: DataView;
  /** Entries from here on are 0. */
  #l1Used: number;

  private constructor(
    file: HostFile,
    header: Qcow2Header,
    allocator: Allocator,
    l1: Uint8Array,
    cacheBytes: number,
  ) {
    this.#file = file;
    this.#header = header;
    this.#allocator = allocator;
    this.#clusterBytes = 2 ** header.clusterBits;
    this.l2Entries = this.#clusterBytes / 8;
    const maxTables = Math.max(2, Math.floor(cacheBytes / this.#clusterBytes));
    this.#cache = new TableCache(maxTables, (l1Index) => this.#read(l1Index));
    this.#l1 = viewOf(l1);
    let used = header.l1Size;
    while (used > 0 && this.#l1.getUint32(used * 8 - 8) === 0 && this.#l1.getUint32(used * 8 - 4) === 0)
      used--;
    this.#l1Used = used;
  }

  static async load(
    file: HostFile,
    header: Qcow2Header,
    allocator: Allocator,
    cacheBytes: number,
  ): Promise<MappingTables> {
    const l1 = new Uint8Array(header.l1Size * 8);
    if (l1.byteLength > 0) await file.read(header.l1Offset, l1);
    return new MappingTables(file, header, allocator, l1, cacheBytes);
  }

  /** True: no cluster has a mapping. */
  get isEmpty(): boolean {
    return this.#l1Used === 0;
  }

  /** The cached table, null when there is none in the image, undefined when it has to be loaded. */
  peek(l1Index: number): L2Table | null | undefined {
    if (l1Index >= this.#l1Used) return null;
    const table = this.#cache.use(l1Index);
    if (table) return table;
    return this.#l1.getUint32(l1Index * 8) === 0 && this.#l1.getUint32(l1Index * 8 + 4) === 0
      ? null
      : undefined;
  }

  /** The table, null when there is none in the image. Throws IoError when the L1 entry is broken. */
  async table(l1Index: number): Promise<L2Table | null> {
    const table = this.peek(l1Index);
    return table === undefined ? this.#cache.load(l1Index) : table;
  }

  /**
   * Makes `count` entries from `first` say what `put` writes for each (view, byte position, number), in memory and in
   * the file. Makes the table when there is none. Throws IoError; what the file then holds is unknown, so that the
   * clusters concerned must not be given back.
   */
  async update(
    l1Index: number,
    first: number,
    count: number,
    put: (view: DataView, at: number, which: number) => void,
  ): Promise<void> {
    const ready = this.#cache.get(l1Index);
    const table =
      ready && isCopied(this.#l1.getUint32(l1Index * 8)) ? pin(ready) : await this.#writable(l1Index);
    try {
      const from = first * 8;
      const old = table.bytes.slice(from, from + count * 8);
      // Readers of these clusters are kept out by the range lock, so memory may be ahead of the file.
      for (let which = 0; which < count; which++) put(table.view, from + which * 8, which);
      try {
        await this.#store(table, from, from + count * 8);
      } catch (error) {
        table.bytes.set(old, from);
        throw error;
      }
    } finally {
      unpin(table);
    }
  }

  /** Writes a part of a table; parts that come while another is being written go together. */
  #store(table: L2Table, from: number, to: number): Promise<void> {
    if (!table.writing) return this.#writePart(table, from, to);
    if (table.queued) {
      table.queued.from = Math.min(table.queued.from, from);
      table.queued.to = Math.max(table.queued.to, to);
    } else table.queued = { from, to, done: new Deferred<void>() };
    return table.queued.done.promise;
  }

  async #writePart(table: L2Table, from: number, to: number): Promise<void> {
    table.writing = true;
    try {
      // A copy: entries must not change while they are on their way to the file.
      await this.#file.write(table.offset + from, table.bytes.slice(from, to));
    } finally {
      const next = table.queued;
      table.queued = null;
      table.writing = false;
      if (next) this.#writePart(table, next.from, next.to).then(next.done.resolve, next.done.reject);
    }
  }

  /** Drops every mapping in the file and in memory. The clusters stay counted: `Allocator.reset` comes next. */
  async clear(): Promise<void> {
    if (this.#l1Used > 0) await this.#file.write(this.#header.l1Offset, new Uint8Array(this.#l1Used * 8));
    new Uint8Array(this.#l1.buffer).fill(0);
    this.#l1Used = 0;
    this.#cache.clear();
  }

  forgetCache(): void {
    this.#cache.clear();
  }

  /** Moves the L1 table to a place for `entries` entries. A kill in between leaks clusters. */
  async growL1(entries: number): Promise<void> {
    const { l1Size: oldSize, l1Offset: oldOffset } = this.#header;
    const clusters = Math.ceil((entries * 8) / this.#clusterBytes);
    const bytes = new Uint8Array(clusters * this.#clusterBytes);
    bytes.set(new Uint8Array(this.#l1.buffer));
    const { offset } = await this.#allocator.allocate(clusters, true);
    await this.#file.write(offset, bytes);
    await this.#file.barrier();
    const fields = new Uint8Array(12);
    const view = viewOf(fields);
    view.setUint32(0, entries);
    setUint64(view, 4, offset);
    await this.#file.write(FIELD.l1, fields);
    this.#l1 = viewOf(bytes.slice(0, entries * 8));
    this.#header.l1Size = entries;
    this.#header.l1Offset = offset;
    if (oldSize > 0) this.#allocator.release(oldOffset, Math.ceil((oldSize * 8) / this.#clusterBytes));
  }

  /** Writes the image's new size, for which the L1 table has room. */
  async setSize(sizeBytes: number): Promise<void> {
    // A table that is too small for the size makes an image that cannot be opened.
    await this.#file.barrier();
    const field = new Uint8Array(8);
    setUint64(viewOf(field), 0, sizeBytes);
    await this.#file.write(FIELD.size, field);
    this.#header.sizeBytes = sizeBytes;
  }

  async #read(l1Index: number): Promise<L2Table> {
    const hi = this.#l1.getUint32(l1Index * 8);
    const offset = entryOffset(hi, this.#l1.getUint32(l1Index * 8 + 4));
    if (offset === 0 || offset % this.#clusterBytes !== 0 || offset >= this.#file.lengthBytes) {
      throw new IoError(
        'EIO',
        `L1 entry ${l1Index} points to ${offset}, which cannot be; run \`colo img check\``,
      );
    }
    const bytes = new Uint8Array(this.#clusterBytes);
    await this.#file.read(offset, bytes);
    return newTable(offset, bytes);
  }

  /** `table`, pinned unless it is null. */
  async #pinned(l1Index: number): Promise<L2Table | null> {
    const table = this.peek(l1Index);
    return table === undefined ? this.#cache.loadPinned(l1Index) : table && pin(table);
  }

  /** The table, pinned; made or copied first when it is missing or shared. */
  async #writable(l1Index: number): Promise<L2Table> {
    const table = await this.#pinned(l1Index);
    if (table && this.#isCurrent(l1Index, table)) return table;
    if (table) unpin(table);
    return this.#mutex.run(async () => {
      const now = await this.#pinned(l1Index);
      if (now && this.#isCurrent(l1Index, now)) return now;
      try {
        return await this.#make(l1Index, now);
      } finally {
        if (now) unpin(now);
      }
    });
  }

  /** True: the image refers to this table once, and it has not been replaced by a copy. */
  #isCurrent(l1Index: number, table: L2Table): boolean {
    return isCopied(this.#l1.getUint32(l1Index * 8)) && this.#cache.get(l1Index) === table;
  }

  /**
   * A new table, pinned, with the content of `old`, which is pinned too: if it were loaded meanwhile, it could come in
   * after its copy and take its place.
   */
  async #make(l1Index: number, old: L2Table | null): Promise<L2Table> {
    const { offset, virgin } = await this.#allocator.allocate(1);
    const bytes = old ? old.bytes.slice() : new Uint8Array(this.#clusterBytes);
    const entry = new Uint8Array(8);
    putEntry(viewOf(entry), 0, offset, { copied: true, zero: false });
    // If one of these fails the new cluster leaks: whether the entry is in the file is then unknown. An empty table in
    // a cluster that was never written is there already.
    if (old || !virgin) {
      await this.#file.write(offset, bytes);
      await this.#file.barrier();
    }
    await this.#file.write(this.#header.l1Offset + l1Index * 8, entry);
    new Uint8Array(this.#l1.buffer).set(entry, l1Index * 8);
    if (l1Index >= this.#l1Used) this.#l1Used = l1Index + 1;
    const table = pin(newTable(offset, bytes));
    this.#cache.put(l1Index, table);
    if (old) this.#allocator.release(old.offset, 1);
    return table;
  }
}
