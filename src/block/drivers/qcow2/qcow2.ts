/**
 * The qcow2 driver: guest requests on top of the mapping (tables.ts), the allocator (refcounts.ts) and the file.
 *
 * Rule of order: clusters are counted before they are handed out (allocator.ts), their data is written, then the L2
 * entry points to them, and what they replace is let go of last. All of it is written through at once, so an ended write
 * survives the process, and a killed process leaves at worst leaks.
 *
 * The host losing power: between two flushes the disk may take any part of what was written. Where an entry must not
 * arrive before what it refers to, a barrier (a flush) is put between: when a chunk of clusters is counted, when a table
 * comes into a used cluster, when content is copied into a new cluster. So the image stays without errors, and what was
 * flushed and not written since stays as it was, next to what was written too. After makeEmpty there is nothing to keep
 * until the next flush, and no barriers.
 *
 * Requests overlap. Those that find every cluster in place (allocated, referred to once) share the range lock; those
 * that change a mapping hold their clusters alone. Sources: QEMU docs/interop/qcow2.rst; docs/qemu-behaviour.md 9.
 */
import { ColoError, IoError } from '../../../base/errors.ts';
import type { BlockDriver, BlockExtent, WriteFlags } from '../../driver.ts';
import type { BlockNode } from '../../node.ts';
import type { Allocator } from './allocator.ts';
import { Batch } from './batch.ts';
import { ClusterWriter } from './cluster-writer.ts';
import { packCluster } from './compressed.ts';
import { MAX_L1_BYTES } from './format.ts';
import { GuestMap } from './guest-map.ts';
import type { Run } from './guest-map.ts';
import { FIELD, l1EntriesFor } from './header.ts';
import type { Qcow2Header } from './header.ts';
import type { HostFile } from './host-file.ts';
import { RangeLock } from './range-lock.ts';
import type { HeldRange } from './range-lock.ts';
import type { Refcounts } from './refcounts.ts';
import type { MappingTables } from './tables.ts';

/** A backing file as the header names it. */
export interface NamedBacking {
  readonly file: string;
  /** Where that leads; null when it is relative and the image has no folder. */
  readonly fullName: string | null;
  readonly format: string | null;
}

export interface Qcow2Parts {
  readonly header: Qcow2Header;
  readonly fileNode: BlockNode;
  readonly backing: BlockNode | null;
  readonly readOnly: boolean;
  /** What the header says of a backing file, whatever backs the node now. */
  readonly named?: NamedBacking | null;
  readonly file: HostFile;
  readonly refcounts: Refcounts;
  readonly allocator: Allocator;
  readonly tables: MappingTables;
  readonly copyBarrier: boolean;
}

export class Qcow2Driver implements BlockDriver {
  readonly driverName = 'qcow2';
  readonly readOnly: boolean;
  readonly clusterBytes: number;
  readonly header: Readonly<Qcow2Header>;
  /** What the header says of a backing file; whoever rewrites the header changes this too. */
  namedBacking: NamedBacking | null;
  readonly #header: Qcow2Header;
  readonly #file: HostFile;
  readonly #refcounts: Refcounts;
  readonly #allocator: Allocator;
  readonly #tables: MappingTables;
  readonly #backing: BlockNode | null;
  readonly #fileNode: BlockNode;
  readonly #children: ReadonlyMap<string, BlockNode>;
  readonly #locks = new RangeLock();
  readonly #map: GuestMap;
  readonly #writer: ClusterWriter;
  #headerReady: Promise<void> | null = null;

  constructor(parts: Qcow2Parts) {
    const { header, file, refcounts, allocator, tables, backing } = parts;
    this.header = header;
    this.#header = header;
    this.namedBacking = parts.named ?? null;
    this.readOnly = parts.readOnly;
    this.clusterBytes = 2 ** header.clusterBits;
    this.#file = file;
    this.#refcounts = refcounts;
    this.#allocator = allocator;
    this.#tables = tables;
    this.#backing = backing;
    this.#fileNode = parts.fileNode;
    this.#map = new GuestMap(header, file, tables, backing);
    this.#writer = new ClusterWriter(header, file, tables, allocator, this.#map, parts.copyBarrier);
    this.#children = new Map([['file', parts.fileNode], ...(backing ? [['backing', backing] as const] : [])]);
  }

  get lengthBytes(): number {
    return this.#header.sizeBytes;
  }

