/**
 * The qcow2 header: decoded, checked and encoded. All numbers are checked before anything is allocated by them; texts
 * follow QEMU 7.2 (block/qcow2.c; docs/qemu-behaviour.md 9.4). Unknown extensions are kept. It does no I/O.
 */
import { ColoError } from '../../../base/errors.ts';
import {
  COMPRESSION_ZSTD,
  EXT_BACKING_FORMAT,
  EXT_END,
  EXT_FEATURE_NAMES,
  INCOMPAT_COMPRESSION,
  INCOMPAT_CORRUPT,
  INCOMPAT_DATA_FILE,
  INCOMPAT_DIRTY,
  INCOMPAT_EXTENDED_L2,
  MAGIC,
  MAX_BACKING_NAME_BYTES,
  MAX_CLUSTER_BITS,
  MAX_L1_BYTES,
  MAX_REFCOUNT_TABLE_BYTES,
  MIN_CLUSTER_BITS,
  getUint64,
  setUint64,
  viewOf,
} from './format.ts';

/** The image breaks the format, or uses a part of it that is not supported. */
export class Qcow2Error extends ColoError {}

export interface HeaderExtension {
  readonly type: number;
  readonly data: Uint8Array;
}

export interface Qcow2Header {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  sizeBytes: number;
  readonly cryptMethod: number;
  /** Number of L1 entries. */
  l1Size: number;
  l1Offset: number;
  refcountTableOffset: number;
  refcountTableClusters: number;
  readonly snapshotCount: number;
  incompatible: bigint;
  readonly compatible: bigint;
  autoclear: bigint;
  readonly refcountOrder: number;
  readonly headerLength: number;
  readonly compressionType: number;
  readonly backingNameOffset: number;
  readonly backingNameLength: number;
}

/** Bytes to read before `decodeHeader`. */
export const HEADER_BYTES = 112;
/** An entry of the feature name table: type, bit, name padded with NUL. */
const FEATURE_ENTRY_BYTES = 48;
const FEATURE_INCOMPATIBLE = 0;
/** Byte offsets of header fields that are rewritten in place. */
export const FIELD = { size: 24, l1: 36, refcountTable: 48, incompatible: 72, autoclear: 88 } as const;

/** Decodes the first bytes of a file (up to HEADER_BYTES; fewer in a short file). Throws Qcow2Error. */
export function decodeHeader(bytes: Uint8Array): Qcow2Header {
  if (bytes.byteLength < 72) throw new Qcow2Error('Image is not in qcow2 format');
  const padded = new Uint8Array(HEADER_BYTES);
  padded.set(bytes.subarray(0, HEADER_BYTES));
  const view = viewOf(padded);
  if (view.getUint32(0) !== MAGIC) throw new Qcow2Error('Image is not in qcow2 format');
  const version = view.getUint32(4);
  if (version !== 2 && version !== 3) throw new Qcow2Error(`Unsupported qcow2 version ${version}`);
  const clusterBits = view.getUint32(20);
  if (clusterBits < MIN_CLUSTER_BITS || clusterBits > MAX_CLUSTER_BITS) {
    throw new Qcow2Error(`Unsupported cluster size: 2^${clusterBits}`);
  }
  const v3 = version === 3;
  const headerLength = v3 ? view.getUint32(100) : 72;
  if (v3 && headerLength < 104) throw new Qcow2Error('qcow2 header too short');
  if (headerLength > 2 ** clusterBits) throw new Qcow2Error('qcow2 header exceeds cluster size');
  return {
    version,
    clusterBits,
    sizeBytes: getUint64(view, FIELD.size),
    cryptMethod: view.getUint32(32),
    l1Size: view.getUint32(36),
    l1Offset: getUint64(view, 40),
    refcountTableOffset: getUint64(view, FIELD.refcountTable),
    refcountTableClusters: view.getUint32(56),
    snapshotCount: view.getUint32(60),
    incompatible: v3 ? view.getBigUint64(FIELD.incompatible) : 0n,
    compatible: v3 ? view.getBigUint64(80) : 0n,
    autoclear: v3 ? view.getBigUint64(FIELD.autoclear) : 0n,
    refcountOrder: v3 ? view.getUint32(96) : 4,
    headerLength,
    compressionType: v3 && headerLength > 104 ? view.getUint8(104) : 0,
    backingNameOffset: getUint64(view, 8),
    backingNameLength: view.getUint32(16),
  };
}

