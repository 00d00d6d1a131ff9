/**
 * An NBD client: reads, writes and the rest on one export over one connection, as many at once as the caller likes
 * (16 travel at a time, the others wait). Requests are cut to what the server takes; everything else about them is
 * the caller's: flushing before `close`, ranges that do not overlap, and the server's smallest block
 * (`minBlockBytes`), which offsets and lengths must be multiples of.
 *
 * Without `reconnectDelayMs` a connection that died stays dead (`death` says why), and whoever owns the client decides
 * what that means; with it, reconnecting-connection.ts brings it back.
 * Facts: proto.md; flags and limits as QEMU's client uses them.
 */
import { IoError } from '../base/errors.ts';
import type { NbdAddress } from './address.ts';
import { NbdConnection, type ClientTls } from './client-connection.ts';
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_FLAG_CAN_MULTI_CONN,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
  NBD_STATE_HOLE,
  NBD_STATE_ZERO,
} from './constants.ts';
import { ReconnectingConnection, type NbdRequester } from './reconnecting-connection.ts';
import type { NbdExtent } from './export.ts';
import {
  NBD_CLOSE_TIMEOUT_MS,
  NBD_CONNECT_TIMEOUT_MS,
  NBD_MAX_CLIENT_EXTENTS,
  NBD_MAX_IN_FLIGHT,
  NBD_MAX_STATUS_RANGE,
  NBD_MAX_ZERO_PIECE,
  NBD_REQUEST_TIMEOUT_MS,
} from './limits.ts';

/** All optional; times are milliseconds. */
export interface NbdClientOptions {
  /** Default: the empty name, the server's default export. */
  readonly exportName?: string;
  /** From the first packet to the end of the handshake, default 10 000. */
  readonly connectTimeoutMs?: number;
  /** Longest time without progress of a request, default 5000; Infinity for none. It kills the connection. */
  readonly requestTimeoutMs?: number;
  /** How long `close` waits for the server to hang up, default 1000. */
  readonly closeTimeoutMs?: number;
  /** Talk in TLS or not at all. */
  readonly tls?: ClientTls | null;
  /**
   * More than 0: a lost server is looked for again, and requests wait so long for it before they fail. Default 0: they
   * fail at once and for good.
   */
  readonly reconnectDelayMs?: number;
  /** Breaks connecting off. */
  readonly signal?: AbortSignal;
  /** Default true; false keeps to simple replies, and so does without base:allocation. */
  readonly structuredReplies?: boolean;
  /** Default true: ask for base:allocation. */
  readonly blockStatus?: boolean;
  /** Requests on the wire at one time, 1 to 16, default 16. */
  readonly maxInFlight?: number;
}

/**
 * One export over one connection. Requests of any size, as many at once as the caller likes; they are cut to what the
 * server takes. Offsets and lengths are bytes, multiples of `minBlockBytes`, within `lengthBytes`; what is outside throws
 * IoError with EINVAL. A connection that died fails every request with ESHUTDOWN, unless it is looked for again
 * (`reconnectDelayMs`).
 */
export class NbdClient {
  readonly #connection: NbdRequester;
  /** Of the export. */
  readonly lengthBytes: number;
  /** Writes throw IoError with EPERM. */
  readonly readOnly: boolean;
  /** Without it the server promises that every write is stable. */
  readonly canFlush: boolean;
  /** Without it `fua` becomes a flush. */
  readonly canFua: boolean;
  /** Without it `trim` does nothing. */
  readonly canTrim: boolean;
  /** Without it `writeZeroes` throws. */
  readonly canWriteZeroes: boolean;
  /** Without it `cache` does nothing. */
  readonly canCache: boolean;
  /** A flush on one connection covers writes that ended on another. */
  readonly canMultiConn: boolean;
  /** Whether base:allocation was agreed; without it everything counts as data. */
  readonly hasBlockStatus: boolean;
  /** Whether structured replies were agreed. */
  readonly hasStructuredReplies: boolean;
  /** Offsets and lengths must be multiples of it; a power of two, 1 when the server says nothing. */
  readonly minBlockBytes: number;
  /** Requests of multiples of it are quick; a power of two. */
  readonly preferredBlockBytes: number;
  /** The most that one READ or WRITE carries; larger ones are cut. */
  readonly maxBlockBytes: number;
  /** The server's free text; may be empty. */
  readonly description: string;

