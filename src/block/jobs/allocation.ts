/**
 * Which parts of a backing chain hold data of their own: the walk from a top image down to (not including) a base.
 * It reads block status only. Facts: docs/qemu-behaviour.md 5.4 (commit copies what active and hidden have allocated).
 */
import type { BlockExtent } from '../driver.ts';
import type { BlockNode } from '../node.ts';

/**
 * Extents of [offset, offset+length) as seen through `top` and all images under it down to `base` (exclusive; null:
 * the whole chain). `allocated` says whether any image above the base determines the content.
 */
export async function statusAbove(
  top: BlockNode,
  base: BlockNode | null,
  offset: number,
  length: number,
): Promise<BlockExtent[]> {
  const out: BlockExtent[] = [];
  await walk(top, base, offset, length, out);
  return out;
}

async function walk(
  node: BlockNode,
  base: BlockNode | null,
  offset: number,
  length: number,
  out: BlockExtent[],
): Promise<void> {
  for (const extent of await node.blockStatus(offset, length)) {
    const under = node.backing;
    if (extent.allocated || under === null) {
      push(out, own(extent));
      continue;
    }
    if (under === base) {
      push(out, extent);
      continue;
    }
    // A shorter backing image reads as zeros behind its end.
    const inside = Math.max(0, Math.min(extent.length, under.lengthBytes - extent.offset));
    if (inside > 0) await walk(under, base, extent.offset, inside, out);
    if (inside < extent.length) {
      push(out, {
        offset: extent.offset + inside,
        length: extent.length - inside,
        zero: true,
        data: false,
        allocated: true,
      });
    }
  }
}

/** For a job that copies a range whatever image of the chain it comes from. */
export function wholeStatus(extents: readonly BlockExtent[]): BlockExtent[] {
  return extents.map((extent) => (extent.allocated ? extent : { ...extent, allocated: true }));
}

/** At the end of the chain an unallocated extent is a hole that reads as zeros. */
function own(extent: BlockExtent): BlockExtent {
  if (extent.allocated) return extent;
  return { ...extent, zero: true, data: false, allocated: true };
}

function push(out: BlockExtent[], extent: BlockExtent): void {
  const last = out[out.length - 1];
  if (
    last !== undefined &&
    last.offset + last.length === extent.offset &&
    last.zero === extent.zero &&
    last.data === extent.data &&
    last.allocated === extent.allocated
  ) {
    out[out.length - 1] = { ...last, length: last.length + extent.length };
  } else {
    out.push(extent);
  }
}
