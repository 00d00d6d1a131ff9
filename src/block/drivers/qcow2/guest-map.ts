/**
 * From guest offsets to runs of clusters that are mapped alike, and the reading of such runs, the backing node's part
 * included. It changes nothing; callers hold the range (range-lock.ts).
 */
import { IoError } from '../../../base/errors.ts';
import type { BlockExtent } from '../../driver.ts';
import type { BlockNode } from '../../node.ts';
import { readCompressed } from './compressed.ts';
import { clusterKind, entryOffset, isCopied } from './format.ts';
import type { ClusterKind } from './format.ts';
import type { Qcow2Header } from './header.ts';
import type { HostFile } from './host-file.ts';
import type { L2Table } from './table-cache.ts';
import type { MappingTables } from './tables.ts';

/** Bytes of the guest that are mapped alike, inside one L2 table. */
export interface Run {
  readonly kind: ClusterKind;
  /** Allocated, referred to once: may be written in place. */
  readonly inPlace: boolean;
  readonly length: number;
  /** File offset of the first byte (data and zero-allocated). */
  readonly hostOffset: number;
  readonly hi: number;
  readonly lo: number;
}

export class GuestMap {
  readonly clusterBytes: number;
  readonly backing: BlockNode | null;
  readonly #header: Readonly<Qcow2Header>;
  readonly #file: HostFile;
  readonly #tables: MappingTables;
  /** The last compressed cluster that was read. */
  #inflated: { hi: number; lo: number; bytes: Uint8Array } | null = null;

  constructor(
    header: Readonly<Qcow2Header>,
    file: HostFile,
    tables: MappingTables,
    backing: BlockNode | null,
  ) {
    this.clusterBytes = 2 ** header.clusterBits;
    this.#header = header;
    this.#file = file;
    this.#tables = tables;
    this.backing = backing;
  }

  /** Forgets what was inflated: its place may be used anew. */
  forget(): void {
    this.#inflated = null;
  }

  /** The run of clusters mapped alike from `offset`, `max` bytes at most. `loose`: data need not be contiguous. */
  async run(offset: number, max: number, loose = false): Promise<Run> {
    const l1Index = Math.floor(offset / this.clusterBytes / this.#tables.l2Entries);
    let table = this.#tables.peek(l1Index);
    if (table === undefined) table = await this.#tables.table(l1Index);
    return this.#runIn(table, offset, max, loose);
  }

  /** The same at once, or null when the table has to be loaded first. */
  peekRun(offset: number, max: number): Run | null {
    const table = this.#tables.peek(Math.floor(offset / this.clusterBytes / this.#tables.l2Entries));
    return table === undefined ? null : this.#runIn(table, offset, max, false);
  }

  #runIn(table: L2Table | null, offset: number, max: number, loose: boolean): Run {
    const { clusterBits } = this.#header;
    const cluster = Math.floor(offset / this.clusterBytes);
    const l1Index = Math.floor(cluster / this.#tables.l2Entries);
    const index = cluster % this.#tables.l2Entries;
    const inCluster = offset - cluster * this.clusterBytes;
    const wanted = Math.ceil((inCluster + max) / this.clusterBytes);
    const available = Math.min(wanted, this.#tables.l2Entries - index);
    if (!table) return this.unallocated(available * this.clusterBytes - inCluster, max);
    const hi = table.view.getUint32(index * 8);
    const lo = table.view.getUint32(index * 8 + 4);
    const kind = clusterKind(hi, lo);
    const hasOffset = kind === 'data' || kind === 'zero-allocated';
    const host = hasOffset ? this.#checkedOffset(hi, lo, kind, l1Index, index) : 0;
    let count = 1;
    if (kind !== 'compressed' || loose) {
      while (
        count < available &&
        this.#continues(table, index + count, kind, hi, loose ? -1 : host + count * 2 ** clusterBits)
      ) {
        count++;
      }
    }
    const length = Math.min(max, count * this.clusterBytes - inCluster);
    return { kind, inPlace: hasOffset && isCopied(hi), length, hostOffset: host + inCluster, hi, lo };
  }

  /** A run without a mapping. */
  unallocated(length: number, max: number): Run {
    return {
      kind: 'unallocated',
      inPlace: false,
      length: Math.min(length, max),
      hostOffset: 0,
      hi: 0,
      lo: 0,
    };
  }

  #continues(table: L2Table, index: number, kind: ClusterKind, firstHi: number, expected: number): boolean {
    const hi = table.view.getUint32(index * 8);
    const lo = table.view.getUint32(index * 8 + 4);
    if (clusterKind(hi, lo) !== kind) return false;
    if (expected < 0 || kind === 'unallocated' || kind === 'zero') return true;
    return entryOffset(hi, lo) === expected && isCopied(hi) === isCopied(firstHi);
  }

  #checkedOffset(hi: number, lo: number, kind: ClusterKind, l1Index: number, index: number): number {
    const offset = entryOffset(hi, lo);
    if (kind === 'zero-allocated' && this.#header.version === 2) {
      throw new IoError('EIO', `Zero cluster entry found in pre-v3 image (L1 ${l1Index}, L2 ${index})`);
    }
    if (offset % this.clusterBytes === 0 && offset <= Number.MAX_SAFE_INTEGER) return offset;
    throw new IoError('EIO', `Cluster allocation offset ${offset} unaligned (L1 ${l1Index}, L2 ${index})`);
  }

  async readRun(run: Run, offset: number, out: Uint8Array): Promise<void> {
    if (run.kind === 'data') return this.#file.read(run.hostOffset, out);
    if (run.kind === 'unallocated') return this.#readBelow(offset, out);
    if (run.kind !== 'compressed') {
      out.fill(0);
      return;
    }
    const cached = this.#inflated;
    const hit = cached && cached.hi === run.hi && cached.lo === run.lo;
    const bytes = hit
      ? cached.bytes
      : await readCompressed(
          this.#file,
          run.hi,
          run.lo,
          this.#header.clusterBits,
          this.#header.compressionType,
        );
    if (!hit) this.#inflated = { hi: run.hi, lo: run.lo, bytes };
    const inCluster = offset % this.clusterBytes;
    out.set(bytes.subarray(inCluster, inCluster + out.byteLength));
  }

  async #readBelow(offset: number, out: Uint8Array): Promise<void> {
    const there = this.backing ? Math.max(0, Math.min(out.byteLength, this.backing.lengthBytes - offset)) : 0;
    if (this.backing && there > 0) await this.backing.read(offset, out.subarray(0, there));
    if (there < out.byteLength) out.fill(0, there);
  }

  /** True: without a mapping this offset reads as zeros. */
  belowIsZero(offset: number): boolean {
    return this.backing === null || offset >= this.backing.lengthBytes;
  }

  /** What the backing node says of a range that is not allocated here. */
  async statusBelow(offset: number, length: number): Promise<BlockExtent[]> {
    const there = this.backing ? Math.max(0, Math.min(length, this.backing.lengthBytes - offset)) : 0;
    const below = this.backing && there > 0 ? await this.backing.blockStatus(offset, there) : [];
    const extents = below.map((extent) => ({ ...extent, allocated: false }));
    if (there < length) {
      extents.push({
        offset: offset + there,
        length: length - there,
        zero: true,
        data: false,
        allocated: false,
      });
    }
    return extents;
  }
}