  /**
   * Connects and negotiates. Throws NbdConnectError (`Failed to connect to …`), NbdNegotiationError (the server
   * refused), ProtocolError, or ClosedError when the signal was aborted.
   */
  static async connect(address: NbdAddress, options: NbdClientOptions = {}): Promise<NbdClient> {
    const open = (signal?: AbortSignal): Promise<NbdConnection> =>
      NbdConnection.open(
        address,
        {
          exportName: options.exportName ?? '',
          structured: options.structuredReplies ?? true,
          baseAllocation: options.blockStatus ?? true,
        },
        {
          connectTimeoutMs: options.connectTimeoutMs ?? NBD_CONNECT_TIMEOUT_MS,
          requestTimeoutMs: options.requestTimeoutMs ?? NBD_REQUEST_TIMEOUT_MS,
          closeTimeoutMs: options.closeTimeoutMs ?? NBD_CLOSE_TIMEOUT_MS,
        },
        Math.max(1, Math.min(options.maxInFlight ?? NBD_MAX_IN_FLIGHT, NBD_MAX_IN_FLIGHT)),
        options.tls ?? null,
        signal,
      );
    const first = await open(options.signal);
    const delayMs = options.reconnectDelayMs ?? 0;
    return new NbdClient(delayMs > 0 ? new ReconnectingConnection(first, open, delayMs) : first);
  }

  private constructor(connection: NbdRequester) {
    const { agreement } = connection;
    const has = (flag: number): boolean => (agreement.flags & flag) !== 0;
    this.#connection = connection;
    this.lengthBytes = agreement.sizeBytes;
    this.readOnly = has(NBD_FLAG_READ_ONLY);
    this.canFlush = has(NBD_FLAG_SEND_FLUSH);
    this.canFua = has(NBD_FLAG_SEND_FUA);
    this.canTrim = has(NBD_FLAG_SEND_TRIM);
    this.canWriteZeroes = has(NBD_FLAG_SEND_WRITE_ZEROES);
    this.canCache = has(NBD_FLAG_SEND_CACHE);
    this.canMultiConn = has(NBD_FLAG_CAN_MULTI_CONN);
    this.hasBlockStatus = agreement.allocationId !== null;
    this.hasStructuredReplies = agreement.structured;
    this.minBlockBytes = agreement.minBlockBytes;
    this.preferredBlockBytes = agreement.preferredBlockBytes;
    this.maxBlockBytes = agreement.maxBlockBytes;
    this.description = agreement.description;
  }

  /** Why the connection is dead, or null while it lives. */
  get death(): IoError | null {
    return this.#connection.death;
  }

  /** False when it is dead, and while a lost server is being looked for. */
  get isConnected(): boolean {
    const connection = this.#connection;
    return connection instanceof ReconnectingConnection ? connection.isConnected : connection.death === null;
  }

