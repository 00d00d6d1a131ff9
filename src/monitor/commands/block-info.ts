/**
 * The replies of query-block, query-named-block-nodes and query-blockstats (QEMU qapi/block-core.json: BlockInfo,
 * BlockDeviceInfo, BlockStats), with the members that QEMU 7.2 has for the same graph. What never occurs here
 * (throttling, encryption, merged requests) has the values by which QEMU says so.
 */
import { deviceName } from '../../block/graph.ts';
import type { BlockBackend } from '../../block/graph.ts';
import { ImageInspector, nodeBehind } from '../../block/image-info.ts';
import type { BlockNode } from '../../block/node.ts';
import type { GuestDisk } from '../../vm/disks.ts';
import { DiskStats } from '../../vm/disk-stats.ts';

/**
 * Images and statistics in one reply. A node shows all that is behind it, so that long chains with many users would
 * unfold without bound; past this a reply goes on as with `flat`.
 */
const MAX_DESCRIBED = 20_000;

type Members = Record<string, unknown>;

/** Makes one reply. */
export class BlockDescriber {
  readonly #images = new ImageInspector();
  readonly #isFlat: boolean;
  #left = MAX_DESCRIBED;

  /** `isFlat`: nodes without what is behind them. */
  constructor(isFlat = false) {
    this.#isFlat = isFlat;
  }

  /** An element of query-block; `disk` is the guest's disk on it, if there is one. */
  async device(backend: BlockBackend, disk: GuestDisk | null): Promise<Members> {
    return {
      ...(disk ? { 'io-status': 'ok' } : {}),
      device: deviceName(backend),
      locked: false,
      // QEMU takes a drive without a device for one.
      removable: disk === null,
      inserted: await this.node(backend.root),
      ...(disk?.deviceId == null ? {} : { qdev: disk.deviceId }),
      type: 'unknown',
    };
  }

  /** An element of query-named-block-nodes. */
  async node(node: BlockNode): Promise<Members> {
    const { detectZeroes, noFlush } = node.settings;
    const bitmaps = node.dirtyBitmaps.info();
    const image = { ...(await this.#images.info(node)) };
    let depth = 0;
    let above = image;
    for (let behind = nodeBehind(node); behind && this.#mayDescribe(); behind = nodeBehind(behind)) {
      const info = { ...(await this.#images.info(behind)) };
      above['backing-image'] = info;
      above = info;
      depth++;
    }
    return {
      file: this.#images.names.of(node),
      'node-name': node.nodeName,
      ro: node.readOnly,
      drv: node.driver.driverName,
      ...(node.backing ? { backing_file: this.#images.names.of(node.backing) } : {}),
      backing_file_depth: depth,
      encrypted: false,
      detect_zeroes: detectZeroes,
      ...{ bps: 0, bps_rd: 0, bps_wr: 0, iops: 0, iops_rd: 0, iops_wr: 0 },
      image,
      cache: { writeback: true, direct: false, 'no-flush': noFlush },
      write_threshold: 0,
      ...(bitmaps === undefined ? {} : { 'dirty-bitmaps': bitmaps }),
    };
  }

  /** An element of query-blockstats. */
  deviceStats(backend: BlockBackend, disk: GuestDisk | null): Members {
    const { root } = backend;
    const stats = (disk?.stats ?? new DiskStats()).report();
    return {
      device: deviceName(backend),
      ...(disk?.deviceId == null ? {} : { qdev: disk.deviceId }),
      ...this.nodeStats(root, true),
      stats: withGeneral(stats, root, true),
    };
  }

  /** A node's, with the nodes that its data is on; `withBehind`: and those behind it. */
  nodeStats(node: BlockNode, withBehind: boolean): Members {
    const parent = singleStorage(node);
    const behind = withBehind ? nodeBehind(node) : null;
    const isFile = node.driver.driverName === 'file';
    return {
      'node-name': node.nodeName,
      stats: withGeneral(new DiskStats().report(), node, false),
      ...(isFile ? { 'driver-specific': { driver: 'file', ...NO_DISCARDS } } : {}),
      ...(parent && this.#mayDescribe() ? { parent: this.nodeStats(parent, withBehind) } : {}),
      ...(behind && this.#mayDescribe() ? { backing: this.nodeStats(behind, true) } : {}),
    };
  }

  #mayDescribe(): boolean {
    return !this.#isFlat && this.#left-- > 0;
  }
}

/** Counted in QEMU from the file's discards; here they are not. */
const NO_DISCARDS = { 'discard-nb-ok': 0, 'discard-nb-failed': 0, 'discard-bytes-ok': 0 };

function withGeneral(stats: Members, node: BlockNode, isDevice: boolean): Members {
  return {
    ...stats,
    wr_highest_offset: node.highestWrittenOffset,
    account_invalid: isDevice,
    account_failed: isDevice,
    timed_stats: [],
  };
}

/** The one node below that holds this one's data; null when there are none or several. */
function singleStorage(node: BlockNode): BlockNode | null {
  const below = [...node.driver.children()].filter(([role]) => role !== 'backing');
  return below.length === 1 ? (below[0]?.[1] ?? null) : null;
}
