/**
 * Makes an empty qcow2 image in a file: header, refcount table, refcount blocks, L1 table, in this order, as
 * `qemu-img create` lays them out (docs/qemu-behaviour.md 9.1). The header is written last: a kill leaves no half image.
 */
import { open } from 'node:fs/promises';
import { BlockNode } from '../../node.ts';
import { FileDriver } from '../file.ts';
import {
  COMPAT_LAZY_REFCOUNTS,
  EXT_BACKING_FORMAT,
  MAX_CLUSTER_BITS,
  MAX_L1_BYTES,
  MIN_CLUSTER_BITS,
  setUint64,
  viewOf,
} from './format.ts';
import { Qcow2Error, encodeHeader, l1EntriesFor } from './header.ts';
import { Allocator } from './allocator.ts';
import { ClusterWriter } from './cluster-writer.ts';
import { GuestMap } from './guest-map.ts';
import { HostFile } from './host-file.ts';
import { readQcow2Info } from './open.ts';
import { refcountCodec } from './refcount-codec.ts';
import { Refcounts } from './refcounts.ts';
import { DEFAULT_L2_CACHE_BYTES, MappingTables } from './tables.ts';

/** Preallocated data is written in pieces of this size. */
const FILL_PIECE = 2 ** 20;

export interface CreateQcow2Options {
  /** Virtual size in bytes; QEMU rounds it up to a multiple of 512. */
  readonly sizeBytes: number;
  /** 9 to 21, default 16. */
  readonly clusterBits?: number;
  /** Default 3. */
  readonly version?: 2 | 3;
  readonly backingFile?: string;
  readonly backingFormat?: string;
  /** 0 to 6, default 4; version 2 knows 4 only. */
  readonly refcountOrder?: number;
  readonly lazyRefcounts?: boolean;
  /**
   * `metadata`: every guest cluster has a place from the start; `falloc`, `full`: these places are written with zeros
   * too. Default `off`.
   */
  readonly preallocation?: 'off' | 'metadata' | 'falloc' | 'full';
}

/** Writes an empty image to `path`, replacing what was there. Throws Qcow2Error, ColoError (locks), IoError. */
export async function createQcow2(path: string, options: CreateQcow2Options): Promise<void> {
  const plan = planImage(options);
  await (await open(path, 'a')).close();
  const file = new BlockNode('#create', await FileDriver.open(path));
  try {
    await file.driver.truncate?.(0);
    await file.driver.truncate?.(plan.totalBytes);
    await file.write(plan.tableOffset, plan.table);
    await file.write(plan.blocksOffset, plan.blocks);
    await file.write(0, plan.header);
    const { preallocation = 'off' } = options;
    if (preallocation !== 'off') await preallocate(file, plan.sizeBytes, preallocation !== 'metadata');
    await file.flush();
  } finally {
    await file.close();
  }
}

/** Maps the whole image of a new file, and with `fill` writes its places. */
async function preallocate(node: BlockNode, sizeBytes: number, fill: boolean): Promise<void> {
  const { header } = await readQcow2Info(node, true);
  const file = new HostFile(node, 2 ** header.clusterBits);
  const refcounts = await Refcounts.load(file, header);
  const allocator = new Allocator(refcounts, file, 2 ** header.clusterBits);
  file.lax = true;
  const tables = await MappingTables.load(file, header, allocator, DEFAULT_L2_CACHE_BYTES);
  const map = new GuestMap(header, file, tables, null);
  await new ClusterWriter(header, file, tables, allocator, map).preallocate(0, sizeBytes);
  const zeros = new Uint8Array(fill ? Math.min(FILL_PIECE, sizeBytes) : 0);
  for (let at = 0; fill && at < sizeBytes;) {
    const run = await map.run(at, Math.min(zeros.byteLength, sizeBytes - at));
    await file.write(run.hostOffset, zeros.subarray(0, run.length));
    at += run.length;
  }
  await allocator.close();
  await file.trim();
}

