/**
 * Which images of a backing chain block-commit means: by node name or by file name, with QEMU's texts and order of checks
 * (blockdev.c, qmp_block_commit; asked of QEMU 7.2). It changes nothing.
 */
import { resolve } from 'node:path';
import { ColoError } from '../base/errors.ts';
import { fileNameOf } from '../block/create-image.ts';
import type { BlockGraph } from '../block/graph.ts';
import type { BlockNode } from '../block/node.ts';

export interface LayerNames {
  readonly top?: string | undefined;
  readonly topNode?: string | undefined;
  readonly base?: string | undefined;
  readonly baseNode?: string | undefined;
}

/** Top and base of a commit below `active`. Throws ColoError. */
export function findLayers(
  graph: BlockGraph,
  active: BlockNode,
  names: LayerNames,
): { top: BlockNode; base: BlockNode } {
  if (names.topNode !== undefined && names.top !== undefined) {
    throw new ColoError("'top-node' and 'top' are mutually exclusive");
  }
  let top = active;
  if (names.topNode !== undefined) top = inChain(graph, active, names.topNode);
  else if (names.top !== undefined) {
    const found = isFile(active, names.top) ? active : below(active, names.top);
    if (!found) throw new ColoError(`Top image file ${names.top} not found`);
    top = found;
  }
  if (names.baseNode !== undefined && names.base !== undefined) {
    throw new ColoError("'base-node' and 'base' are mutually exclusive");
  }
  let base = top;
  if (names.baseNode !== undefined) base = inChain(graph, top, names.baseNode);
  else if (names.base !== undefined) {
    const found = below(top, names.base);
    if (!found) throw new ColoError(`Can't find '${names.base}' in the backing chain`);
    base = found;
  } else while (base.backing) base = base.backing;
  if (base === top) throw new ColoError('cannot commit an image into itself');
  return { top, base };
}

function inChain(graph: BlockGraph, from: BlockNode, name: string): BlockNode {
  const wanted = graph.findNode(name);
  if (!wanted) throw new ColoError(`Cannot find device='' nor node-name='${name}'`);
  for (let at: BlockNode | null = from; at; at = at.backing) if (at === wanted) return at;
  throw new ColoError(`'${name}' is not in this backing file chain`);
}

function below(top: BlockNode, file: string): BlockNode | null {
  for (let at = top.backing; at; at = at.backing) if (isFile(at, file)) return at;
  return null;
}

function isFile(node: BlockNode, file: string): boolean {
  const own = fileNameOf(node);
  return own !== null && (own === file || resolve(own) === resolve(file));
}
