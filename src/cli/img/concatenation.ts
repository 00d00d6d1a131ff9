/** Several images one behind the other, as the source of a conversion. Each counts in whole sectors, as in QEMU. */
import { IoError } from '../../base/errors.ts';
import type { BlockDriver, BlockExtent } from '../../block/driver.ts';
import type { BlockNode } from '../../block/node.ts';
import { readPadded, sizeInSectors, statusPadded } from './common.ts';

interface Part {
  readonly node: BlockNode;
  readonly from: number;
  readonly bytes: number;
}

export class Concatenation implements BlockDriver {
  readonly driverName = 'concatenation';
  readonly readOnly = true;
  readonly lengthBytes: number;
  readonly #parts: readonly Part[];

  /** The nodes stay their owner's. */
  constructor(nodes: readonly BlockNode[]) {
    let from = 0;
    this.#parts = nodes.map((node) => {
      const part = { node, from, bytes: sizeInSectors(node) };
      from += part.bytes;
      return part;
    });
    this.lengthBytes = from;
  }

  children(): ReadonlyMap<string, BlockNode> {
    // A single image's backing file is that of the whole.
    const backing = this.#parts.length === 1 ? this.#parts[0]?.node.backing : null;
    return new Map(backing ? [['backing', backing]] : []);
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    for (const { node, at, from, length } of this.#pieces(offset, target.byteLength))
      await readPadded(node, at, target.subarray(from - offset, from - offset + length));
  }

  async blockStatus(offset: number, length: number): Promise<BlockExtent[]> {
    const extents: BlockExtent[] = [];
    for (const piece of this.#pieces(offset, length)) {
      const shift = piece.from - piece.at;
      for (const extent of await statusPadded(piece.node, piece.at, piece.length))
        extents.push({ ...extent, offset: extent.offset + shift, map: undefined });
    }
    return extents;
  }

  write(): Promise<void> {
    return Promise.reject(new IoError('EPERM', 'The source of a conversion is read-only'));
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  /** [offset, offset+length) cut at the ends of the images: `from` here is `at` in the node. */
  *#pieces(
    offset: number,
    length: number,
  ): Generator<{ node: BlockNode; at: number; from: number; length: number }> {
    const end = offset + length;
    for (const { node, from, bytes } of this.#parts) {
      const start = Math.max(offset, from);
      const stop = Math.min(end, from + bytes);
      if (stop > start) yield { node, at: start - from, from: start, length: stop - start };
    }
  }
}
