/**
 * The node that `top-id` names: the root of the tree that a replication node sits in (a quorum, say). Its operations
 * are blocked while replication runs. Facts: docs/qemu-behaviour.md 5.1.
 */
import { ColoError } from '../../../base/errors.ts';
import type { BlockDriver } from '../../driver.ts';
import type { BlockNode } from '../../node.ts';

/**
 * `top` if it is a root and stands above `driver`, or is the replication node itself: the 2019 form of the COLO-FT
 * procedure names its own drive (`id=childs0,top-id=childs0`). Throws with QEMU's text otherwise.
 */
export function requireTop(top: BlockNode | null, driver: BlockDriver): BlockNode {
  if (top?.driver === driver) return top;
  // A parent node is noted as `PARENT/ROLE` (graph.ts).
  const isRoot = top !== null && ![...top.users].some((user) => user.includes('/'));
  if (!top || !isRoot || !isAbove(top, driver)) throw new ColoError('No top_bs or it is invalid');
  return top;
}

function isAbove(node: BlockNode, driver: BlockDriver): boolean {
  if (node.driver === driver) return true;
  for (const child of node.driver.children().values()) if (isAbove(child, driver)) return true;
  return false;
}
