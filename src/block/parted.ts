/**
 * The survivor's memory of what its former peer's disk lacks: when the two disks of a pair part, the disk's root node
 * gets a dirty bitmap `parted`, which holds what may differ by then (the replication node tells) and records from then
 * on. A resync to that very disk needs to copy no more (drive-mirror with sync=bitmap).
 *
 * One generation: a new parting replaces the old bitmap, also one that a person made by that name. It dies with the
 * process. It says nothing about a disk that was written to by anybody else after the parting; docs/procedure.md
 * tells when it is valid.
 */
import { messageOf } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import type { DirtyBitmap } from './dirty-bitmap.ts';
import type { PartedRecord, ReplicationDriver } from './drivers/replication.ts';
import type { BlockGraph } from './graph.ts';
import type { BlockNode } from './node.ts';

export const PARTED_BITMAP = 'parted';
const log = loggerFor('parted');

export class PartedBitmaps {
  readonly #graph: BlockGraph;
  /** The roots above a replication node when they were last looked for: it may be taken out before it parts. */
  readonly #roots = new WeakMap<ReplicationDriver, readonly BlockNode[]>();

  constructor(graph: BlockGraph) {
    this.#graph = graph;
  }

  /** To be called when a replication node starts, and before it is taken out of a tree. */
  watch(driver: ReplicationDriver): void {
    this.#lookAbove(driver);
    driver.onParted = () => recordParting(this.#lookAbove(driver));
  }

  /** The roots above the node now; of one that stands alone by now, those that were above it. */
  #lookAbove(driver: ReplicationDriver): readonly BlockNode[] {
    const known = this.#roots.get(driver);
    const node = this.#graph.findNode(driver.nodeName);
    const roots = node ? this.#rootsAbove(node) : [];
    if (known && (roots.length === 0 || roots[0] === node)) return known;
    this.#roots.set(driver, roots);
    return roots;
  }

  #rootsAbove(node: BlockNode): BlockNode[] {
    const roots = new Set<BlockNode>();
    // A parent is noted as PARENT/ROLE (graph.ts).
    for (const user of node.users) {
      const parent = user.includes('/') ? this.#graph.findNode(user.slice(0, user.indexOf('/'))) : null;
      if (parent) for (const root of this.#rootsAbove(parent)) roots.add(root);
    }
    return roots.size > 0 ? [...roots] : [node];
  }
}

/** Begins the bitmaps of `roots`; null when there can be none. */
export function recordParting(roots: readonly BlockNode[]): PartedRecord | null {
  const made: { readonly root: BlockNode; readonly bitmap: DirtyBitmap }[] = [];
  for (const root of roots) {
    const bitmap = renew(root);
    if (bitmap) made.push({ root, bitmap });
  }
  if (made.length === 0) return null;
  let isComplete = false;
  return {
    mark: (offset, length) => {
      for (const { bitmap } of made) bitmap.seed(offset, length);
    },
    complete: () => {
      isComplete = true;
      for (const { root, bitmap } of made) {
        bitmap.complete();
        log.info({ node: root.nodeName, bytes: bitmap.dirtyBytes }, 'the disks have parted');
      }
    },
    spoil: () => {
      if (isComplete) return;
      for (const { root, bitmap } of made) {
        root.dirtyBitmaps.drop(bitmap);
        log.warn({ node: root.nodeName }, 'what the other disk lacks is not known; use sync=full');
      }
    },
  };
}

/** A new, empty bitmap, busy until it is complete; null, with a line in the log, when there can be none. */
function renew(root: BlockNode): DirtyBitmap | null {
  const { dirtyBitmaps } = root;
  const old = dirtyBitmaps.find(PARTED_BITMAP);
  if (old) dirtyBitmaps.drop(old);
  try {
    const bitmap = dirtyBitmaps.add(PARTED_BITMAP, root.lengthBytes);
    bitmap.beginSeeding();
    return bitmap;
  } catch (error) {
    log.warn({ node: root.nodeName }, `no bitmap of what the other disk lacks: ${messageOf(error)}`);
    return null;
  }
}
