/**
 * Copies the content of one node to another, for tools: in order, one piece being read while the one before is
 * written, so that the same source gives the same target file. Zeros of 4 KiB and more stay holes.
 */
import type { BlockNode } from './node.ts';

const CHUNK = 2 ** 21;
/** Zeros of at least this length are left out (qemu-img -S). */
const SPARSE = 4096;
const ZEROS = Buffer.alloc(SPARSE);

/** Copies what is not zero; `targetIsZero` false: zeros are written too. */
export async function copyImage(
  from: BlockNode,
  to: BlockNode,
  targetIsZero: boolean,
  onProgress: (doneBytes: number) => void,
): Promise<void> {
  const buffers = [Buffer.alloc(CHUNK), Buffer.alloc(CHUNK)] as const;
  let writing: Promise<void> = Promise.resolve();
  try {
    for (let at = 0, turn = 0; at < from.lengthBytes; at += CHUNK, turn ^= 1) {
      const piece = buffers[turn as 0 | 1].subarray(0, Math.min(CHUNK, from.lengthBytes - at));
      const extents = await from.blockStatus(at, piece.byteLength);
      const allZero = extents.every(({ zero }) => zero);
      if (!allZero) await from.read(at, piece);
      await writing;
      onProgress(at);
      if (allZero) writing = targetIsZero ? Promise.resolve() : to.writeZeroes(at, piece.byteLength);
      else writing = writePiece(to, at, piece, targetIsZero);
      writing.catch(() => undefined); // told where it is awaited
    }
  } finally {
    await writing;
  }
}

async function writePiece(
  to: BlockNode,
  offset: number,
  piece: Buffer,
  targetIsZero: boolean,
): Promise<void> {
  for (let at = 0; at < piece.byteLength;) {
    const zero = isZeroAt(piece, at);
    let end = at + SPARSE;
    while (end < piece.byteLength && isZeroAt(piece, end) === zero) end += SPARSE;
    end = Math.min(end, piece.byteLength);
    if (!zero) await to.write(offset + at, piece.subarray(at, end));
    else if (!targetIsZero) await to.writeZeroes(offset + at, end - at);
    at = end;
  }
}

function isZeroAt(piece: Buffer, at: number): boolean {
  const length = Math.min(SPARSE, piece.byteLength - at);
  return piece.compare(ZEROS, 0, length, at, at + length) === 0;
}
