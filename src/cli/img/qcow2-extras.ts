/**
 * What `info` tells of a qcow2 image beyond its header: internal snapshots, bitmaps, the external data file's name.
 * Reading only, with every number checked against the file. Source: QEMU docs/interop/qcow2.rst, snapshots and bitmaps.
 */
import { getUint64, viewOf } from '../../block/drivers/qcow2/format.ts';
import { HEADER_BYTES, Qcow2Error, decodeHeader, decodeTail } from '../../block/drivers/qcow2/header.ts';
import type { HeaderExtension } from '../../block/drivers/qcow2/header.ts';
import type { Qcow2Info } from '../../block/drivers/qcow2/open.ts';
import type { BlockNode } from '../../block/node.ts';

const EXT_BITMAPS = 0x23852875;
const EXT_DATA_FILE = 0x44415441;
const SNAPSHOT_TABLE_AT = 64;
/** QEMU's own limits. */
const MAX_SNAPSHOTS = 65_536;
const MAX_BITMAPS = 65_535;
const MAX_TABLE_BYTES = 64 * 2 ** 20;
const NO_ICOUNT = 2n ** 64n - 1n;

export interface SnapshotInfo {
  readonly id: string;
  readonly name: string;
  readonly vmStateBytes: number;
  readonly dateSec: number;
  readonly dateNsec: number;
  readonly vmClockNsec: bigint;
  /** Null: not recorded. */
  readonly icount: bigint | null;
}

export interface BitmapInfo {
  readonly name: string;
  readonly granularity: number;
  readonly flags: string[];
}

/** The header as it stands, of images too that could not be opened. Throws Qcow2Error, IoError. */
export async function readQcow2Header(file: BlockNode): Promise<Qcow2Info> {
  const head = new Uint8Array(Math.min(HEADER_BYTES, file.lengthBytes));
  await file.read(0, head);
  const header = decodeHeader(head);
  const cluster = new Uint8Array(2 ** header.clusterBits);
  await file.read(0, cluster.subarray(0, Math.min(cluster.byteLength, file.lengthBytes)));
  return { header, ...decodeTail(cluster, header) };
}

/** The image's internal snapshots. Throws Qcow2Error, IoError. */
export async function readSnapshots(file: BlockNode, count: number): Promise<SnapshotInfo[]> {
  if (count === 0) return [];
  if (count > MAX_SNAPSHOTS) throw new Qcow2Error('Snapshot table too large');
  const field = new Uint8Array(8);
  await file.read(SNAPSHOT_TABLE_AT, field);
  const offset = getUint64(viewOf(field), 0);
  const table = await readTable(file, offset, MAX_TABLE_BYTES, 'Snapshot table');
  const snapshots: SnapshotInfo[] = [];
  let at = 0;
  for (let index = 0; index < count; index++) {
    const entry = new Entry(table, at, 40, 'Snapshot table');
    const [idBytes, nameBytes, extraBytes] = [entry.u16(12), entry.u16(14), entry.u32(36)];
    const names = 40 + extraBytes;
    entry.need(names + idBytes + nameBytes);
    const extended = extraBytes >= 8 ? entry.u64(40) : 0;
    const icount = extraBytes >= 24 ? entry.big(56) : NO_ICOUNT;
    snapshots.push({
      id: entry.text(names, idBytes),
      name: entry.text(names + idBytes, nameBytes),
      dateSec: entry.u32(16),
      dateNsec: entry.u32(20),
      vmClockNsec: entry.big(24),
      vmStateBytes: extended > 0 ? extended : entry.u32(32),
      icount: icount === NO_ICOUNT ? null : icount,
    });
    at += Math.ceil((names + idBytes + nameBytes) / 8) * 8;
  }
  return snapshots;
}

/** The image's bitmaps. Throws Qcow2Error, IoError. */
export async function readBitmaps(
  file: BlockNode,
  extensions: readonly HeaderExtension[],
): Promise<BitmapInfo[]> {
  const extension = extensions.find(({ type }) => type === EXT_BITMAPS);
  if (!extension) return [];
  const head = new Entry(extension.data, 0, 24, 'bitmaps_ext');
  const [count, bytes, offset] = [head.u32(0), head.u64(8), head.u64(16)];
  if (count > MAX_BITMAPS || !(bytes <= MAX_TABLE_BYTES))
    throw new Qcow2Error('bitmaps_ext: too many bitmaps');
  const directory = await readTable(file, offset, bytes, 'Bitmap directory');
  const bitmaps: BitmapInfo[] = [];
  let at = 0;
  for (let index = 0; index < count; index++) {
    const entry = new Entry(directory, at, 24, 'Bitmap directory');
    const [flags, bits, nameBytes, extraBytes] = [entry.u32(12), entry.u8(17), entry.u16(18), entry.u32(20)];
    entry.need(24 + extraBytes + nameBytes);
    bitmaps.push({
      name: entry.text(24 + extraBytes, nameBytes),
      granularity: 2 ** bits,
      flags: [...(flags & 1 ? ['in-use'] : []), ...(flags & 2 ? ['auto'] : [])],
    });
    at += Math.ceil((24 + extraBytes + nameBytes) / 8) * 8;
  }
  return bitmaps;
}

/** The name of the external data file; null: none. */
export function dataFileName(extensions: readonly HeaderExtension[]): string | null {
  const extension = extensions.find(({ type }) => type === EXT_DATA_FILE);
  return extension ? new TextDecoder().decode(extension.data) : null;
}

async function readTable(file: BlockNode, offset: number, bytes: number, what: string): Promise<Uint8Array> {
  if (!(offset > 0 && offset < file.lengthBytes)) throw new Qcow2Error(`${what} offset is invalid`);
  const table = new Uint8Array(Math.min(bytes, file.lengthBytes - offset));
  await file.read(offset, table);
  return table;
}

/** Numbers and texts at places of one entry; what lies behind the end of the table is refused. */
class Entry {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #what: string;

  constructor(table: Uint8Array, at: number, headBytes: number, what: string) {
    this.#bytes = table.subarray(at);
    this.#view = viewOf(this.#bytes);
    this.#what = what;
    this.need(headBytes);
  }

  need(bytes: number): void {
    if (bytes > this.#bytes.byteLength) throw new Qcow2Error(`${this.#what} is cut short`);
  }

  u8(at: number): number {
    return this.#view.getUint8(at);
  }

  u16(at: number): number {
    return this.#view.getUint16(at);
  }

  u32(at: number): number {
    return this.#view.getUint32(at);
  }

  u64(at: number): number {
    this.need(at + 8);
    return getUint64(this.#view, at);
  }

  big(at: number): bigint {
    this.need(at + 8);
    return this.#view.getBigUint64(at);
  }

  text(at: number, bytes: number): string {
    return new TextDecoder().decode(this.#bytes.subarray(at, at + bytes));
  }
}