/**
 * Refuses what cannot be read, and with `writable` what cannot be written, each by name. `cluster` is the first cluster
 * of the file, which may name features that we do not know. Throws Qcow2Error.
 */
export function checkHeader(header: Qcow2Header, writable: boolean, cluster: Uint8Array): void {
  const clusterBytes = 2 ** header.clusterBits;
  if (!(header.backingNameOffset <= clusterBytes)) throw new Qcow2Error('Invalid backing file offset');
  checkFeatures(header, writable, cluster);
  if (header.refcountOrder > 6) {
    throw new Qcow2Error('Reference count entry width too large; may not exceed 64 bits');
  }
  if (header.cryptMethod > 2) throw new Qcow2Error(`Unsupported encryption method ${header.cryptMethod}`);
  if (header.cryptMethod !== 0) throw new Qcow2Error('Encrypted qcow2 images are not supported');
  if (Number.isNaN(header.sizeBytes)) throw new Qcow2Error('Image size is too large');
  if (header.refcountTableClusters === 0)
    throw new Qcow2Error('Image does not contain a reference count table');
  if (header.refcountTableClusters * clusterBytes > MAX_REFCOUNT_TABLE_BYTES) {
    throw new Qcow2Error('Reference count table too large');
  }
  if (!(header.refcountTableOffset > 0 && header.refcountTableOffset % clusterBytes === 0)) {
    throw new Qcow2Error('Reference count table offset invalid');
  }
  if (header.l1Size * 8 > MAX_L1_BYTES) throw new Qcow2Error('Active L1 table too large');
  if (header.l1Size < l1EntriesFor(header.sizeBytes, header.clusterBits))
    throw new Qcow2Error('L1 table is too small');
  if (header.l1Size > 0 && !(header.l1Offset > 0 && header.l1Offset % clusterBytes === 0)) {
    throw new Qcow2Error('Active L1 table offset invalid');
  }
  if (header.backingNameOffset > 0) {
    const room = clusterBytes - header.backingNameOffset;
    if (header.backingNameLength > Math.min(MAX_BACKING_NAME_BYTES, room)) {
      throw new Qcow2Error('Backing file name too long');
    }
  }
  if (writable && header.snapshotCount > 0) {
    throw new Qcow2Error(
      `Images with internal snapshots (${header.snapshotCount}) can only be opened read-only; ` +
        'delete them with qemu-img snapshot -d',
    );
  }
}

function checkFeatures(header: Qcow2Header, writable: boolean, cluster: Uint8Array): void {
  const known =
    INCOMPAT_DIRTY | INCOMPAT_CORRUPT | INCOMPAT_DATA_FILE | INCOMPAT_COMPRESSION | INCOMPAT_EXTENDED_L2;
  const unknown = header.incompatible & ~known;
  if (unknown !== 0n) {
    throw new Qcow2Error(
      `Unsupported qcow2 feature(s): ${nameFeatures(unknown, header, cluster).join(', ')}`,
    );
  }
  if (header.incompatible & INCOMPAT_DATA_FILE)
    throw new Qcow2Error('qcow2 images with an external data file are not supported');
  if (header.incompatible & INCOMPAT_EXTENDED_L2)
    throw new Qcow2Error('qcow2 images with extended L2 entries are not supported');
  if (header.incompatible & INCOMPAT_COMPRESSION) {
    if (header.compressionType === 0) {
      throw new Qcow2Error('qcow2: Compression type incompatible feature bit must not be set');
    }
    if (header.compressionType !== COMPRESSION_ZSTD) {
      throw new Qcow2Error(
        `qcow2 compression type '${header.compressionType}' is not supported; use zlib (deflate) or zstd`,
      );
    }
  } else if (header.compressionType !== 0)
    throw new Qcow2Error('qcow2: Compression type incompatible feature bit must be set');
  if (writable && header.incompatible & INCOMPAT_CORRUPT) {
    throw new Qcow2Error('qcow2: Image is corrupt; cannot be opened read/write');
  }
}

