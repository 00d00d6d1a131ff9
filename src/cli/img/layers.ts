/**
 * The status of an image through its backing chain as QEMU tells it: which layer has an extent, where it lies there, and
 * of data that is mapped but was never written (preallocated metadata) that it is zeros (QEMU block/qcow2.c,
 * block/qcow2-refcount.c; asked of QEMU 7.2).
 */
import { stat } from 'node:fs/promises';
import type { BlockExtent } from '../../block/driver.ts';
import { FileDriver } from '../../block/drivers/file.ts';
import type { BlockNode } from '../../block/node.ts';
import { sizeInSectors, statusPadded } from './common.ts';

/** An extent and how many backing files deep it was found. */
export interface LayeredExtent extends BlockExtent {
  readonly depth: number;
}

export class Layers {
  readonly #top: BlockNode;
  readonly #preallocated = new Map<BlockNode, boolean>();

  constructor(top: BlockNode) {
    this.#top = top;
  }

  /** Extents that cover the range; what a layer has not comes from the one below. Throws IoError. */
  status(offset: number, length: number): AsyncGenerator<LayeredExtent> {
    return this.#layer(this.#top, offset, length, 0);
  }

  async *#layer(
    node: BlockNode,
    offset: number,
    length: number,
    depth: number,
  ): AsyncGenerator<LayeredExtent> {
    const { backing } = node;
    for (const extent of await statusPadded(node, offset, length)) {
      const { offset: start, length: bytes } = extent;
      const below =
        !extent.allocated && backing ? Math.max(0, Math.min(bytes, sizeInSectors(backing) - start)) : 0;
      if (backing && below > 0) yield* this.#layer(backing, start, below, depth + 1);
      if (below === bytes) continue;
      if (extent.data && extent.map && (await this.#isPreallocated(node))) {
        yield* inFile(extent, extent.map, depth);
      } else yield { ...extent, offset: start + below, length: bytes - below, depth };
    }
  }

  /** True: far more clusters of the file are in use than have a place on the disk. QEMU's measure. */
  async #isPreallocated(node: BlockNode): Promise<boolean> {
    const known = this.#preallocated.get(node);
    if (known !== undefined) return known;
    const file = node.driver.children().get('file');
    const { clusterBytes } = node.driver;
    let answer = false;
    if (clusterBytes !== undefined && file?.driver instanceof FileDriver) {
      const onDisk = Math.floor(((await stat(file.driver.filename)).blocks * 512) / clusterBytes);
      const inUse = Math.floor(file.lengthBytes / clusterBytes);
      answer = inUse >= Math.max(Math.floor((onDisk * 10) / 9), onDisk + 2);
    }
    this.#preallocated.set(node, answer);
    return answer;
  }
}

/** The extent in pieces as the file has them: holes are zeros. */
async function* inFile(
  extent: BlockExtent,
  map: NonNullable<BlockExtent['map']>,
  depth: number,
): AsyncGenerator<LayeredExtent> {
  for (const part of await statusPadded(map.file, map.offset, extent.length)) {
    yield {
      ...extent,
      depth,
      offset: extent.offset + part.offset - map.offset,
      length: part.length,
      zero: part.zero,
      map: { file: map.file, offset: part.offset },
    };
  }
}
