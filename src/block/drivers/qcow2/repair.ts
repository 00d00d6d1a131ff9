/**
 * Makes refcounts and COPIED flags say what the tables refer to: after an unclean end with lazy refcounts, and for
 * `check -r`. Too low a count is raised before flags are set right, and too high a one is lowered last, so that a kill in
 * between makes nothing worse. A refcount structure that is broken itself is built anew behind the end of the file.
 * Entries that point nowhere are left as they are, as QEMU leaves them: nobody knows what they should say.
 * Source: the behaviour of `qemu-img check -r` (docs/qemu-behaviour.md 9.5).
 */
import type { BlockNode } from '../../node.ts';
import { checkQcow2, flaggedCluster } from './check.ts';
import type { CheckReport } from './check.ts';
import {
  COPIED_HI,
  MAX_REFCOUNT_TABLE_BYTES,
  ZERO_LO,
  clusterKind,
  entryOffset,
  isCopied,
  setUint64,
  viewOf,
} from './format.ts';
import { FIELD, Qcow2Error } from './header.ts';
import type { Qcow2Header } from './header.ts';
import { HostFile } from './host-file.ts';
import { refcountCodec } from './refcount-codec.ts';
import { Refcounts } from './refcounts.ts';
import { walkTables } from './walk.ts';

export interface RepairResult {
  readonly leaksFixed: number;
  readonly errorsFixed: number;
  /** The check after the repair. */
  readonly after: CheckReport;
}

/** `leaks`: lowers counts only; `all`: everything. The image is not open otherwise. Throws IoError, Qcow2Error. */
export async function repairRefcounts(
  node: BlockNode,
  header: Qcow2Header,
  what: 'leaks' | 'all',
): Promise<RepairResult> {
  const before = await checkQcow2(node, header);
  const file = new HostFile(node, 2 ** header.clusterBits);
  if (what === 'all' && before.structureBroken) await rebuild(file, header, before.ownReferences);
  else await adjust(file, header, before, what);
  let after = await checkQcow2(node, header);
  // When all counts are right, what is left of errors is flags (or entries that nothing can be done about).
  const countsAreRight =
    after.leaks === 0 && after.counts.every((count, at) => count === after.references[at]);
  if (after.errors > 0 && (what === 'all' || countsAreRight)) {
    await setFlags(file, header, after.counts, what);
    await file.flush();
    after = await checkQcow2(node, header);
  }
  return {
    leaksFixed: Math.max(0, before.leaks - after.leaks),
    errorsFixed: Math.max(0, before.errors - after.errors),
    after,
  };
}

/** Changes single counts. */
async function adjust(
  file: HostFile,
  header: Qcow2Header,
  { references, counts }: CheckReport,
  what: 'leaks' | 'all',
): Promise<void> {
  const refcounts = await Refcounts.load(file, header);
  const apply = async (fits: (count: number, wanted: number) => boolean): Promise<void> => {
    for (let cluster = 0; cluster < references.length; cluster++) {
      // A narrow width cannot hold every count; what does not fit stays an error.
      const wanted = Math.min(references[cluster] ?? 0, refcounts.codec.max);
      if (fits(counts[cluster] ?? 0, wanted)) await refcounts.set(cluster, wanted);
    }
    await file.flush();
  };
  if (what === 'all') await apply((count, wanted) => count < wanted);
  await apply((count, wanted) => count > wanted);
}

/** A new refcount table and new blocks, which count `references` and themselves. The header comes last. */
async function rebuild(file: HostFile, header: Qcow2Header, references: Uint16Array): Promise<void> {
  const clusterBytes = 2 ** header.clusterBits;
  const codec = refcountCodec(header.refcountOrder);
  const perBlock = (clusterBytes * 8) / codec.bits;
  const start = references.length;
  let blocks = 0;
  let tableClusters = 1;
  for (;;) {
    const needBlocks = Math.ceil((start + blocks + tableClusters) / perBlock);
    const needTable = Math.ceil((needBlocks * 8) / clusterBytes);
    if (needBlocks <= blocks && needTable <= tableClusters) break;
    blocks = Math.max(blocks, needBlocks);
    tableClusters = Math.max(tableClusters, needTable);
  }
  if (tableClusters * clusterBytes > MAX_REFCOUNT_TABLE_BYTES)
    throw new Qcow2Error('The image file is too large for a new refcount table');
  const end = start + blocks + tableClusters;
  await file.reserve(end * clusterBytes);
  const table = new Uint8Array(tableClusters * clusterBytes);
  for (let index = 0; index < blocks; index++) {
    const block = viewOf(new Uint8Array(clusterBytes));
    const last = Math.min(perBlock, end - index * perBlock);
    for (let entry = 0; entry < last; entry++) {
      const cluster = index * perBlock + entry;
      codec.set(block, entry, cluster < start ? Math.min(references[cluster] ?? 0, codec.max) : 1);
    }
    const offset = (start + index) * clusterBytes;
    await file.write(offset, new Uint8Array(block.buffer));
    setUint64(viewOf(table), index * 8, offset);
  }
  const tableOffset = (start + blocks) * clusterBytes;
  await file.write(tableOffset, table);
  await file.flush();
  const fields = new Uint8Array(12);
  setUint64(viewOf(fields), 0, tableOffset);
  viewOf(fields).setUint32(8, tableClusters);
  await file.write(FIELD.refcountTable, fields);
  await file.trim();
  await file.flush();
  header.refcountTableOffset = tableOffset;
  header.refcountTableClusters = tableClusters;
}

/** Sets the COPIED flag where the count is 1 and clears it elsewhere; with `all` mends what else is sure. */
async function setFlags(
  file: HostFile,
  header: Qcow2Header,
  counts: Uint16Array,
  what: 'leaks' | 'all',
): Promise<void> {
  const clusterBytes = 2 ** header.clusterBits;
  const put = (view: DataView, at: number, copied: boolean): void => {
    const hi = view.getUint32(at);
    view.setUint32(at, copied ? (hi | COPIED_HI) >>> 0 : hi & ~COPIED_HI);
  };
  await walkTables(file, header, {
    l1: ({ view }, at) => {
      const cluster = entryOffset(view.getUint32(at), view.getUint32(at + 4)) / clusterBytes;
      if (!Number.isInteger(cluster) || cluster === 0 || cluster >= counts.length) return false;
      put(view, at, counts[cluster] === 1);
      return true;
    },
    l2: ({ view }, at) => {
      const hi = view.getUint32(at);
      const lo = view.getUint32(at + 4);
      const kind = clusterKind(hi, lo);
      if (what === 'all' && kind === 'compressed' && isCopied(hi)) put(view, at, false);
      else if (what === 'all' && kind === 'zero-allocated' && entryOffset(hi, lo) % clusterBytes !== 0) {
        // It reads as zeros wherever it points.
        view.setUint32(at, 0);
        view.setUint32(at + 4, ZERO_LO);
      }
      const cluster = flaggedCluster(view, at, clusterBytes, counts.length);
      if (cluster !== null) put(view, at, counts[cluster] === 1);
    },
  });
}
