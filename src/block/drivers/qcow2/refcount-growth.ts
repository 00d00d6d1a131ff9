/**
 * What a larger refcount table looks like, as a pure function: new blocks behind everything that the old table can
 * count, which count themselves and the new table, and then the table. refcounts.ts writes it, the header's field last.
 */
import { setUint64, viewOf } from './format.ts';
import type { RefcountCodec } from './refcount-codec.ts';

export interface GrowthPlan {
  readonly blocks: readonly { index: number; offset: number; bytes: Uint8Array }[];
  /** File offset of each block by its index; 0: none. */
  readonly table: number[];
  readonly tableBytes: Uint8Array;
  readonly tableOffset: number;
  /** The header's fields: offset and clusters of the table. */
  readonly field: Uint8Array;
  /** The end of all of it in the file. */
  readonly end: number;
}

/** A table of `clusters` clusters that begins like `old`. */
export function planGrowth(
  old: readonly number[],
  clusters: number,
  clusterBytes: number,
  codec: RefcountCodec,
): GrowthPlan {
  const perBlock = (clusterBytes * 8) / codec.bits;
  const first = old.length * perBlock;
  const newBlocks = Math.ceil(clusters / (perBlock - 1)) + 1;
  const at = (cluster: number): number => (first + cluster) * clusterBytes;
  const table = [...old];
  const blocks: { index: number; offset: number; bytes: Uint8Array }[] = [];
  for (let which = 0; which < newBlocks; which++) {
    const bytes = new Uint8Array(clusterBytes);
    const counted = Math.min(perBlock, newBlocks + clusters - which * perBlock);
    for (let entry = 0; entry < counted; entry++) codec.set(viewOf(bytes), entry, 1);
    blocks.push({ index: table.length, offset: at(which), bytes });
    table.push(at(which));
  }
  while (table.length < (clusters * clusterBytes) / 8) table.push(0);
  const tableBytes = new Uint8Array(clusters * clusterBytes);
  const view = viewOf(tableBytes);
  for (const [index, offset] of table.entries()) if (offset > 0) setUint64(view, index * 8, offset);
  const field = new Uint8Array(12);
  setUint64(viewOf(field), 0, at(newBlocks));
  viewOf(field).setUint32(8, clusters);
  return { blocks, table, tableBytes, tableOffset: at(newBlocks), field, end: at(newBlocks + clusters) };
}
