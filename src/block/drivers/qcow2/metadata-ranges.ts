/** Where an image's own tables lie, in cluster indexes, as pure functions of the header and the refcount table. */
import type { Qcow2Header } from './header.ts';

const MAX_ROUNDS = 16;

export interface ClusterRange {
  readonly first: number;
  readonly count: number;
}

/** Entries [first, last] of a refcount block. */
export interface BlockPart {
  readonly first: number;
  readonly last: number;
}

/** Ranges of clusters as parts of the refcount blocks (by index) that count them. */
export function partsByBlock(
  ranges: readonly ClusterRange[],
  perBlock: number,
): ReadonlyMap<number, BlockPart[]> {
  const parts = new Map<number, BlockPart[]>();
  for (const { first, count } of ranges) {
    for (let cluster = first; cluster < first + count;) {
      const index = Math.floor(cluster / perBlock);
      const base = index * perBlock;
      const last = Math.min(first + count, base + perBlock) - 1;
      const known = parts.get(index);
      const part = { first: cluster - base, last: last - base };
      if (known) known.push(part);
      else parts.set(index, [part]);
      cluster = last + 1;
    }
  }
  return parts;
}

/** Header, refcount table and L1 table. */
export function fixedRanges(header: Readonly<Qcow2Header>): ClusterRange[] {
  const { l1Size, l1Offset, refcountTableOffset, refcountTableClusters } = header;
  const clusterBytes = 2 ** header.clusterBits;
  const fixed = [
    { first: 0, count: 1 },
    { first: refcountTableOffset / clusterBytes, count: refcountTableClusters },
  ];
  if (l1Size > 0)
    fixed.push({ first: l1Offset / clusterBytes, count: Math.ceil((l1Size * 8) / clusterBytes) });
  return fixed;
}

/** The refcount blocks (by index) that count `ranges`, and those that count these blocks, and so on. */
export function neededBlocks(
  table: readonly number[],
  ranges: readonly ClusterRange[],
  clusterBytes: number,
  perBlock: number,
): Set<number> {
  const needed = new Set<number>();
  const queue: number[] = [];
  const need = (cluster: number): void => {
    const index = Math.floor(cluster / perBlock);
    if (needed.has(index) || !table[index]) return;
    needed.add(index);
    queue.push(index);
  };
  for (const { first, count } of ranges) {
    for (let cluster = first; cluster < first + count; cluster += perBlock) need(cluster);
    need(first + count - 1);
  }
  for (let index = queue.pop(); index !== undefined; index = queue.pop())
    need((table[index] ?? 0) / clusterBytes);
  return needed;
}

/**
 * The blocks that are not needed, in an order in which the table can let go of them: one that counts the cluster of
 * another block goes after it. Blocks of one round may go in any order.
 */
export function dropRounds(
  table: readonly number[],
  needed: ReadonlySet<number>,
  clusterBytes: number,
  perBlock: number,
): number[][] {
  let left = [...table.keys()].filter((index) => table[index] !== 0 && !needed.has(index));
  const rounds: number[][] = [];
  while (left.length > 0) {
    const holders = new Set<number>();
    for (const index of left) {
      const holder = Math.floor((table[index] ?? 0) / clusterBytes / perBlock);
      if (holder !== index) holders.add(holder);
    }
    const free = left.filter((index) => !holders.has(index));
    // Blocks that count each other in a ring cannot be had in order, and no sound image has long chains.
    const inOrder = free.length > 0 && rounds.length < MAX_ROUNDS;
    rounds.push(inOrder ? free : left);
    left = inOrder ? left.filter((index) => holders.has(index)) : [];
  }
  return rounds;
}