  /** Requests that wait for a lost server to come back fail now. */
  stopWaiting(): void {
    if (this.#connection instanceof ReconnectingConnection) this.#connection.stopWaiting();
  }

  /** The listener, in place of one before, is called once when the connection dies otherwise than by `close`. */
  onLost(listener: (error: IoError) => void): void {
    this.#connection.onLost = listener;
  }

  /** Fills all of `target`; after an error its content is undefined. Throws IoError. */
  async read(offset: number, target: Uint8Array): Promise<void> {
    this.#checkRange(offset, target.byteLength);
    const max = this.maxBlockBytes;
    for (let done = 0; done < target.byteLength; done += max) {
      const part = target.byteLength <= max ? target : target.subarray(done, done + max);
      await this.#connection.request(NBD_CMD_READ, 0, offset + done, part.byteLength, null, part);
    }
  }

  /** `fua` becomes a flush where the server has no FUA. Throws IoError. */
  async write(offset: number, source: Uint8Array, flags?: { readonly fua?: boolean }): Promise<void> {
    this.#checkWritable(offset, source.byteLength);
    const max = this.maxBlockBytes;
    for (let done = 0; done < source.byteLength; done += max) {
      const part = source.byteLength <= max ? source : source.subarray(done, done + max);
      const fua = this.#fuaFlag(flags);
      await this.#connection.request(NBD_CMD_WRITE, fua, offset + done, part.byteLength, part);
    }
    await this.#flushInsteadOfFua(flags);
  }

  /** Nothing where the server has no flush: it then promises that every write is stable. Throws IoError. */
  async flush(): Promise<void> {
    if (this.canFlush) await this.#connection.request(NBD_CMD_FLUSH, 0, 0, 0);
    else if (this.#connection.death) throw this.#connection.death;
  }

  /** `unmap: false` asks for zeros that stay allocated. Throws IoError, ENOTSUP where `canWriteZeroes` is false. */
  async writeZeroes(
    offset: number,
    length: number,
    flags?: { readonly fua?: boolean; readonly unmap?: boolean },
  ): Promise<void> {
    this.#checkWritable(offset, length);
    if (!this.canWriteZeroes) throw new IoError('ENOTSUP', 'The NBD server cannot write zeroes');
    const wireFlags = this.#fuaFlag(flags) | (flags?.unmap === false ? NBD_CMD_FLAG_NO_HOLE : 0);
    await this.#inPieces(NBD_CMD_WRITE_ZEROES, wireFlags, offset, length);
    await this.#flushInsteadOfFua(flags);
  }

  /** A hint; nothing where the server has no TRIM. Throws IoError. */
  async trim(offset: number, length: number): Promise<void> {
    this.#checkWritable(offset, length);
    if (this.canTrim) await this.#inPieces(NBD_CMD_TRIM, 0, offset, length);
  }

  /** Asks the server to read ahead; nothing where it cannot. Throws IoError. */
  async cache(offset: number, length: number): Promise<void> {
    this.#checkRange(offset, length);
    if (this.canCache) await this.#inPieces(NBD_CMD_CACHE, 0, offset, length);
  }

  /**
   * Extents that cover exactly the range, in order, neighbours of one kind merged. Without base:allocation all of it
   * is data. Throws IoError.
   */
  async blockStatus(offset: number, length: number): Promise<NbdExtent[]> {
    this.#checkRange(offset, length);
    const extents: NbdExtent[] = [];
    const end = offset + length;
    let at = offset;
    while (at < end && this.hasBlockStatus && extents.length < NBD_MAX_CLIENT_EXTENTS) {
      const ask = Math.min(end - at, NBD_MAX_STATUS_RANGE);
      for (const run of await this.#connection.request(NBD_CMD_BLOCK_STATUS, 0, at, ask)) {
        const zero = (run.flags & NBD_STATE_ZERO) !== 0;
        append(extents, { offset: at, length: run.length, zero, data: (run.flags & NBD_STATE_HOLE) === 0 });
        at += run.length;
      }
    }
    if (at < end) append(extents, { offset: at, length: end - at, zero: false, data: true });
    return extents;
  }

  /** Waits for the requests in flight, sends DISC and closes. Data is not flushed: that is the caller's decision. */
  close(): Promise<void> {
    return this.#connection.close();
  }

  /** Ends the connection at once, without a word to the server; requests in flight fail with ESHUTDOWN. */
  abort(): void {
    this.#connection.abort();
  }

  async #inPieces(type: number, flags: number, offset: number, length: number): Promise<void> {
    for (let done = 0; done < length; done += NBD_MAX_ZERO_PIECE) {
      const part = Math.min(NBD_MAX_ZERO_PIECE, length - done);
      await this.#connection.request(type, flags, offset + done, part);
    }
  }

  #fuaFlag(flags: { readonly fua?: boolean } | undefined): number {
    return flags?.fua === true && this.canFua ? NBD_CMD_FLAG_FUA : 0;
  }

  async #flushInsteadOfFua(flags: { readonly fua?: boolean } | undefined): Promise<void> {
    if (flags?.fua === true && !this.canFua) await this.flush();
  }

  #checkWritable(offset: number, length: number): void {
    this.#checkRange(offset, length);
    if (this.readOnly) throw new IoError('EPERM', 'The NBD export is read-only');
  }

  #checkRange(offset: number, length: number): void {
    const isInside = Number.isSafeInteger(offset) && offset >= 0 && length >= 0;
    if (!isInside || offset + length > this.lengthBytes) {
      throw new IoError(
        'EINVAL',
        `Request at ${offset}, ${length} bytes, lies outside the NBD export of ${this.lengthBytes} bytes`,
      );
    }
  }
}

function append(extents: NbdExtent[], next: NbdExtent): void {
  const last = extents.at(-1);
  if (last?.zero === next.zero && last.data === next.data) {
    extents[extents.length - 1] = { ...last, length: last.length + next.length };
  } else extents.push(next);
}
