/**
 * block_resize: a node grows or shrinks while it is open (QEMU blockdev.c, qmp_block_resize; texts asked of QEMU 7.2).
 * Who cannot bear that a node changes its length forbids it: exports, jobs, and every parent but a raw window that
 * follows its file. A disk that the guest has is refused, because the engine reads its length once.
 */
import { ColoError, ParameterError } from '../base/errors.ts';
import { RawDriver } from '../block/drivers/raw.ts';
import type { BlockGraph } from '../block/graph.ts';
import type { BlockNode } from '../block/node.ts';

/** QEMU's BDRV_MAX_LENGTH. */
const MAX_LENGTH = '9223372035781033984';

export interface ResizeRequest {
  readonly device?: string | undefined;
  readonly nodeName?: string | undefined;
  readonly sizeBytes: number;
}

/** `isPlugged`: whether the guest has the drive of that id. Throws ColoError, ParameterError. */
export async function resizeNode(
  graph: BlockGraph,
  isPlugged: (id: string) => boolean,
  { device = '', nodeName = '', sizeBytes }: ResizeRequest,
): Promise<void> {
  const node = graph.findBackend(device)?.root ?? graph.findNode(nodeName);
  if (!node) throw new ColoError(`Cannot find device='${device}' nor node-name='${nodeName}'`);
  if (sizeBytes < 0) throw new ParameterError("Parameter 'size' expects a >0 size");
  if (!Number.isSafeInteger(sizeBytes)) {
    throw new ParameterError(`offset(${sizeBytes}) exceeds maximum(${MAX_LENGTH})`);
  }
  if (node.blockers.has('resize') || node.blockers.has('*')) {
    throw new ColoError(`Device '${device}' is in use`);
  }
  const affected = requireResizable(graph, isPlugged, node);
  if (node.readOnly) throw new ColoError('Image is read-only');
  if (!node.driver.truncate) throw new ColoError('Image format driver does not support resize');
  if (node.driver.driverName === 'qcow2' && sizeBytes % 512 !== 0) {
    throw new ColoError('The new size must be a multiple of 512');
  }
  for (const other of affected) {
    if (other.dirtyBitmaps.info() === undefined) continue;
    throw new ColoError(
      `Node '${other.nodeName}' has dirty bitmaps of its present length; remove them first (block-dirty-bitmap-remove)`,
    );
  }
  for (const other of affected) await other.drain();
  await node.driver.truncate(sizeBytes);
}

/** The nodes whose length changes with `node`'s. Throws ColoError for one whose user forbids it. */
function requireResizable(
  graph: BlockGraph,
  isPlugged: (id: string) => boolean,
  node: BlockNode,
): BlockNode[] {
  const affected = [node];
  for (const below of affected) {
    for (const user of below.users) {
      const [holder = '', role] = user.split('/');
      if (user.startsWith('drive:')) {
        const id = user.slice('drive:'.length);
        if (!isPlugged(id)) continue;
        throw new ColoError(
          `The guest has the disk '${id}' and reads its size at start: resize the image while the VM is off`,
        );
      }
      const parent = role === undefined ? null : graph.findNode(holder);
      if (parent?.driver instanceof RawDriver && !parent.driver.hasFixedSize) affected.push(parent);
      else throw conflict(below, parent, role);
    }
  }
  return affected;
}

/** QEMU's words; exports and jobs have no name there. */
function conflict(node: BlockNode, parent: BlockNode | null, role: string | undefined): ColoError {
  const uses = (child: string): string => `(uses node '${node.nodeName}' as '${child}' child)`;
  const unnamed = `an unnamed block device ${uses('root')}`;
  const holder = parent ? `node '${parent.nodeName}' ${uses(role ?? '')}` : unnamed;
  return new ColoError(
    `Permission conflict on node '${node.nodeName}': permissions 'resize' are both required by ${unnamed} and ` +
      `unshared by ${holder}.`,
  );
}
