/**
 * Merges the overlays of a secondary that took over (active above hidden disk) into its disk, with nobody using them: the
 * rest of what its commit job would have done. QEMU does the same as two commits, active into hidden and hidden into the
 * disk; here in one walk, so that nothing is copied twice.
 *
 * Broken off at any place it can be done again: a cluster that is in an overlay is read from there whether or not the disk
 * has it already. The overlays are left as they are. Whoever calls it sees to it that they are not merged once the disk has
 * been written to by somebody else.
 */
import { ParameterError } from '../../base/errors.ts';
import { copyImage } from '../../block/copy-image.ts';
import type { BlockDriver } from '../../block/driver.ts';
import { statusAbove } from '../../block/jobs/allocation.ts';
import { BlockNode } from '../../block/node.ts';

/** `image` below `active`, with the hidden disk between. On stable storage when it returns. Throws ColoError. */
export async function mergeOverlays(
  active: BlockNode,
  image: BlockNode,
  onProgress?: (doneBytes: number) => void,
): Promise<void> {
  if (active.backing?.backing !== image) {
    throw new ParameterError(`'${image.nodeName}' is not the disk below the overlay '${active.nodeName}'`);
  }
  if (active.lengthBytes !== image.lengthBytes) {
    throw new ParameterError(
      `The overlay has ${active.lengthBytes} bytes and its disk ${image.lengthBytes}: they do not belong together`,
    );
  }
  const view = new BlockNode('overlays', overlaysAbove(active, image));
  await copyImage(view, image, image.lengthBytes, {
    targetIsZero: false,
    // What neither overlay has stays as it is.
    sharedBackingBytes: image.lengthBytes,
    outOfOrder: true,
    ...(onProgress && { onProgress }),
  });
  await image.flush();
}

/** What is seen through the overlays, with "not allocated" for what neither has. */
function overlaysAbove(active: BlockNode, image: BlockNode): BlockDriver {
  const refuse = (): Promise<never> => Promise.reject(new ParameterError('Overlays are only read here'));
  return {
    driverName: 'overlays',
    lengthBytes: active.lengthBytes,
    readOnly: true,
    children: () => new Map([['backing', image]]),
    read: (offset, bytes) => active.read(offset, bytes),
    write: refuse,
    flush: () => Promise.resolve(),
    blockStatus: (offset, length) => statusAbove(active, image, offset, length),
    close: () => Promise.resolve(),
  };
}