interface Plan {
  readonly sizeBytes: number;
  readonly header: Uint8Array;
  readonly table: Uint8Array;
  readonly tableOffset: number;
  readonly blocks: Uint8Array;
  readonly blocksOffset: number;
  readonly totalBytes: number;
}

function planImage(options: CreateQcow2Options): Plan {
  const clusterBits = options.clusterBits ?? 16;
  const version = options.version ?? 3;
  const refcountOrder = options.refcountOrder ?? 4;
  if (!Number.isInteger(clusterBits) || clusterBits < MIN_CLUSTER_BITS || clusterBits > MAX_CLUSTER_BITS) {
    throw new Qcow2Error('Cluster size must be a power of two between 512 and 2048k');
  }
  if (version === 2 && refcountOrder !== 4) {
    throw new Qcow2Error(
      'Different refcount widths than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)',
    );
  }
  if (version === 2 && options.lazyRefcounts) {
    throw new Qcow2Error(
      'Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)',
    );
  }
  if (options.backingFile !== undefined && (options.preallocation ?? 'off') !== 'off') {
    throw new Qcow2Error(
      'Backing file and preallocation can only be used at the same time if extended_l2 is on',
    );
  }
  const sizeBytes = Math.ceil(options.sizeBytes / 512) * 512;
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0) throw new Qcow2Error('Image size is out of range');
  const clusterBytes = 2 ** clusterBits;
  const l1Size = l1EntriesFor(sizeBytes, clusterBits);
  if (l1Size * 8 > MAX_L1_BYTES) {
    throw new Qcow2Error(
      "The image size is too large for file format 'qcow2' (try using a larger cluster size)",
    );
  }
  const codec = refcountCodec(refcountOrder);
  const perBlock = (clusterBytes * 8) / codec.bits;
  const l1Clusters = Math.ceil((l1Size * 8) / clusterBytes);
  // The refcount structures count themselves: sizes grow until they fit.
  let blocks = 1;
  let tableClusters = 1;
  let total = 0;
  for (;;) {
    total = 1 + tableClusters + blocks + l1Clusters;
    const needBlocks = Math.ceil(total / perBlock);
    const needTable = Math.ceil((needBlocks * 8) / clusterBytes);
    if (needBlocks <= blocks && needTable <= tableClusters) break;
    blocks = Math.max(blocks, needBlocks);
    tableClusters = Math.max(tableClusters, needTable);
  }
  const tableOffset = clusterBytes;
  const blocksOffset = tableOffset + tableClusters * clusterBytes;
  const l1Offset = blocksOffset + blocks * clusterBytes;
  const table = new Uint8Array(tableClusters * clusterBytes);
  for (let index = 0; index < blocks; index++) {
    setUint64(viewOf(table), index * 8, blocksOffset + index * clusterBytes);
  }
  const counts = new Uint8Array(blocks * clusterBytes);
  for (let cluster = 0; cluster < total; cluster++) codec.set(viewOf(counts), cluster, 1);
  const header = encodeHeader(
    {
      version,
      clusterBits,
      sizeBytes,
      cryptMethod: 0,
      l1Size,
      l1Offset: l1Size > 0 ? l1Offset : 0,
      refcountTableOffset: tableOffset,
      refcountTableClusters: tableClusters,
      snapshotCount: 0,
      incompatible: 0n,
      compatible: options.lazyRefcounts ? COMPAT_LAZY_REFCOUNTS : 0n,
      autoclear: 0n,
      refcountOrder,
      compressionType: 0,
    },
    options.backingFormat === undefined
      ? []
      : [{ type: EXT_BACKING_FORMAT, data: new TextEncoder().encode(options.backingFormat) }],
    options.backingFile ?? null,
  );
  return {
    sizeBytes,
    header,
    table,
    tableOffset,
    blocks: counts,
    blocksOffset,
    totalBytes: total * clusterBytes,
  };
}
