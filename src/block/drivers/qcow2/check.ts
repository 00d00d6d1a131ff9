/**
 * The consistency check: counts the references to every cluster (header, tables, L2, data) and compares them with the
 * refcounts in the file and with the COPIED flags. Words and meaning as `qemu-img check` (QEMU block/qcow2-refcount.c;
 * docs/qemu-behaviour.md 9.3): too low a count or a false flag is an error, too high a count is a leak. Reading only;
 * repair.ts changes.
 */
import type { BlockNode } from '../../node.ts';
import { clusterKind, compressedPlace, entryOffset, hasReservedBits, isCopied, viewOf } from './format.ts';
import { Qcow2Error } from './header.ts';
import type { Qcow2Header } from './header.ts';
import { HostFile } from './host-file.ts';
import { decodeRefcountTable, refcountCodec } from './refcount-codec.ts';
import { walkTables } from './walk.ts';
import type { WalkedTable } from './walk.ts';

/** Two bytes of memory a cluster, twice. */
const MAX_CLUSTERS = 2 ** 27;
const MAX_MESSAGES = 1000;
const SATURATED = 65535;

export interface CheckReport {
  errors: number;
  leaks: number;
  /** Guest clusters that have a place in the file, of all. */
  allocatedClusters: number;
  totalClusters: number;
  compressedClusters: number;
  fragmentedClusters: number;
  /** The end of the last cluster in use. */
  imageEndOffset: number;
  /** One line a finding, the first thousand. */
  messages: string[];
  /** References found, by cluster index (saturating at 65535), those by the refcount structure included. */
  references: Uint16Array;
  /** The same without the refcount table and its blocks. */
  ownReferences: Uint16Array;
  /** The refcount table is broken, lacks blocks, or shares clusters: single counts cannot be repaired in it. */
  structureBroken: boolean;
  /** Counts in the file, by cluster index (saturating at 65535). */
  counts: Uint16Array;
}

/** Checks the image in `node`. Throws Qcow2Error when it cannot be checked (snapshots, too large), IoError. */
export async function checkQcow2(node: BlockNode, header: Readonly<Qcow2Header>): Promise<CheckReport> {
  if (header.snapshotCount > 0) throw new Qcow2Error('Images with internal snapshots cannot be checked');
  const run = new Check(node, header);
  await run.references();
  await run.compare();
  await run.flags();
  return run.report;
}

class Check {
  readonly report: CheckReport;
  readonly #file: HostFile;
  readonly #header: Readonly<Qcow2Header>;
  readonly #clusterBytes: number;
  #lastData = -1;

