/**
 * What an NBD server serves: a source of bytes behind a name. The interface is the server's own, so that nothing here
 * depends on the block layer; a BlockNode satisfies it as it is.
 */

/** A range of one kind. */
export interface NbdExtent {
  /** Of its first byte in the export. */
  readonly offset: number;
  /** Bytes, 1 or more. */
  readonly length: number;
  /** Reads as zeros. */
  readonly zero: boolean;
  /** Bytes are stored; false: a hole. */
  readonly data: boolean;
}

/**
 * What a server reads from and writes to; offsets and lengths are bytes. A method tells a client of a failure by throwing
 * IoError, whose errno the client is sent; anything else that is thrown is EIO.
 */
export interface NbdExportSource {
  /** Clients see it rounded down to whole sectors of 512. */
  readonly lengthBytes: number;
  /** Writes are refused before they come here. */
  readonly readOnly: boolean;
  /**
   * Fills all of `target`. Requests of all methods may overlap; ranges were checked against the export's size. A read
   * that ends before it returns may return ENDED (base/async.ts) and is then answered at once.
   */
  read(offset: number, target: Uint8Array): Promise<void>;
  /** The bytes stay unchanged until the promise ends. `fua`: they are on stable storage by then. */
  write(offset: number, source: Uint8Array, flags?: { readonly fua?: boolean }): Promise<void>;
  /** Writes that ended before it began are on stable storage when it ends. */
  flush(): Promise<void>;
  /** `unmap: false` keeps the space; `fua` as for a write. */
  writeZeroes(
    offset: number,
    length: number,
    flags?: { readonly fua?: boolean; readonly unmap?: boolean },
  ): Promise<void>;
  /** The content is not needed any more; what is read there afterwards is up to the source. */
  discard(offset: number, length: number): Promise<void>;
  /** Extents in order from `offset` on; they may end early, but not before the first one. */
  blockStatus(offset: number, length: number): Promise<readonly NbdExtent[]>;
}

/** An export to be. */
export interface NbdExportOptions {
  /** At most 4096 bytes of UTF-8. The empty name is the default export. */
  readonly name: string;
  /** The caller's, who closes it after the export is gone. */
  readonly source: NbdExportSource;
  /** A read-only source is exported read-only in any case. */
  readonly writable: boolean;
  /** Free text, at most 4096 bytes of UTF-8; default empty. */
  readonly description?: string;
  /** True: writeZeroes is as fast as a discard, so that FAST_ZERO need not be refused. Default false. */
  readonly fastZeroes?: boolean;
}

export interface NbdExport {
  readonly name: string;
  readonly description: string;
  readonly source: NbdExportSource;
  readonly writable: boolean;
  readonly fastZeroes: boolean;
}

/** The size that clients are told: whole sectors of 512 bytes, as QEMU does. */
export function exportSizeBytes(of: NbdExport): number {
  const length = of.source.lengthBytes;
  return length - (length % 512);
}

export function isWritable(of: NbdExport): boolean {
  return of.writable && !of.source.readOnly;
}
