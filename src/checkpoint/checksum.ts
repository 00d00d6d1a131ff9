/**
 * The checksum of a section (CRC-32, zlib's), in slices: a state of a GiB takes a second, in which neither the monitor
 * would answer nor anything leave that tells the peer of life.
 */
import { crc32 } from 'node:zlib';

const SLICE_BYTES = 16 * 1024 * 1024;

/** `between`: called before each slice but the first, with the share of the work that is done. */
export async function checksumOf(
  body: Uint8Array,
  between: (share: number) => Promise<void> = () => Promise.resolve(),
): Promise<number> {
  let sum = 0;
  for (let at = 0; at < body.byteLength; at += SLICE_BYTES) {
    if (at > 0) {
      await between(at / body.byteLength);
      // Timers and sockets have their turn.
      await new Promise((resolve) => setImmediate(resolve));
    }
    sum = crc32(body.subarray(at, at + SLICE_BYTES), sum);
  }
  return sum;
}
