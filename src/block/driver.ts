/**
 * The contract of a block driver: what a node of the graph must be able to do. `BlockNode` (node.ts) wraps every
 * driver and does what all of them would repeat: range checks, read-only checks, in-flight tracking, write observers.
 * A driver may therefore assume: offsets and lengths are safe integers inside the node's length, `close` comes once
 * and after all requests have ended. Requests may overlap in time and in range; each ends on its own.
 *
 * A request that ends before it returns (a read from the page cache) returns ENDED of base/async.ts.
 *
 * Units: bytes throughout. Any alignment is accepted (a driver with a granularity does its own read-modify-write).
 */
import type { BlockNode } from './node.ts';

/** A run of bytes with one status (NBD base:allocation and qemu-img map speak of the same two bits). */
export interface BlockExtent {
  readonly offset: number;
  readonly length: number;
  /** True: reads as zeros. */
  readonly zero: boolean;
  /** True: bytes are stored here or in a node below; false: a hole. */
  readonly data: boolean;
  /** True: this very node determines the content; false: it comes from the backing node (or is zeros without one). */
  readonly allocated: boolean;
  /** Asked for with `wantMap`: where these bytes lie, `offset` of the first one in a node below. */
  readonly map?: { readonly file: BlockNode; readonly offset: number } | undefined;
}

export interface WriteFlags {
  /** Force unit access: the data is on stable storage before the write ends. */
  readonly fua?: boolean;
  /** For writeZeroes: deallocate if that is possible (default true). */
  readonly unmap?: boolean;
}

/** Options that decide what a node shows (QEMU: strong runtime options), as a `json:` name holds them. */
export type StrongOptions = Readonly<Record<string, string | number | boolean>>;

export interface BlockDriver {
  /** QEMU's driver name: `file`, `raw`, `qcow2`, `nbd`, `quorum`, `replication`, `null-co`… */
  readonly driverName: string;
  /** Current length. */
  readonly lengthBytes: number;
  readonly readOnly: boolean;
  /** Granularity of copy-on-write and allocation (qcow2: the cluster size), if there is one. */
  readonly clusterBytes?: number;
  /** The name that opens the same content, for drivers that stand on no other node: a path, a URI. */
  readonly exactName?: string | null;
  /** Its own options without its children; with any, only a `json:` name opens the same. Missing: none. */
  readonly strongOptions?: StrongOptions;
  /**
   * True: this node hears of a write before its siblings in a quorum do, and they when it has ended here, well or not
   * (replication on the primary: what one's own disk holds, the other host's holds already). Asked at every write.
   */
  readonly leads?: boolean;
  /** For a node that leads: a sibling could not write what went to this one. Called before the write ends. */
  siblingFailed?(error: unknown): void;
  /** Nodes below this one by role (`file`, `backing`, `children.0`…). Changes show at once. */
  children(): ReadonlyMap<string, BlockNode>;
  /** Fills all of `target` from `offset`. Throws IoError. */
  read(offset: number, target: Uint8Array): Promise<void>;
  /** Writes all of `source`. The bytes stay unchanged until the promise ends. Throws IoError. */
  write(offset: number, source: Uint8Array, flags?: WriteFlags): Promise<void>;
  /** All writes that ended before this call are on stable storage when it ends. */
  flush(): Promise<void>;
  /** Missing: the wrapper writes zero bytes. */
  writeZeroes?(offset: number, length: number, flags?: WriteFlags): Promise<void>;
  /** A hint; missing: nothing happens. */
  discard?(offset: number, length: number): Promise<void>;
  /**
   * Extents that cover exactly [offset, offset+length), in order; neighbours may be of one kind. Missing: all data.
   * `wantMap`: with their place in the node below where there is one, and each extent in one piece there.
   */
  blockStatus?(offset: number, length: number, wantMap?: boolean): Promise<BlockExtent[]>;
  /**
   * Drops every mapping, so that all reads come from the backing node (QEMU: bdrv_make_empty). `isStable`: it stays so
   * when the host loses power afterwards; before, a power failure finds of each cluster what was there, or nothing.
   */
  makeEmpty?(isStable?: boolean): Promise<void>;
  /** What the content takes on the host; missing: unknown, or what the nodes below take. */
  allocatedBytes?(): Promise<number>;
  /** Grows or shrinks. */
  truncate?(lengthBytes: number): Promise<void>;
  /** No new request will come; what waits for nothing but better times should end now. `close` follows. */
  closing?(): void;
  /** Flushes what it caches and releases what it holds. The wrapper closes anonymous children afterwards. */
  close(): Promise<void>;
}
