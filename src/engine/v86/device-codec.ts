/**
 * The `device` part of a snapshot, in bytes. Everything little-endian:
 *
 *   0  u32 magic 'DEV1'    4  u32 length of the JSON text
 *   8  the JSON text: { id, tree, extra, buffers: [{ path, bytes, whole, pages: [index, …] }, …] }
 *  ..  the buffers' contents one after the other, from the next multiple of 8: all of a `whole` buffer, else the listed
 *      pages of 4096 bytes (the last one may be short)
 *
 * A buffer that is not `whole` builds on the baseline's buffer of the same path and length. VGA memory is what this is
 * for: 3 MB of which hardly anything ever changes.
 */
import { ProtocolError } from '../../base/errors.ts';
import { checkTree } from './device-tree.ts';
import type { DeviceBuffers, DeviceTree } from './device-tree.ts';
import { PAGE_BYTES } from '../ram/ram-codec.ts';
import { bufferOver } from './ram-diff.ts';

const MAGIC = 0x31564544;
const HEADER_BYTES = 8;
/** More than any machine has; a bound on what a peer can make us allocate. */
const MAX_DEVICE_BYTES = 512 * 1024 * 1024;
const MAX_JSON_BYTES = 64 * 1024 * 1024;

interface BufferRecord {
  readonly path: string;
  readonly bytes: number;
  readonly whole: boolean;
  readonly pages: number[];
}

interface Head {
  readonly id: string;
  readonly tree: DeviceTree;
  readonly extra: unknown;
  readonly buffers: readonly BufferRecord[];
}

export interface DeviceState {
  /** The id of the RAM state that it belongs to. */
  readonly id: bigint;
  readonly tree: DeviceTree;
  /** What v86 itself does not save (machine-state.ts). */
  readonly extra: unknown;
}

export interface ParsedDevice extends DeviceState {
  /** The baseline with the changes applied; the buffers that changed are new ones. */
  readonly buffers: DeviceBuffers;
}

const align8 = (n: number): number => Math.ceil(n / 8) * 8;

function recordOf(path: string, now: Uint8Array, before: Uint8Array | undefined): BufferRecord {
  if (before?.length !== now.length || now.length <= PAGE_BYTES) {
    return { path, bytes: now.length, whole: true, pages: [] };
  }
  const a = bufferOver(now);
  const b = bufferOver(before);
  const pages: number[] = [];
  for (let at = 0; at < a.length; at += PAGE_BYTES) {
    const end = Math.min(at + PAGE_BYTES, a.length);
    if (a.compare(b, at, end, at, end) !== 0) pages.push(at / PAGE_BYTES);
  }
  return { path, bytes: now.length, whole: false, pages };
}

const pageEnd = (record: BufferRecord, page: number): number =>
  Math.min((page + 1) * PAGE_BYTES, record.bytes);

function contentBytes(record: BufferRecord): number {
  if (record.whole) return record.bytes;
  let sum = 0;
  for (const page of record.pages) sum += pageEnd(record, page) - page * PAGE_BYTES;
  return sum;
}

/** Encodes the change from `baseline` (null: everything) to `buffers`, and brings `baseline` up to date if given. */
export function encodeDevice(
  state: DeviceState,
  buffers: DeviceBuffers,
  baseline: DeviceBuffers | null,
): Uint8Array<ArrayBuffer> {
  const records = [...buffers].map(([path, bytes]) => recordOf(path, bytes, baseline?.get(path)));
  const head: Head = { id: state.id.toString(), tree: state.tree, extra: state.extra, buffers: records };
  const json = Buffer.from(JSON.stringify(head));
  let at = align8(HEADER_BYTES + json.length);
  const out = new Uint8Array(records.reduce((sum, record) => sum + contentBytes(record), at));
  const view = new DataView(out.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, json.length, true);
  out.set(json, HEADER_BYTES);
  for (const record of records) {
    const bytes = buffers.get(record.path)!;
    const before = baseline?.get(record.path);
    if (record.whole) {
      out.set(bytes, at);
      at += bytes.length;
      baseline?.set(record.path, bytes.slice());
      continue;
    }
    for (const page of record.pages) {
      const part = bytes.subarray(page * PAGE_BYTES, pageEnd(record, page));
      out.set(part, at);
      before?.set(part, page * PAGE_BYTES);
      at += part.length;
    }
  }
  if (baseline) for (const path of baseline.keys()) if (!buffers.has(path)) baseline.delete(path);
  return out;
}

