/**
 * Numbers of the qcow2 format and the meaning of its table entries, as pure functions. Everything is big-endian.
 * Entries are handled as two 32-bit halves, because a 64-bit offset is a safe integer in every image we accept.
 * Source: QEMU docs/interop/qcow2.rst; docs/qemu-behaviour.md 9.1 to 9.3.
 */

export const MAGIC = 0x514649fb;
export const MIN_CLUSTER_BITS = 9;
export const MAX_CLUSTER_BITS = 21;
/** QEMU's limits: L1 table 32 MiB, refcount table 8 MiB, backing file name 1023 bytes. */
export const MAX_L1_BYTES = 32 * 2 ** 20;
export const MAX_REFCOUNT_TABLE_BYTES = 8 * 2 ** 20;
export const MAX_BACKING_NAME_BYTES = 1023;

export const INCOMPAT_DIRTY = 1n;
export const INCOMPAT_CORRUPT = 2n;
export const INCOMPAT_DATA_FILE = 4n;
export const INCOMPAT_COMPRESSION = 8n;
export const INCOMPAT_EXTENDED_L2 = 16n;
export const COMPAT_LAZY_REFCOUNTS = 1n;
/** Compression types: 0 is deflate. */
export const COMPRESSION_ZSTD = 1;

export const EXT_END = 0;
export const EXT_BACKING_FORMAT = 0xe2792aca;
export const EXT_FEATURE_NAMES = 0x6803f857;

/** Bit 63 (of the high half): the cluster is referred to exactly once. */
export const COPIED_HI = 0x80000000;
/** Bit 62 (of the high half): the cluster is compressed. */
export const COMPRESSED_HI = 0x40000000;
/** Bit 0 (of the low half), version 3: the cluster reads as zeros. */
export const ZERO_LO = 1;

export type ClusterKind = 'unallocated' | 'zero' | 'zero-allocated' | 'data' | 'compressed';

/** What an L2 entry says. */
export function clusterKind(hi: number, lo: number): ClusterKind {
  if ((hi & COMPRESSED_HI) !== 0) return 'compressed';
  const hasOffset = (hi & 0x00ffffff) !== 0 || (lo & 0xfffffe00) !== 0;
  if ((lo & ZERO_LO) !== 0) return hasOffset ? 'zero-allocated' : 'zero';
  return hasOffset ? 'data' : 'unallocated';
}

/** The host offset in bits 9 to 55 of an entry. May exceed the safe integers in a broken image: compare, then use. */
export function entryOffset(hi: number, lo: number): number {
  return (hi & 0x00ffffff) * 2 ** 32 + ((lo & 0xfffffe00) >>> 0);
}

export function isCopied(hi: number): boolean {
  return (hi & COPIED_HI) !== 0;
}

/** Whether an L1 entry, or an L2 entry that is not compressed, has bits that mean nothing. */
export function hasReservedBits(hi: number, lo: number, level: 'l1' | 'l2'): boolean {
  return (
    (hi & (level === 'l1' ? 0x7f000000 : 0x3f000000)) !== 0 || (lo & (level === 'l1' ? 0x1ff : 0x1fe)) !== 0
  );
}

/** Writes an entry that points to `offset` with the given flags at `at`. */
export function putEntry(
  view: DataView,
  at: number,
  offset: number,
  flags: { copied: boolean; zero: boolean },
): void {
  view.setUint32(at, (Math.floor(offset / 2 ** 32) | (flags.copied ? COPIED_HI : 0)) >>> 0);
  view.setUint32(at + 4, ((offset >>> 0) | (flags.zero ? ZERO_LO : 0)) >>> 0);
}

/** A 64-bit number at `at` as a JavaScript number; NaN when it is no safe integer. */
export function getUint64(view: DataView, at: number): number {
  const value = view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);
  return Number.isSafeInteger(value) ? value : NaN;
}

export function setUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 2 ** 32));
  view.setUint32(at + 4, value >>> 0);
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Where a compressed cluster lies: byte-granular offset, and the length of the sectors that it touches. */
export function compressedPlace(
  hi: number,
  lo: number,
  clusterBits: number,
): { offset: number; length: number } {
  const entry = (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
  const offsetBits = BigInt(62 - (clusterBits - 8));
  const offset = Number(entry & ((1n << offsetBits) - 1n));
  const sectors = Number((entry >> offsetBits) & ((1n << BigInt(clusterBits - 8)) - 1n)) + 1;
  return { offset, length: sectors * 512 - (offset % 512) };
}

/** Writes the entry of a compressed cluster of `length` bytes at byte `offset` to `at`. */
export function putCompressed(
  view: DataView,
  at: number,
  place: { offset: number; length: number },
  clusterBits: number,
): void {
  const sectors = Math.floor((place.offset + place.length - 1) / 512) - Math.floor(place.offset / 512);
  const offsetBits = BigInt(62 - (clusterBits - 8));
  view.setBigUint64(at, (1n << 62n) | (BigInt(sectors) << offsetBits) | BigInt(place.offset));
}
