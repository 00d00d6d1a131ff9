/**
 * The `device` part of a snapshot of the QEMU engine, little-endian: u32 magic 'QDS1', u32 flags (1: full), u64 id of the
 * RAM state that it belongs to. Full: QEMU's migration stream as it is. Otherwise what differs from an earlier one:
 * u64 id of that one, u32 length of the stream, u32 number of blocks, their indexes (u32, ascending), the blocks.
 *
 * Most of a stream is video memory and firmware, at the same place each time. Asked of QEMU 7.2: of the 920 KB of a PC with
 * an idle Linux, under 2 KB change from one second to the next.
 */
import { ProtocolError } from '../../base/errors.ts';

const MAGIC = 0x31534451;
const FLAG_FULL = 1;
const HEADER_BYTES = 16;
const DELTA_HEADER_BYTES = 32;
const BLOCK_BYTES = 256;
/** Compared at once; what differs is looked at block by block. */
const COARSE_BYTES = 16 * BLOCK_BYTES;

/** A device stream, and the RAM state that it belongs to. */
export interface DeviceState {
  readonly id: bigint;
  readonly stream: Uint8Array;
}

/** `base`: one that whoever decodes it holds; null: it holds none. */
export function encodeDevice({ id, stream }: DeviceState, base: DeviceState | null): Uint8Array {
  const changed = base ? changedBlocks(base.stream, stream) : null;
  if (!base || !changed) {
    const bytes = new Uint8Array(HEADER_BYTES + stream.length);
    writeHeader(bytes, FLAG_FULL, id);
    bytes.set(stream, HEADER_BYTES);
    return bytes;
  }
  const dataAt = DELTA_HEADER_BYTES + 4 * changed.length;
  const bytes = new Uint8Array(dataAt + changed.length * BLOCK_BYTES);
  const view = writeHeader(bytes, 0, id);
  view.setBigUint64(16, base.id, true);
  view.setUint32(24, stream.length, true);
  view.setUint32(28, changed.length, true);
  let end = dataAt;
  for (const [at, index] of changed.entries()) {
    view.setUint32(DELTA_HEADER_BYTES + 4 * at, index, true);
    const block = stream.subarray(index * BLOCK_BYTES, (index + 1) * BLOCK_BYTES);
    bytes.set(block, end);
    end += block.length;
  }
  return bytes.subarray(0, end);
}

/** Throws ProtocolError when it does not belong to the RAM state `id`, or builds on another one than `base`. */
export function decodeDevice(bytes: Uint8Array, id: bigint, base: DeviceState | null): DeviceState {
  if (bytes.length < HEADER_BYTES) throw malformed('is cut off');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (view.getUint32(0, true) !== MAGIC) throw malformed('has a wrong magic number');
  const flags = view.getUint32(4, true);
  if (flags !== FLAG_FULL && flags !== 0) throw malformed(`has unknown flags ${flags}`);
  if (view.getBigUint64(8, true) !== id) {
    throw new ProtocolError('snapshot: its two parts belong to different states');
  }
  if (flags === FLAG_FULL) return { id, stream: bytes.subarray(HEADER_BYTES) };
  if (bytes.length < DELTA_HEADER_BYTES) throw malformed('is cut off');
  if (!base || base.id !== view.getBigUint64(16, true)) {
    throw malformed('builds on a state that this machine does not hold');
  }
  return { id, stream: applyBlocks(base.stream, bytes, view) };
}

function applyBlocks(base: Uint8Array, bytes: Uint8Array, view: DataView): Uint8Array {
  const length = view.getUint32(24, true);
  const count = view.getUint32(28, true);
  const dataAt = DELTA_HEADER_BYTES + 4 * count;
  if (dataAt > bytes.length) throw malformed('is cut off');
  // No longer than what is here already: nothing is allocated on a peer's word.
  if (length > base.length + (bytes.length - dataAt)) throw malformed('is shorter than it says');
  const stream = new Uint8Array(length);
  stream.set(base.subarray(0, length));
  let from = dataAt;
  let next = 0;
  /** Blocks that the base does not fill have to come, one after the other. */
  let whole = Math.floor(Math.min(base.length, length) / BLOCK_BYTES);
  const blocks = Math.ceil(length / BLOCK_BYTES);
  if (base.length === length) whole = blocks;
  for (let at = 0; at < count; at++) {
    const index = view.getUint32(DELTA_HEADER_BYTES + 4 * at, true);
    if (index < next || index >= blocks) throw malformed('has a block out of order or range');
    if (index === whole) whole++;
    next = index + 1;
    const size = Math.min(BLOCK_BYTES, length - index * BLOCK_BYTES);
    if (from + size > bytes.length) throw malformed('is cut off');
    stream.set(bytes.subarray(from, from + size), index * BLOCK_BYTES);
    from += size;
  }
  if (from !== bytes.length) throw malformed('is longer than it says');
  if (whole < blocks) throw malformed('leaves something out');
  return stream;
}

/** Null: so many that a full one is no longer. */
function changedBlocks(base: Uint8Array, stream: Uint8Array): number[] | null {
  const before = Buffer.from(base.buffer, base.byteOffset, base.length);
  const blocks = Math.ceil(stream.length / BLOCK_BYTES);
  const changed: number[] = [];
  for (let coarse = 0; coarse < stream.length; coarse += COARSE_BYTES) {
    if (isAlike(before, stream, coarse, COARSE_BYTES)) continue;
    const end = Math.min(coarse + COARSE_BYTES, stream.length);
    for (let at = coarse; at < end; at += BLOCK_BYTES) {
      if (!isAlike(before, stream, at, BLOCK_BYTES)) changed.push(at / BLOCK_BYTES);
    }
    if (changed.length > blocks / 2) return null;
  }
  return changed;
}

function isAlike(before: Buffer, stream: Uint8Array, at: number, length: number): boolean {
  const end = Math.min(at + length, stream.length);
  // The last block of another length comes whole.
  if (end > before.length || (end === stream.length && before.length !== stream.length)) return false;
  return before.compare(stream, at, end, at, end) === 0;
}

function writeHeader(bytes: Uint8Array, flags: number, id: bigint): DataView {
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, flags, true);
  view.setBigUint64(8, id, true);
  return view;
}

function malformed(what: string): ProtocolError {
  return new ProtocolError(`snapshot: its device part ${what}`);
}
