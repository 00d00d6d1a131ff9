/**
 * The `device` part of a snapshot of the QEMU engine, little-endian: u32 magic 'QDS1', u32 0, u64 id of the RAM state
 * that it belongs to, then QEMU's migration stream as it is.
 */
import { ProtocolError } from '../../base/errors.ts';

const MAGIC = 0x31534451;
const HEADER_BYTES = 16;

export function encodeDevice(id: bigint, state: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + state.byteLength);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC, true);
  view.setBigUint64(8, id, true);
  bytes.set(state, HEADER_BYTES);
  return bytes;
}

/** The stream inside. Throws ProtocolError when it does not belong to the RAM state `id`. */
export function decodeDevice(bytes: Uint8Array, id: bigint): Uint8Array {
  if (bytes.byteLength < HEADER_BYTES) throw new ProtocolError('snapshot: its device part is cut off');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0, true) !== MAGIC)
    throw new ProtocolError('snapshot: its device part has a wrong magic number');
  if (view.getBigUint64(8, true) !== id)
    throw new ProtocolError('snapshot: its two parts belong to different states');
  return bytes.subarray(HEADER_BYTES);
}
