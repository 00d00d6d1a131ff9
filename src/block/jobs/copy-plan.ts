/**
 * How a claimed run of chunks is copied: block status made into items, each of whole chunks. Data goes in pieces that
 * fit a buffer; zeros, and what is not allocated, go in long ones. Pure.
 */
import type { BlockExtent } from '../driver.ts';
import type { ChunkRun } from './chunk-states.ts';

export interface CopyItem extends ChunkRun {
  /** What is to be copied, in order; parts that are not allocated are left out. */
  readonly extents: readonly BlockExtent[];
  /** The longest of them that is data. */
  readonly dataBytes: number;
}

export interface PlanSizes {
  readonly chunkBytes: number;
  readonly lengthBytes: number;
  /** Most chunks of an item that holds data. */
  readonly pieceChunks: number;
  /** Most chunks of an item that holds none. */
  readonly zeroChunks: number;
}

/** Items for `run`, whose block status is `status` (in order, covering all of it). */
export function planItems(run: ChunkRun, status: readonly BlockExtent[], sizes: PlanSizes): CopyItem[] {
  const extents = join(status);
  const items: CopyItem[] = [];
  const { chunkBytes, lengthBytes } = sizes;
  let at = 0;
  for (let first = run.first; first < run.end;) {
    const start = first * chunkBytes;
    while (endOf(extents[at]) <= start) at++;
    const extent = extents[at];
    if (extent === undefined) break;
    let end = Math.min(first + sizes.pieceChunks, run.end);
    if (!hasData(extent)) {
      const extentEnd = endOf(extent) >= lengthBytes ? run.end : Math.floor(endOf(extent) / chunkBytes);
      const long = Math.min(extentEnd, first + sizes.zeroChunks, run.end);
      if (long > first) end = long;
    }
    const parts = clip(extents, at, start, Math.min(end * chunkBytes, lengthBytes));
    items.push({ first, end, extents: parts, dataBytes: longestData(parts) });
    first = end;
  }
  return items;
}

function longestData(parts: readonly BlockExtent[]): number {
  let longest = 0;
  for (const { zero, length } of parts) if (!zero) longest = Math.max(longest, length);
  return longest;
}

function hasData(extent: BlockExtent): boolean {
  return extent.allocated && !extent.zero;
}

function endOf(extent: BlockExtent | undefined): number {
  return extent === undefined ? Infinity : extent.offset + extent.length;
}

/** Joins neighbours that are copied in the same way. */
function join(extents: readonly BlockExtent[]): BlockExtent[] {
  const joined: BlockExtent[] = [];
  for (const extent of extents) {
    const last = joined.at(-1);
    const same = last?.allocated === extent.allocated && hasData(last) === hasData(extent);
    if (last !== undefined && same)
      joined[joined.length - 1] = { ...last, length: last.length + extent.length };
    else joined.push(extent);
  }
  return joined;
}

/** The allocated parts of [start, end). */
function clip(extents: readonly BlockExtent[], from: number, start: number, end: number): BlockExtent[] {
  const parts: BlockExtent[] = [];
  for (let at = from; at < extents.length; at++) {
    const extent = extents[at];
    if (extent === undefined || extent.offset >= end) break;
    if (!extent.allocated) continue;
    const offset = Math.max(extent.offset, start);
    parts.push({ ...extent, offset, length: Math.min(endOf(extent), end) - offset });
  }
  return parts;
}