function parseHead(bytes: Uint8Array): { head: Head; at: number } {
  if (bytes.length < HEADER_BYTES) throw new ProtocolError('snapshot: device part is cut off');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0, true) !== MAGIC)
    throw new ProtocolError('snapshot: device part has a wrong magic number');
  const length = view.getUint32(4, true);
  if (length > MAX_JSON_BYTES || HEADER_BYTES + length > bytes.length) {
    throw new ProtocolError('snapshot: device part is cut off in its description');
  }
  let head: Partial<Head> | null;
  try {
    head = JSON.parse(
      bufferOver(bytes).toString('utf8', HEADER_BYTES, HEADER_BYTES + length),
    ) as Partial<Head> | null;
  } catch (cause) {
    throw new ProtocolError('snapshot: device part is not JSON', { cause });
  }
  if (!head || typeof head.id !== 'string' || !/^\d{1,20}$/.test(head.id) || !Array.isArray(head.buffers)) {
    throw new ProtocolError('snapshot: device part lacks its id or its buffers');
  }
  return { head: head as Head, at: align8(HEADER_BYTES + length) };
}

function checkRecord(record: unknown): BufferRecord {
  const { path, bytes, whole, pages } = (record ?? {}) as Partial<BufferRecord>;
  const isSize =
    typeof bytes === 'number' && Number.isInteger(bytes) && bytes >= 0 && bytes <= MAX_DEVICE_BYTES;
  if (typeof path !== 'string' || typeof whole !== 'boolean' || !isSize || !Array.isArray(pages)) {
    throw new ProtocolError('snapshot: a device buffer is described wrongly');
  }
  let previous = -1;
  for (const page of pages as unknown[]) {
    if (
      typeof page !== 'number' ||
      !Number.isInteger(page) ||
      page <= previous ||
      page * PAGE_BYTES >= bytes
    ) {
      throw new ProtocolError(`snapshot: device buffer ${path} has a page out of order or range`);
    }
    previous = page;
  }
  return { path, bytes, whole, pages };
}

/** Checks `bytes` and applies them to a copy of `baseline`, which stays as it was. Throws ProtocolError. */
export function parseDevice(bytes: Uint8Array, baseline: DeviceBuffers | null): ParsedDevice {
  const { head, at: start } = parseHead(bytes);
  const records = head.buffers.map(checkRecord);
  const total = records.reduce((sum, record) => sum + contentBytes(record), start);
  if (total !== bytes.length)
    throw new ProtocolError(`snapshot: device part has ${bytes.length} bytes, not ${total}`);
  const buffers: DeviceBuffers = new Map();
  let at = start;
  for (const record of records) {
    if (buffers.has(record.path))
      throw new ProtocolError(`snapshot: device buffer ${record.path} comes twice`);
    if (record.whole) {
      buffers.set(record.path, bytes.slice(at, at + record.bytes));
      at += record.bytes;
      continue;
    }
    const before = baseline?.get(record.path);
    if (before?.length !== record.bytes) {
      throw new ProtocolError(`snapshot: device buffer ${record.path} builds on a state that is not here`);
    }
    const after = record.pages.length === 0 ? before : before.slice();
    for (const page of record.pages) {
      const length = pageEnd(record, page) - page * PAGE_BYTES;
      after.set(bytes.subarray(at, at + length), page * PAGE_BYTES);
      at += length;
    }
    buffers.set(record.path, after);
  }
  checkTree(head.tree, (path) => buffers.get(path)?.length);
  return { id: BigInt(head.id), tree: head.tree, extra: head.extra, buffers };
}
