/** Compressed clusters: raw deflate or zstd, one cluster at a time. Source: qcow2.rst, compressed clusters. */
import { constants, deflateRaw, inflateRaw } from 'node:zlib';
import { promisify } from 'node:util';
import { IoError } from '../../../base/errors.ts';
import { COMPRESSION_ZSTD, compressedPlace } from './format.ts';
import type { HostFile } from './host-file.ts';
import { unpackZstd } from './zstd.ts';

const inflate = promisify(inflateRaw) as (
  input: Uint8Array,
  options: { finishFlush: number; maxOutputLength: number },
) => Promise<Buffer>;

const deflate = promisify(deflateRaw) as (
  input: Uint8Array,
  options: { windowBits: number; memLevel: number },
) => Promise<Buffer>;

/** A whole cluster deflated, or null when that makes it no smaller. QEMU reads with a window of 4 KiB, no larger one. */
export async function packCluster(cluster: Uint8Array): Promise<Uint8Array | null> {
  const packed = await deflate(cluster, { windowBits: 12, memLevel: 9 });
  return packed.byteLength < cluster.byteLength ? packed : null;
}

/** The content of the compressed cluster that an L2 entry describes. Throws IoError. */
export async function readCompressed(
  file: HostFile,
  hi: number,
  lo: number,
  clusterBits: number,
  compressionType: number,
): Promise<Uint8Array> {
  const { offset, length } = compressedPlace(hi, lo, clusterBits);
  if (offset >= file.lengthBytes)
    throw new IoError('EIO', `Compressed cluster at ${offset} lies behind the file's end`);
  const packed = new Uint8Array(length);
  await file.read(offset, packed);
  const clusterBytes = 2 ** clusterBits;
  if (compressionType === COMPRESSION_ZSTD) {
    const cluster = new Uint8Array(clusterBytes);
    if (await unpackZstd(packed, cluster)) return cluster;
    throw new IoError('EIO', `Compressed cluster at ${offset} is no zstd frame of a whole cluster`);
  }
  let data: Buffer;
  try {
    // The sectors may hold more than the stream: whatever follows its end is ignored.
    data = await inflate(packed, { finishFlush: constants.Z_SYNC_FLUSH, maxOutputLength: clusterBytes });
  } catch (cause) {
    throw new IoError('EIO', `Compressed cluster at ${offset} cannot be inflated`, { cause });
  }
  if (data.byteLength !== clusterBytes)
    throw new IoError('EIO', `Compressed cluster at ${offset} is cut short`);
  return data;
}