  constructor(node: BlockNode, header: Readonly<Qcow2Header>) {
    this.#clusterBytes = 2 ** header.clusterBits;
    this.#file = new HostFile(node, this.#clusterBytes);
    this.#header = header;
    const clusters = Math.ceil(node.lengthBytes / this.#clusterBytes);
    if (clusters > MAX_CLUSTERS)
      throw new Qcow2Error(`An image of ${clusters} clusters is too large to check`);
    const references = new Uint16Array(clusters);
    this.report = {
      errors: 0,
      leaks: 0,
      allocatedClusters: 0,
      totalClusters: Math.ceil(header.sizeBytes / this.#clusterBytes),
      compressedClusters: 0,
      fragmentedClusters: 0,
      imageEndOffset: 0,
      messages: [],
      references,
      ownReferences: references,
      structureBroken: false,
      counts: new Uint16Array(clusters),
    };
  }

  async references(): Promise<void> {
    const header = this.#header;
    this.#refer(0, this.#clusterBytes, 'header');
    if (header.l1Size > 0) this.#refer(header.l1Offset, header.l1Size * 8, 'L1 table');
    await walkTables(this.#file, header, {
      l1: ({ view }, at, index) => {
        const [hi, lo] = [view.getUint32(at), view.getUint32(at + 4)];
        if (hasReservedBits(hi, lo, 'l1'))
          this.#error(`ERROR found L1 entry ${index} with reserved bits set`);
        const offset = entryOffset(hi, lo);
        return offset !== 0 && this.#referAligned(offset, `L2 table ${index}`);
      },
      l2: (table, at, index) => this.#l2Entry(table, at, index),
    });
  }

  #l2Entry({ view, name }: WalkedTable, at: number, index: number): void {
    const hi = view.getUint32(at);
    const lo = view.getUint32(at + 4);
    const kind = clusterKind(hi, lo);
    if (kind !== 'compressed' && hasReservedBits(hi, lo, 'l2'))
      this.#error(`ERROR found L2 entry ${index} of ${name} with reserved bits set`);
    if (kind === 'unallocated' || kind === 'zero') return;
    const what = `${name} entry ${index}`;
    this.report.allocatedClusters++;
    if (kind === 'compressed') {
      this.report.compressedClusters++;
      this.report.fragmentedClusters++;
      if (isCopied(hi)) this.#error(`ERROR: ${what}: compressed cluster has the COPIED flag`);
      const { offset, length } = compressedPlace(hi, lo, this.#header.clusterBits);
      // The last sector that an entry names may lie behind the end of the file.
      this.#refer(offset, Math.min(length, Math.max(1, this.#file.lengthBytes - offset)), what);
      return;
    }
    const offset = entryOffset(hi, lo);
    if (!this.#referAligned(offset, what)) return;
    if (this.#lastData >= 0 && offset !== this.#lastData + this.#clusterBytes)
      this.report.fragmentedClusters++;
    this.#lastData = offset;
  }

  #referAligned(offset: number, what: string): boolean {
    if (offset % this.#clusterBytes === 0) return this.#refer(offset, this.#clusterBytes, what);
    this.#error(`ERROR: ${what}: offset 0x${offset.toString(16)} is not properly aligned`);
    return false;
  }

  #refer(offset: number, length: number, what: string): boolean {
    const first = Math.floor(offset / this.#clusterBytes);
    const last = Math.floor((offset + length - 1) / this.#clusterBytes);
    const { references } = this.report;
    if (!(last < references.length)) {
      this.#error(`ERROR: ${what}: offset 0x${offset.toString(16)} lies behind the end of the image file`);
      return false;
    }
    for (let cluster = first; cluster <= last; cluster++) {
      references[cluster] = Math.min(SATURATED, (references[cluster] ?? 0) + 1);
    }
    return true;
  }

  /** Reads the counts, block by block, and compares. */
  async compare(): Promise<void> {
    const { report } = this;
    report.ownReferences = report.references.slice();
    const codec = refcountCodec(this.#header.refcountOrder);
    const perBlock = (this.#clusterBytes * 8) / codec.bits;
    const tableBytes = this.#header.refcountTableClusters * this.#clusterBytes;
    const bytes = new Uint8Array(tableBytes);
    const structure: number[] = [];
    for (let at = 0; at < tableBytes; at += this.#clusterBytes) {
      const offset = this.#header.refcountTableOffset + at;
      if (this.#refer(offset, this.#clusterBytes, 'refcount table')) structure.push(offset);
      else report.structureBroken = true;
    }
    await this.#file.read(this.#header.refcountTableOffset, bytes);
    const table = decodeRefcountTable(bytes, this.#clusterBytes);
    // A block's own cluster is referred to by the table: all of that comes before any comparison.
    for (const [index, offset] of table.entries()) {
      if (offset === 0) continue;
      if (Number.isNaN(offset))
        this.#error(`ERROR refcount block ${index} is not cluster aligned; refcount table entry corrupted`);
      else if (this.#refer(offset, this.#clusterBytes, `refcount block ${index}`)) {
        structure.push(offset);
        continue;
      }
      report.structureBroken = true;
    }
    for (const offset of structure)
      if ((report.references[offset / this.#clusterBytes] ?? 0) > 1) report.structureBroken = true;
    if (report.references.subarray(table.length * perBlock).some((found) => found > 0))
      report.structureBroken = true;
    const block = new Uint8Array(this.#clusterBytes);
    const view = viewOf(block);
    for (const [index, offset] of table.entries()) {
      if (offset === 0 || !(offset < this.#file.lengthBytes)) {
        if (report.references.subarray(index * perBlock, (index + 1) * perBlock).some((found) => found > 0))
          report.structureBroken = true;
        continue;
      }
      // Counts behind the end of the file are of no consequence (QEMU does not look at them either).
      const end = Math.min(perBlock, report.counts.length - index * perBlock);
      if (end <= 0) continue;
      await this.#file.read(offset, block);
      for (let entry = 0; entry < end; entry++)
        report.counts[index * perBlock + entry] = Math.min(SATURATED, codec.get(view, entry));
    }
    this.#judge();
  }

  #judge(): void {
    const { counts, references } = this.report;
    for (let cluster = 0; cluster < references.length; cluster++) {
      const count = counts[cluster] ?? 0;
      const reference = references[cluster] ?? 0;
      if (count > 0 || reference > 0) this.report.imageEndOffset = (cluster + 1) * this.#clusterBytes;
      if (count < reference) this.#error(`ERROR cluster ${cluster} refcount=${count} reference=${reference}`);
      else if (count > reference) this.#leak(cluster, count, reference);
    }
  }

  /** The COPIED flag says: the count is 1. */
  async flags(): Promise<void> {
    const { counts } = this.report;
    await walkTables(this.#file, this.#header, {
      l1: ({ view }, at, index) => {
        const offset = entryOffset(view.getUint32(at), view.getUint32(at + 4));
        if (offset === 0 || offset % this.#clusterBytes !== 0 || offset >= this.#file.lengthBytes)
          return false;
        this.#flag(view.getUint32(at), counts[offset / this.#clusterBytes] ?? 0, `L2 table ${index}`);
        return true;
      },
      l2: ({ view, name }, at, index) => {
        const cluster = flaggedCluster(view, at, this.#clusterBytes, counts.length);
        if (cluster !== null) this.#flag(view.getUint32(at), counts[cluster] ?? 0, `${name} entry ${index}`);
      },
    });
  }

  #flag(hi: number, count: number, what: string): void {
    if (isCopied(hi) === (count === 1)) return;
    this.#error(`ERROR OFLAG_COPIED: ${what}: flag ${isCopied(hi) ? 'set' : 'not set'}, refcount=${count}`);
  }

  #leak(cluster: number, count: number, reference: number): void {
    this.report.leaks++;
    this.#say(`Leaked cluster ${cluster} refcount=${count} reference=${reference}`);
  }

  #error(message: string): void {
    this.report.errors++;
    this.#say(message);
  }

  #say(message: string): void {
    if (this.report.messages.length < MAX_MESSAGES) this.report.messages.push(message);
  }
}

/** The cluster whose count the COPIED flag of an L2 entry speaks of, or null if the entry has no such flag. */
export function flaggedCluster(
  view: DataView,
  at: number,
  clusterBytes: number,
  clusters: number,
): number | null {
  const hi = view.getUint32(at);
  const lo = view.getUint32(at + 4);
  const kind = clusterKind(hi, lo);
  if (kind !== 'data' && kind !== 'zero-allocated') return null;
  const cluster = entryOffset(hi, lo) / clusterBytes;
  return Number.isInteger(cluster) && cluster < clusters ? cluster : null;
}