/** Names for incompatible features: those that the image's own table gives, then a mask of the rest. */
function nameFeatures(features: bigint, header: Qcow2Header, cluster: Uint8Array): string[] {
  const names: string[] = [];
  let rest = features;
  let table: Uint8Array = new Uint8Array(0);
  try {
    table =
      decodeTail(cluster, header).extensions.find(({ type }) => type === EXT_FEATURE_NAMES)?.data ?? table;
  } catch {
    // Without a table there are no names.
  }
  for (let at = 0; at + FEATURE_ENTRY_BYTES <= table.byteLength; at += FEATURE_ENTRY_BYTES) {
    const bit = table[at + 1] ?? 64;
    const mask = bit < 64 ? 1n << BigInt(bit) : 0n;
    if (table[at] !== FEATURE_INCOMPATIBLE || (rest & mask) === 0n) continue;
    const name = new TextDecoder().decode(table.subarray(at + 2, at + FEATURE_ENTRY_BYTES));
    // The image's author must not write to anybody's terminal.
    names.push((name.split('\0')[0] ?? '').replace(/[\u0000-\u001f\u007f-\u009f]/g, '?'));
    rest &= ~mask;
  }
  if (rest !== 0n) names.push(`Unknown incompatible feature: ${rest.toString(16)}`);
  return names;
}

/** L1 entries that an image of this size needs. */
export function l1EntriesFor(sizeBytes: number, clusterBits: number): number {
  return Math.ceil(sizeBytes / 2 ** (clusterBits * 2 - 3));
}

/** Extensions and the backing file's name out of the first cluster. Throws Qcow2Error. */
export function decodeTail(
  cluster: Uint8Array,
  header: Qcow2Header,
): { extensions: HeaderExtension[]; backingFile: string | null; backingFormat: string | null } {
  const view = viewOf(cluster);
  const end = header.backingNameOffset > 0 ? header.backingNameOffset : cluster.byteLength;
  const extensions: HeaderExtension[] = [];
  for (let at = header.headerLength; at + 8 <= end;) {
    const type = view.getUint32(at);
    const length = view.getUint32(at + 4);
    if (type === EXT_END) break;
    if (length > end - at - 8) throw new Qcow2Error('Header extension too large');
    extensions.push({ type, data: cluster.slice(at + 8, at + 8 + length) });
    at += 8 + Math.ceil(length / 8) * 8;
  }
  const text = new TextDecoder();
  const format = extensions.find(({ type }) => type === EXT_BACKING_FORMAT);
  const nameEnd = header.backingNameOffset + header.backingNameLength;
  const hasBacking = header.backingNameOffset > 0 && header.backingNameLength > 0;
  return {
    extensions,
    backingFile: hasBacking ? text.decode(cluster.subarray(header.backingNameOffset, nameEnd)) : null,
    backingFormat: format ? text.decode(format.data) : null,
  };
}

/** A whole header with its extensions and backing name, for a new image. Throws Qcow2Error when it needs more than a cluster. */
export function encodeHeader(
  header: Omit<Qcow2Header, 'backingNameOffset' | 'backingNameLength' | 'headerLength'>,
  extensions: readonly HeaderExtension[],
  backingFile: string | null,
): Uint8Array {
  const headerLength = header.version === 3 ? HEADER_BYTES : 72;
  const name = new TextEncoder().encode(backingFile ?? '');
  const extBytes = extensions.reduce((sum, { data }) => sum + 8 + Math.ceil(data.byteLength / 8) * 8, 0) + 8;
  const total = headerLength + extBytes + name.byteLength;
  if (name.byteLength > MAX_BACKING_NAME_BYTES || total > 2 ** header.clusterBits) {
    throw new Qcow2Error('Backing file name too long');
  }
  const bytes = new Uint8Array(total);
  const view = viewOf(bytes);
  view.setUint32(0, MAGIC);
  view.setUint32(4, header.version);
  if (backingFile !== null) {
    setUint64(view, 8, headerLength + extBytes);
    view.setUint32(16, name.byteLength);
    bytes.set(name, headerLength + extBytes);
  }
  view.setUint32(20, header.clusterBits);
  setUint64(view, FIELD.size, header.sizeBytes);
  view.setUint32(32, header.cryptMethod);
  view.setUint32(36, header.l1Size);
  setUint64(view, 40, header.l1Offset);
  setUint64(view, FIELD.refcountTable, header.refcountTableOffset);
  view.setUint32(56, header.refcountTableClusters);
  if (header.version === 3) {
    view.setBigUint64(FIELD.incompatible, header.incompatible);
    view.setBigUint64(80, header.compatible);
    view.setBigUint64(FIELD.autoclear, header.autoclear);
    view.setUint32(96, header.refcountOrder);
    view.setUint32(100, headerLength);
  }
  let at = headerLength;
  for (const { type, data } of extensions) {
    view.setUint32(at, type);
    view.setUint32(at + 4, data.byteLength);
    bytes.set(data, at + 8);
    at += 8 + Math.ceil(data.byteLength / 8) * 8;
  }
  return bytes;
}
