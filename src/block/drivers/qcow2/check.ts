/**
 * The consistency check: counts the references to every cluster (header, tables, L2, data) and compares them with the
 * refcounts in the file and with the COPIED flags. Words and meaning as `qemu-img check` (QEMU block/qcow2-refcount.c;
 * docs/qemu-behaviour.md 9.3): too low a count or a false flag is an error, too high a count is a leak. Reading only.
 */
import type { BlockNode } from '../../node.ts';
import { clusterKind, compressedPlace, entryOffset, isCopied, viewOf } from './format.ts';
import { Qcow2Error } from './header.ts';
import type { Qcow2Header } from './header.ts';
import { HostFile } from './host-file.ts';
import { decodeRefcountTable, refcountCodec } from './refcount-codec.ts';

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
  /** References found, by cluster index (saturating at 65535). */
  references: Uint16Array;
  /** Counts in the file, by cluster index (saturating at 65535). */
  counts: Uint16Array;
}

/** Checks the image in `node`. Throws Qcow2Error when it cannot be checked (snapshots, too large), IoError. */
export async function checkQcow2(node: BlockNode, header: Readonly<Qcow2Header>): Promise<CheckReport> {
  if (header.snapshotCount > 0) throw new Qcow2Error('Images with internal snapshots cannot be checked');
  const run = new Check(node, header);
  await run.references();
  await run.compare();
  return run.report;
}

class Check {
  readonly report: CheckReport;
  readonly #file: HostFile;
  readonly #header: Readonly<Qcow2Header>;
  readonly #clusterBytes: number;
  /** Entries whose flag is compared with the count once that is known. */
  readonly #flags: { cluster: number; copied: boolean; what: string }[] = [];
  #lastData = -1;

  constructor(node: BlockNode, header: Readonly<Qcow2Header>) {
    this.#clusterBytes = 2 ** header.clusterBits;
    this.#file = new HostFile(node, this.#clusterBytes);
    this.#header = header;
    const clusters = Math.ceil(node.lengthBytes / this.#clusterBytes);
    if (clusters > MAX_CLUSTERS)
      throw new Qcow2Error(`An image of ${clusters} clusters is too large to check`);
    this.report = {
      errors: 0,
      leaks: 0,
      allocatedClusters: 0,
      totalClusters: Math.ceil(header.sizeBytes / this.#clusterBytes),
      compressedClusters: 0,
      fragmentedClusters: 0,
      imageEndOffset: 0,
      messages: [],
      references: new Uint16Array(clusters),
      counts: new Uint16Array(clusters),
    };
  }

  async references(): Promise<void> {
    const header = this.#header;
    this.#refer(0, this.#clusterBytes, 'header');
    const tableBytes = header.refcountTableClusters * this.#clusterBytes;
    this.#refer(header.refcountTableOffset, tableBytes, 'refcount table');
    const l1 = new Uint8Array(header.l1Size * 8);
    if (l1.byteLength === 0) return;
    this.#refer(header.l1Offset, l1.byteLength, 'L1 table');
    await this.#file.read(header.l1Offset, l1);
    const view = viewOf(l1);
    const l2 = new Uint8Array(this.#clusterBytes);
    for (let index = 0; index < header.l1Size; index++) {
      const hi = view.getUint32(index * 8);
      const offset = entryOffset(hi, view.getUint32(index * 8 + 4));
      if (offset === 0) continue;
      const what = `L2 table ${index}`;
      if (!this.#referEntry(offset, hi, what)) continue;
      await this.#file.read(offset, l2);
      this.#l2References(l2, what);
    }
  }

  #l2References(l2: Uint8Array, table: string): void {
    const view = viewOf(l2);
    for (let at = 0; at < l2.byteLength; at += 8) {
      const hi = view.getUint32(at);
      const lo = view.getUint32(at + 4);
      const kind = clusterKind(hi, lo);
      if (kind === 'unallocated' || kind === 'zero') continue;
      const what = `${table} entry ${at / 8}`;
      this.report.allocatedClusters++;
      if (kind === 'compressed') {
        this.report.compressedClusters++;
        this.report.fragmentedClusters++;
        if (isCopied(hi)) this.#error(`ERROR: ${what}: compressed cluster has the COPIED flag`);
        const { offset, length } = compressedPlace(hi, lo, this.#header.clusterBits);
        // The last sector that an entry names may lie behind the end of the file.
        this.#refer(offset, Math.min(length, Math.max(1, this.#file.lengthBytes - offset)), what);
        continue;
      }
      const offset = entryOffset(hi, lo);
      if (!this.#referEntry(offset, hi, what)) continue;
      if (this.#lastData >= 0 && offset !== this.#lastData + this.#clusterBytes)
        this.report.fragmentedClusters++;
      this.#lastData = offset;
    }
  }

  #referEntry(offset: number, hi: number, what: string): boolean {
    if (offset % this.#clusterBytes !== 0) {
      this.#error(`ERROR: ${what}: offset 0x${offset.toString(16)} is not properly aligned`);
      return false;
    }
    if (!this.#refer(offset, this.#clusterBytes, what)) return false;
    this.#flags.push({ cluster: offset / this.#clusterBytes, copied: isCopied(hi), what });
    return true;
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
    const codec = refcountCodec(this.#header.refcountOrder);
    const perBlock = (this.#clusterBytes * 8) / codec.bits;
    const bytes = new Uint8Array(this.#header.refcountTableClusters * this.#clusterBytes);
    await this.#file.read(this.#header.refcountTableOffset, bytes);
    const table = decodeRefcountTable(bytes, this.#clusterBytes);
    // A block's own cluster is referred to by the table: all of that comes before any comparison.
    for (const [index, offset] of table.entries()) {
      if (offset === 0) continue;
      if (Number.isNaN(offset))
        this.#error(`ERROR refcount block ${index} is not cluster aligned; refcount table entry corrupted`);
      else this.#refer(offset, this.#clusterBytes, `refcount block ${index}`);
    }
    const block = new Uint8Array(this.#clusterBytes);
    const view = viewOf(block);
    const { counts } = this.report;
    for (const [index, offset] of table.entries()) {
      if (offset === 0 || !(offset < this.#file.lengthBytes)) continue;
      await this.#file.read(offset, block);
      for (let entry = 0; entry < perBlock; entry++) {
        const count = codec.get(view, entry);
        const cluster = index * perBlock + entry;
        // Counts behind the end of the file are of no consequence (QEMU does not look at them either).
        if (cluster < counts.length) counts[cluster] = Math.min(SATURATED, count);
      }
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
    for (const { cluster, copied, what } of this.#flags) {
      const count = counts[cluster] ?? 0;
      if (copied !== (count === 1)) {
        this.#error(`ERROR OFLAG_COPIED: ${what}: flag ${copied ? 'set' : 'not set'}, refcount=${count}`);
      }
    }
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
