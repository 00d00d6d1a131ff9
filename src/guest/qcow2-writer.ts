/**
 * Writes a raw disk image out as a sparse qcow2 version 3 file (QEMU docs/interop/qcow2.txt), 64 KiB clusters, all-zero
 * clusters left unallocated, the same bytes for the same input.
 *
 * It makes new files only: no backing file, snapshots, compression or update in place.
 */
import { open, type FileHandle } from 'node:fs/promises';

const CLUSTER_BITS = 16;
const CLUSTER = 1 << CLUSTER_BITS;
const MAGIC = 0x514649fb;
const HEADER_LENGTH = 104;
const REFCOUNT_ORDER = 4;
const L2_ENTRIES = CLUSTER / 8;
const REFCOUNTS_PER_BLOCK = CLUSTER / 2;
/** Bit 63 of an L1/L2 entry: the cluster's refcount is exactly one. */
const COPIED = 1n << 63n;

/** Reads the raw image at `rawPath` and writes it as qcow2 to `out`, which is replaced. */
export async function writeQcow2(rawPath: string, out: string): Promise<void> {
  const source = await open(rawPath, 'r');
  try {
    const target = await open(out, 'w');
    try {
      await copyImage(source, target);
      await target.sync();
    } finally {
      await target.close();
    }
  } finally {
    await source.close();
  }
}

async function copyImage(source: FileHandle, target: FileHandle): Promise<void> {
  const virtualSize = (await source.stat()).size;
  const guestClusters = Math.ceil(virtualSize / CLUSTER);
  const l1Entries = Math.max(1, Math.ceil(guestClusters / L2_ENTRIES));
  const l1Clusters = Math.ceil((l1Entries * 8) / CLUSTER);
  // The refcount structures are sized for a full image: their place must be known before the data is seen.
  const mostClusters = 2 + l1Clusters + l1Entries + guestClusters;
  const refcountBlocks = Math.ceil((mostClusters * 1.01 + 8) / REFCOUNTS_PER_BLOCK);
  const tableClusters = Math.ceil((refcountBlocks * 8) / CLUSTER);

  const refcountTableAt = CLUSTER;
  const refcountBlocksAt = refcountTableAt + tableClusters * CLUSTER;
  const l1At = refcountBlocksAt + refcountBlocks * CLUSTER;
  let next = l1At + l1Clusters * CLUSTER;

  const l1 = Buffer.alloc(l1Clusters * CLUSTER);
  const data = Buffer.alloc(CLUSTER);
  for (let table = 0; table * L2_ENTRIES < guestClusters; table += 1) {
    let l2: Buffer | undefined;
    let l2At = 0;
    const end = Math.min(guestClusters, (table + 1) * L2_ENTRIES);
    for (let cluster = table * L2_ENTRIES; cluster < end; cluster += 1) {
      data.fill(0);
      await source.read(data, 0, CLUSTER, cluster * CLUSTER);
      if (isZero(data)) continue;
      if (l2 === undefined) {
        l2 = Buffer.alloc(CLUSTER);
        l2At = next;
        next += CLUSTER;
        l1.writeBigUInt64BE(BigInt(l2At) | COPIED, table * 8);
      }
      l2.writeBigUInt64BE(BigInt(next) | COPIED, (cluster % L2_ENTRIES) * 8);
      await target.write(data, 0, CLUSTER, next);
      next += CLUSTER;
    }
    if (l2 !== undefined) await target.write(l2, 0, CLUSTER, l2At);
  }
  await target.write(l1, 0, l1.length, l1At);

  const used = next / CLUSTER;
  const table = Buffer.alloc(tableClusters * CLUSTER);
  const counts = Buffer.alloc(refcountBlocks * CLUSTER);
  for (let block = 0; block < refcountBlocks; block += 1) {
    table.writeBigUInt64BE(BigInt(refcountBlocksAt + block * CLUSTER), block * 8);
  }
  for (let cluster = 0; cluster < used; cluster += 1) counts.writeUInt16BE(1, cluster * 2);
  await target.write(counts, 0, counts.length, refcountBlocksAt);
  await target.write(table, 0, table.length, refcountTableAt);
  await target.write(header(virtualSize, l1Entries, l1At, refcountTableAt, tableClusters), 0, CLUSTER, 0);
}

function header(
  size: number,
  l1Entries: number,
  l1At: number,
  refcountAt: number,
  refcountClusters: number,
): Buffer {
  const head = Buffer.alloc(CLUSTER);
  head.writeUInt32BE(MAGIC, 0);
  head.writeUInt32BE(3, 4);
  head.writeUInt32BE(CLUSTER_BITS, 20);
  head.writeBigUInt64BE(BigInt(size), 24);
  head.writeUInt32BE(l1Entries, 36);
  head.writeBigUInt64BE(BigInt(l1At), 40);
  head.writeBigUInt64BE(BigInt(refcountAt), 48);
  head.writeUInt32BE(refcountClusters, 56);
  head.writeUInt32BE(REFCOUNT_ORDER, 96);
  head.writeUInt32BE(HEADER_LENGTH, 100);
  return head;
}

function isZero(data: Buffer): boolean {
  return data[0] === 0 && data.compare(data, 1, data.length, 0, data.length - 1) === 0;
}
