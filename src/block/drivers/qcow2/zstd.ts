/**
 * Reading of zstd, which Node.js 20 lacks, through the system's libzstd; on Debian it is always there, as dpkg needs it.
 * One frame at a time, on a thread, and never more output than there is room for, whatever the input claims.
 * Source: zstd.h, the stable part (sizes that are errors are huge, so koffi gives them as bigint).
 */

type Size = number | bigint;

interface Zstd {
  findFrameCompressedSize(source: Uint8Array, bytes: number): Size;
  decompress: {
    async(
      target: Uint8Array,
      room: number,
      source: Uint8Array,
      bytes: number,
      done: (error: Error | null, size: Size) => void,
    ): void;
  };
}

let loaded: Zstd | null | undefined;

function zstd(): Zstd | null {
  if (loaded !== undefined) return loaded;
  try {
    const { library } = loadLibrary('libzstd.so.1');
    loaded = {
      findFrameCompressedSize: library.func(
        'size_t ZSTD_findFrameCompressedSize(const void *src, size_t srcSize)',
      ) as Zstd['findFrameCompressedSize'],
      decompress: library.func(
        'size_t ZSTD_decompress(void *dst, size_t dstCapacity, const void *src, size_t compressedSize)',
      ) as unknown as Zstd['decompress'],
    };
  } catch {
    // No koffi build or no such library: images that need it are refused by name.
    loaded = null;
  }
  return loaded;
}

export function hasZstd(): boolean {
  return zstd() !== null;
}

/** Fills `target` from the frame at the start of `packed`; what follows it is ignored. False: it is not such a frame. */
export async function unpackZstd(packed: Uint8Array, target: Uint8Array): Promise<boolean> {
  const library = zstd();
  const bytes = library?.findFrameCompressedSize(packed, packed.byteLength);
  if (!library || typeof bytes !== 'number' || bytes > packed.byteLength) return false;
  const size = await new Promise<Size>((resolve, reject) => {
    library.decompress.async(target, target.byteLength, packed, bytes, (error, result) => {
      if (error) reject(error);
      else resolve(result);
    });
  });
  return size === target.byteLength;
}
import { loadLibrary } from '../../../base/c-library.ts';
