/**
 * The `ram` part of a snapshot, in bytes; every engine's is this. Everything little-endian:
 *
 *   0  u32 magic 'RAM2'           4  u32 flags (bit 0: full: pages that are not listed are all zero)
 *   8  u64 guest RAM in bytes    16  u64 id of this state
 *  24  u64 id of the state that it builds on (0 when full)
 *  32  u32 number of pages (n)   36  u32 zero
 *  40  n × u32 page indexes, strictly ascending
 *  ..  n × 4096 bytes, in the same order, starting at the next multiple of 4096
 *
 * The ids are drawn at random; they keep a change set from being applied to a state it was not made against.
 * Sums over the bytes are the transport's work.
 */
import { ProtocolError } from '../../base/errors.ts';

export const PAGE_BYTES = 4096;
const MAGIC = 0x324d4152;
const FLAG_FULL = 1;
const HEADER_BYTES = 40;

export interface RamHeader {
  readonly full: boolean;
  readonly pages: number;
  readonly ramBytes: number;
  readonly id: bigint;
  readonly parent: bigint;
}

/** A change set, checked; the views lie in the snapshot's own bytes. */
export interface RamChanges extends RamHeader {
  readonly indexes: Uint32Array;
  readonly data: Uint8Array;
}

function dataOffset(pages: number): number {
  return Math.ceil((HEADER_BYTES + pages * 4) / PAGE_BYTES) * PAGE_BYTES;
}

/** Room for `header.pages` pages, with the header and `indexes` written; fill in `data`. */
export function allocateRamChanges(
  header: RamHeader,
  indexes: Uint32Array,
): { bytes: Uint8Array<ArrayBuffer>; data: Uint8Array } {
  const start = dataOffset(header.pages);
  // Not Buffer.allocUnsafe: small ones would share Node's pool and could not be transferred.
  const bytes = new Uint8Array(Buffer.allocUnsafeSlow(start + header.pages * PAGE_BYTES).buffer);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, header.full ? FLAG_FULL : 0, true);
  view.setBigUint64(8, BigInt(header.ramBytes), true);
  view.setBigUint64(16, header.id, true);
  view.setBigUint64(24, header.parent, true);
  view.setUint32(32, header.pages, true);
  view.setUint32(36, 0, true);
  // Node runs on little-endian machines only, so a typed array is the wire's order already.
  new Uint32Array(bytes.buffer, HEADER_BYTES, header.pages).set(indexes);
  bytes.fill(0, HEADER_BYTES + header.pages * 4, start);
  return { bytes, data: bytes.subarray(start) };
}

/** Checks everything about `bytes` that can be checked. Throws ProtocolError. */
export function parseRamChanges(bytes: Uint8Array, ramBytes: number): RamChanges {
  if (bytes.length < HEADER_BYTES)
    throw new ProtocolError(`snapshot: RAM part of ${bytes.length} bytes is cut off`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0, true) !== MAGIC)
    throw new ProtocolError('snapshot: RAM part has a wrong magic number');
  const flags = view.getUint32(4, true);
  if ((flags & ~FLAG_FULL) !== 0) throw new ProtocolError(`snapshot: RAM part has unknown flags ${flags}`);
  const size = view.getBigUint64(8, true);
  if (size !== BigInt(ramBytes)) {
    throw new ProtocolError(
      `snapshot: made for ${size.toString()} bytes of RAM, this machine has ${ramBytes}`,
    );
  }
  const pages = view.getUint32(32, true);
  if (view.getUint32(36, true) !== 0)
    throw new ProtocolError('snapshot: RAM part has a reserved field that is not zero');
  const total = ramBytes / PAGE_BYTES;
  if (pages > total || bytes.length !== dataOffset(pages) + pages * PAGE_BYTES) {
    throw new ProtocolError(`snapshot: RAM part of ${bytes.length} bytes does not hold ${pages} pages`);
  }
  const indexes = new Uint32Array(pages);
  new Uint8Array(indexes.buffer).set(bytes.subarray(HEADER_BYTES, HEADER_BYTES + pages * 4));
  let previous = -1;
  for (let at = 0; at < pages; at++) {
    const index = indexes[at]!;
    if (index <= previous || index >= total) {
      throw new ProtocolError(`snapshot: page index ${index} is out of order or range (${total} pages)`);
    }
    previous = index;
  }
  const full = (flags & FLAG_FULL) !== 0;
  const parent = view.getBigUint64(24, true);
  return {
    full,
    pages,
    ramBytes,
    id: view.getBigUint64(16, true),
    parent,
    indexes,
    data: bytes.subarray(dataOffset(pages)),
  };
}