  children(): ReadonlyMap<string, BlockNode> {
    return this.#children;
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    if (target.byteLength === 0) return;
    const held = await this.#share(offset, target.byteLength);
    try {
      const first =
        this.#map.peekRun(offset, target.byteLength) ?? (await this.#map.run(offset, target.byteLength));
      if (first.length === target.byteLength) {
        await this.#map.readRun(first, offset, target);
        return;
      }
      const jobs = new Batch();
      let run = first;
      for (let done = 0; done < target.byteLength;) {
        if (done > 0) run = await this.#map.run(offset + done, target.byteLength - done);
        const out = target.subarray(done, done + run.length);
        await jobs.add(this.#map.readRun(run, offset + done, out));
        done += run.length;
      }
      await jobs.end();
    } finally {
      this.#locks.release(held);
    }
  }

  async write(offset: number, source: Uint8Array, flags?: WriteFlags): Promise<void> {
    if (source.byteLength > 0) {
      if (this.#header.autoclear !== 0n) await this.#beforeChange();
      if (!(await this.#writeInPlace(offset, source))) {
        await this.#holding(offset, source.byteLength, true, () => this.#writer.write(offset, source));
      }
    }
    if (flags?.fua) await this.flush();
  }

  /**
   * Stores one guest cluster deflated, as `qemu-img convert -c` does, or plain when it does not shrink. `offset` is the
   * cluster's; `cluster` holds all of it (the image's last one may be shorter). Calls may overlap.
   */
  async writeCompressed(offset: number, cluster: Uint8Array): Promise<void> {
    const length = Math.min(this.clusterBytes, this.lengthBytes - offset);
    if (this.readOnly) throw new IoError('EPERM', 'A read-only qcow2 image cannot be written');
    if (!(offset >= 0 && offset % this.clusterBytes === 0 && length > 0 && cluster.byteLength === length)) {
      throw new IoError('EINVAL', 'Compressed writes must cover whole clusters');
    }
    let whole = cluster;
    if (length < this.clusterBytes) {
      whole = new Uint8Array(this.clusterBytes);
      whole.set(cluster);
    }
    // What is written compressed is deflate: in an image of zstd it goes in plain.
    const packed = this.#header.compressionType === 0 ? await packCluster(whole) : null;
    if (!packed) return this.write(offset, cluster);
    await this.#beforeChange();
    await this.#holding(offset, length, true, () => this.#writer.writePacked(offset, packed));
  }

  async flush(): Promise<void> {
    if (this.readOnly) return this.#file.flush();
    if (!this.#file.lax) return this.#allocator.settle('flush');
    // Requests under way have put up no barriers.
    const held = await this.#locks.acquire(0, Infinity, true);
    try {
      await this.#allocator.quiet();
      await this.#allocator.settle('flush');
      this.#file.lax = false;
    } finally {
      this.#locks.release(held);
    }
  }

  async writeZeroes(offset: number, length: number, flags?: WriteFlags): Promise<void> {
    await this.#beforeChange();
    const end = offset + length;
    const { first, last } = this.#wholeClusters(offset, end);
    const bodyFrom = first * this.clusterBytes;
    const bodyEnd = Math.min(last * this.clusterBytes, this.lengthBytes);
    if (last <= first) {
      if (length > 0) await this.#zeroPart(offset, length);
    } else {
      if (offset < bodyFrom) await this.#zeroPart(offset, bodyFrom - offset);
      await this.#holding(bodyFrom, bodyEnd - bodyFrom, true, () =>
        this.#writer.zero(bodyFrom, bodyEnd, flags?.unmap !== false),
      );
      if (end > bodyEnd) await this.#zeroPart(bodyEnd, end - bodyEnd);
    }
    if (flags?.fua) await this.flush();
  }

  async discard(offset: number, length: number): Promise<void> {
    const { first, last } = this.#wholeClusters(offset, offset + length);
    if (last <= first) return;
    await this.#beforeChange();
    const from = first * this.clusterBytes;
    const end = Math.min(last * this.clusterBytes, this.lengthBytes);
    await this.#holding(from, end - from, true, async () => {
      for (let at = from; at < end;) {
        const run = await this.#map.run(at, end - at);
        const keepsZero = this.#map.belowIsZero(at);
        // Version 2 cannot hide what the backing file holds: there a discard does nothing.
        const useful =
          run.kind !== 'unallocated' && run.kind !== 'zero' && (keepsZero || this.#header.version === 3);
        if (useful) await this.#writer.unmap(at, run, !keepsZero);
        at += run.length;
      }
    });
  }

  async blockStatus(offset: number, length: number, wantMap = false): Promise<BlockExtent[]> {
    const extents: BlockExtent[] = [];
    if (length === 0) return extents;
    await this.#holding(offset, length, false, async () => {
      for (let done = 0; done < length;) {
        const run = await this.#map.run(offset + done, length - done, !wantMap);
        const at = offset + done;
        if (run.kind === 'unallocated') extents.push(...(await this.#map.statusBelow(at, run.length)));
        else {
          const zero = run.kind === 'zero' || run.kind === 'zero-allocated';
          const map =
            wantMap && (run.kind === 'data' || run.kind === 'zero-allocated')
              ? { file: this.#fileNode, offset: run.hostOffset }
              : undefined;
          extents.push({ offset: at, length: run.length, zero, data: !zero, allocated: true, map });
        }
        done += run.length;
      }
    });
    return extents;
  }

  /**
   * All at once: the L1 table is zeroed (now nothing refers to any cluster: a kill leaks), the counts are rewritten to
   * hold the metadata alone, and the file is cut behind it.
   */
  async makeEmpty(isStable = false): Promise<void> {
    if (this.readOnly) throw new IoError('EPERM', 'A read-only qcow2 image cannot be emptied');
    if (this.#tables.isEmpty && !isStable) {
      this.#file.lax = true;
      return;
    }
    await this.#beforeChange();
    const held = await this.#locks.acquire(0, Infinity, true);
    try {
      await this.#allocator.quiet();
      this.#map.forget();
      await this.#tables.clear();
      if (isStable) await this.#file.flush();
      this.#file.lax = true;
      this.#allocator.reset();
      await this.#file.cut(await this.#refcounts.reset());
    } finally {
      this.#locks.release(held);
    }
  }

  async truncate(lengthBytes: number): Promise<void> {
    const old = this.lengthBytes;
    if (lengthBytes === old) return;
    if (lengthBytes < old) throw new ColoError('Shrinking qcow2 images is not supported');
    const entries = l1EntriesFor(lengthBytes, this.#header.clusterBits);
    if (entries * 8 > MAX_L1_BYTES)
      throw new ColoError('The image would be larger than its cluster size allows');
    await this.#beforeChange();
    const held = await this.#locks.acquire(0, Infinity, true);
    try {
      if (entries > this.#header.l1Size) await this.#tables.growL1(entries);
      // What the backing file holds behind the old end must not come to light, not even if we are killed now.
      const hidden = Math.min(lengthBytes, this.#backing?.lengthBytes ?? 0);
      if (hidden > old) {
        const from = Math.min(hidden, Math.ceil(old / this.clusterBytes) * this.clusterBytes);
        if (from > old) await this.#writer.write(old, new Uint8Array(from - old));
        await this.#writer.zero(from, hidden, true);
        await this.#file.barrier();
      }
      await this.#tables.setSize(lengthBytes);
    } finally {
      this.#locks.release(held);
    }
  }

  async close(): Promise<void> {
    this.#tables.forgetCache();
    if (this.readOnly) return;
    await this.#allocator.close();
    await this.#file.trim();
    await this.#file.flush();
  }

  /** Writes when every cluster is in place already. */
  async #writeInPlace(offset: number, source: Uint8Array): Promise<boolean> {
    const held = await this.#share(offset, source.byteLength);
    try {
      const first =
        this.#map.peekRun(offset, source.byteLength) ?? (await this.#map.run(offset, source.byteLength));
      if (first.kind !== 'data' || !first.inPlace) return false;
      if (first.length === source.byteLength) {
        await this.#file.write(first.hostOffset, source);
        return true;
      }
      const runs: Run[] = [];
      for (let done = 0; done < source.byteLength;) {
        const run = await this.#map.run(offset + done, source.byteLength - done);
        if (run.kind !== 'data' || !run.inPlace) return false;
        runs.push(run);
        done += run.length;
      }
      const jobs = new Batch();
      let done = 0;
      for (const run of runs) {
        await jobs.add(this.#file.write(run.hostOffset, source.subarray(done, done + run.length)));
        done += run.length;
      }
      await jobs.end();
      return true;
    } finally {
      this.#locks.release(held);
    }
  }

  /** Holds the clusters of a range beside others that leave the mapping alone. */
  #share(offset: number, length: number): HeldRange | Promise<HeldRange> {
    const first = Math.floor(offset / this.clusterBytes);
    const last = Math.floor((offset + length - 1) / this.clusterBytes);
    return this.#locks.tryAcquire(first, last, false) ?? this.#locks.acquire(first, last, false);
  }

  /** The clusters that lie wholly in [offset, end); the image's last one counts as whole when `end` is its end. */
  #wholeClusters(offset: number, end: number): { first: number; last: number } {
    const last =
      end >= this.lengthBytes ? Math.ceil(end / this.clusterBytes) : Math.floor(end / this.clusterBytes);
    return { first: Math.ceil(offset / this.clusterBytes), last };
  }

  async #zeroPart(offset: number, length: number): Promise<void> {
    await this.#holding(offset, length, true, async () => {
      const run = await this.#map.run(offset, length);
      const isZero =
        run.kind === 'zero' ||
        run.kind === 'zero-allocated' ||
        (run.kind === 'unallocated' && this.#map.belowIsZero(offset));
      if (isZero && run.length === length) return;
      await this.#writer.write(offset, new Uint8Array(length));
    });
  }

  async #holding<T>(offset: number, length: number, alone: boolean, act: () => Promise<T>): Promise<T> {
    const first = Math.floor(offset / this.clusterBytes);
    const last = Math.floor((offset + length - 1) / this.clusterBytes);
    const held =
      this.#locks.tryAcquire(first, last, alone) ?? (await this.#locks.acquire(first, last, alone));
    try {
      return await act();
    } finally {
      this.#locks.release(held);
    }
  }

  /** Before the first change of metadata: clears the autoclear bits, as we maintain none of what they stand for. */
  #beforeChange(): Promise<void> {
    this.#headerReady ??= this.#clearAutoclear().catch((error: unknown) => {
      this.#headerReady = null;
      throw error;
    });
    return this.#headerReady;
  }

  async #clearAutoclear(): Promise<void> {
    if (this.#header.autoclear === 0n) return;
    await this.#file.write(FIELD.autoclear, new Uint8Array(8));
    await this.#file.barrier();
    this.#header.autoclear = 0n;
  }
}
