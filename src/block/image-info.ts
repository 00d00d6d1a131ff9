/**
 * What an image is: QEMU's ImageInfo (qapi/block-core.json), for open nodes and, as far as the header goes, for a qcow2
 * file that is not opened as one. Members and their absence are those of QEMU 7.2 (block/qapi.c): what a driver cannot
 * tell is left out.
 */
import {
  COMPAT_LAZY_REFCOUNTS,
  COMPRESSION_ZSTD,
  INCOMPAT_CORRUPT,
  INCOMPAT_DIRTY,
} from './drivers/qcow2/format.ts';
import type { Qcow2Header } from './drivers/qcow2/header.ts';
import { Qcow2Driver } from './drivers/qcow2/qcow2.ts';
import { ImageNames } from './image-names.ts';
import type { BlockNode } from './node.ts';

export interface FormatSpecific {
  readonly type: string;
  readonly data: Record<string, unknown>;
}

export interface ImageInfo {
  readonly filename: string;
  readonly format: string;
  readonly 'dirty-flag'?: boolean;
  readonly 'actual-size'?: number;
  readonly 'virtual-size': number;
  readonly 'cluster-size'?: number;
  readonly 'backing-filename'?: string;
  readonly 'full-backing-filename'?: string;
  readonly 'backing-filename-format'?: string;
  readonly 'format-specific'?: FormatSpecific;
  'backing-image'?: ImageInfo;
}

/** Drivers that stand for the one node below them (QEMU: is_filter). */
const FILTERS: ReadonlySet<string> = new Set(['replication', 'blkdebug', 'throttle', 'copy-on-read']);

/** The node whose content this one shows where it has none of its own: below a filter, behind an overlay. */
export function nodeBehind(node: BlockNode): BlockNode | null {
  if (node.backing) return node.backing;
  return FILTERS.has(node.driver.driverName) ? filtered(node) : null;
}

/** blkdebug calls it `image`. */
function filtered(node: BlockNode): BlockNode | null {
  const children = node.driver.children();
  return children.get('file') ?? children.get('image') ?? null;
}

/** Describes images as they are now; to be thrown away after one answer. */
export class ImageInspector {
  readonly names = new ImageNames();
  readonly #infos = new Map<BlockNode, Promise<ImageInfo>>();
  readonly #allocated = new Map<BlockNode, Promise<number | null>>();

  /** The image alone; what is behind it is another one. */
  info(node: BlockNode): Promise<ImageInfo> {
    const known = this.#infos.get(node);
    if (known) return known;
    const info = this.#info(node);
    this.#infos.set(node, info);
    return info;
  }

  async #info(node: BlockNode): Promise<ImageInfo> {
    const { driver } = node;
    const actual = await this.#allocatedBytes(node);
    const general = generalInfo(node);
    const named = driver instanceof Qcow2Driver ? driver.namedBacking : null;
    return {
      filename: this.names.of(node),
      format: driver.driverName,
      // QEMU counts in whole sectors.
      'virtual-size': Math.ceil(node.lengthBytes / 512) * 512,
      ...(actual === null ? {} : { 'actual-size': actual }),
      ...(general ? { 'dirty-flag': general.dirty } : {}),
      ...(general?.clusterBytes === undefined ? {} : { 'cluster-size': general.clusterBytes }),
      ...(named === null ? {} : { 'backing-filename': named.file }),
      ...(named?.fullName == null ? {} : { 'full-backing-filename': named.fullName }),
      ...(named?.format == null ? {} : { 'backing-filename-format': named.format }),
      ...(driver instanceof Qcow2Driver ? { 'format-specific': qcow2Specific(driver.header) } : {}),
    };
  }

  /** Null when any part of it cannot be told. Backing nodes do not count. */
  #allocatedBytes(node: BlockNode): Promise<number | null> {
    const known = this.#allocated.get(node);
    if (known) return known;
    const bytes = this.#sumBytes(node);
    this.#allocated.set(node, bytes);
    return bytes;
  }

  async #sumBytes(node: BlockNode): Promise<number | null> {
    const { driver } = node;
    if (driver.allocatedBytes) return driver.allocatedBytes().catch(() => null);
    let sum: number | null = null;
    for (const [role, child] of driver.children()) {
      if (role === 'backing') continue;
      const bytes = await this.#allocatedBytes(child);
      if (bytes === null) return null;
      sum = (sum ?? 0) + bytes;
    }
    return sum;
  }
}

/** `format-specific` of a qcow2 image. */
export function qcow2Specific(header: Qcow2Header): FormatSpecific {
  if (header.version === 2) {
    return { type: 'qcow2', data: { compat: '0.10', 'compression-type': 'zlib', 'refcount-bits': 16 } };
  }
  const data = {
    compat: '1.1',
    'compression-type': header.compressionType === COMPRESSION_ZSTD ? 'zstd' : 'zlib',
    'lazy-refcounts': (header.compatible & COMPAT_LAZY_REFCOUNTS) !== 0n,
    'refcount-bits': 2 ** header.refcountOrder,
    corrupt: (header.incompatible & INCOMPAT_CORRUPT) !== 0n,
    'extended-l2': false,
  };
  return { type: 'qcow2', data };
}

/** What QEMU's bdrv_get_info says: nothing for protocols other than files, and nothing for a quorum. */
function generalInfo(node: BlockNode): { dirty: boolean; clusterBytes?: number } | null {
  const { driver } = node;
  if (driver instanceof Qcow2Driver) {
    return {
      dirty: (driver.header.incompatible & INCOMPAT_DIRTY) !== 0n,
      clusterBytes: driver.clusterBytes,
    };
  }
  if (driver.driverName === 'file' || driver.driverName === 'host_device') return { dirty: false };
  if (driver.driverName !== 'raw' && !FILTERS.has(driver.driverName)) return null;
  const below = filtered(node);
  return below ? generalInfo(below) : null;
}
