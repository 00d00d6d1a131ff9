/**
 * What each request of the transmission phase does to the export, and the bytes that answer it. No sockets: a request
 * goes in, the reply comes out as one buffer.
 *
 * With structured replies negotiated, READ and BLOCK_STATUS answer in chunks and errors carry a text; the success of
 * everything else is a simple reply, as QEMU does it.
 */
import { ENDED } from '../base/async.ts';
import { messageOf } from '../base/errors.ts';
import type { BufferPool } from './buffer-pool.ts';
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_FLAG_DF,
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_NONE,
  NBD_STATE_HOLE,
  NBD_STATE_ZERO,
  nameOfCommand,
} from './constants.ts';
import { NBD_ENOTSUP, wireErrorOf } from './errors.ts';
import type { NbdExtent } from './export.ts';
import { BASE_ALLOCATION_ID, type ServerAgreement } from './handshake-server.ts';
import { NBD_MAX_EXTENTS, NBD_MAX_PAYLOAD, NBD_MAX_STATUS_RANGE } from './limits.ts';
import {
  CHUNK_HEADER_BYTES,
  DATA_CHUNK_HEADER_BYTES,
  SIMPLE_REPLY_BYTES,
  encodeChunkHeader,
  encodeDataChunkHeader,
  encodeSimpleReply,
  errorChunk,
  statusChunk,
  type NbdRequest,
  type StatusRun,
} from './wire.ts';

/** The bytes of a whole reply; goes back to the pool when they have been sent. */
export type Reply = Buffer;

/**
 * Why a request is refused before it is tried, or null. All of these are EINVAL on the wire, read-only and
 * out-of-range included: QEMU answers each failed validation so.
 */
export function refusalOf(request: NbdRequest, agreement: ServerAgreement): string | null {
  const { type, flags, offset, length } = request;
  // QEMU allows FUA on every command, for clients that set it wholesale.
  let allowed = NBD_CMD_FLAG_FUA;
  switch (type) {
    case NBD_CMD_READ:
      if (agreement.structured) allowed |= NBD_CMD_FLAG_DF;
      if (length > NBD_MAX_PAYLOAD) return `a read of ${length} bytes exceeds ${NBD_MAX_PAYLOAD}`;
      break;
    case NBD_CMD_WRITE_ZEROES:
      allowed |= NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
      break;
    case NBD_CMD_BLOCK_STATUS:
      allowed |= NBD_CMD_FLAG_REQ_ONE;
      if (!agreement.baseAllocation) return 'no meta context was negotiated';
      if (length === 0) return 'block status needs a non-zero length';
      break;
    case NBD_CMD_WRITE:
    case NBD_CMD_FLUSH:
    case NBD_CMD_TRIM:
    case NBD_CMD_CACHE:
      break;
    default:
      return `unsupported request type ${type}`;
  }
  const mutates = type === NBD_CMD_WRITE || type === NBD_CMD_WRITE_ZEROES || type === NBD_CMD_TRIM;
  if (mutates && !agreement.writable) return 'the export is read-only';
  if ((flags & ~allowed) !== 0) return `unsupported flags 0x${flags.toString(16)} for ${nameOfCommand(type)}`;
  if (offset > agreement.sizeBytes || length > agreement.sizeBytes - offset) {
    return `request at ${offset} of ${length} bytes lies outside the export of ${agreement.sizeBytes} bytes`;
  }
  return null;
}

/** The reply that says no. */
export function refuse(
  request: NbdRequest,
  agreement: ServerAgreement,
  error: number,
  message: string,
): Reply {
  if (agreement.structured) return errorChunk(error, message, request.cookieHi, request.cookieLo);
  return simpleReply(request, error);
}

/** Does what a validated request asks. Errors of the source become error replies: this never throws or rejects. */
export function answer(
  request: NbdRequest,
  payload: Uint8Array,
  agreement: ServerAgreement,
  pool: BufferPool,
): Reply | Promise<Reply> {
  return request.type === NBD_CMD_READ ? read(request, agreement, pool) : act(request, payload, agreement);
}

async function act(request: NbdRequest, payload: Uint8Array, agreement: ServerAgreement): Promise<Reply> {
  const { source, fastZeroes } = agreement.export;
  const { type, flags, offset, length } = request;
  const fua = (flags & NBD_CMD_FLAG_FUA) !== 0;
  try {
    switch (type) {
      case NBD_CMD_BLOCK_STATUS:
        return await blockStatus(request, agreement);
      case NBD_CMD_WRITE:
        await source.write(offset, payload, { fua });
        break;
      case NBD_CMD_FLUSH:
        await source.flush();
        break;
      case NBD_CMD_TRIM:
        await source.discard(offset, length);
        if (fua) await source.flush();
        break;
      case NBD_CMD_WRITE_ZEROES:
        if ((flags & NBD_CMD_FLAG_FAST_ZERO) !== 0 && !fastZeroes) {
          return refuse(request, agreement, NBD_ENOTSUP, 'zeroing is not faster than writing here');
        }
        await source.writeZeroes(offset, length, { fua, unmap: (flags & NBD_CMD_FLAG_NO_HOLE) === 0 });
        break;
      default:
        // CACHE: a hint, and the source decides what it caches.
        break;
    }
    return simpleReply(request, 0);
  } catch (error) {
    return refuse(request, agreement, wireErrorOf(error), messageOf(error));
  }
}

/** Header and data share one buffer, which the source fills: one write, no copy. */
function read(request: NbdRequest, agreement: ServerAgreement, pool: BufferPool): Reply | Promise<Reply> {
  const { cookieHi, cookieLo, offset, length } = request;
  if (agreement.structured && length === 0) {
    const out = Buffer.allocUnsafe(CHUNK_HEADER_BYTES);
    encodeChunkHeader(out, 0, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, cookieHi, cookieLo, 0);
    return out;
  }
  const headerBytes = agreement.structured ? DATA_CHUNK_HEADER_BYTES : SIMPLE_REPLY_BYTES;
  const out = pool.take(headerBytes + length);
  if (agreement.structured) encodeDataChunkHeader(out, 0, cookieHi, cookieLo, offset, length);
  else encodeSimpleReply(out, 0, 0, cookieHi, cookieLo);
  const data = new Uint8Array(out.buffer, out.byteOffset + headerBytes, length);
  const failed = (error: unknown): Reply => refuse(request, agreement, wireErrorOf(error), messageOf(error));
  try {
    const filled = agreement.export.source.read(offset, data);
    return filled === ENDED ? out : filled.then(() => out, failed);
  } catch (error) {
    return failed(error);
  }
}

async function blockStatus(request: NbdRequest, agreement: ServerAgreement): Promise<Reply> {
  const { cookieHi, cookieLo, offset, flags } = request;
  const length = Math.min(request.length, NBD_MAX_STATUS_RANGE);
  const extents = await agreement.export.source.blockStatus(offset, length);
  const maxRuns = (flags & NBD_CMD_FLAG_REQ_ONE) !== 0 ? 1 : NBD_MAX_EXTENTS;
  const runs = runsOf(extents, length, maxRuns);
  return statusChunk(BASE_ALLOCATION_ID, runs, cookieHi, cookieLo);
}

/** Extents as base:allocation runs: neighbours of one kind merged, never beyond `length`, at most `maxRuns`. */
export function runsOf(extents: readonly NbdExtent[], length: number, maxRuns: number): StatusRun[] {
  const runs: StatusRun[] = [];
  let left = length;
  for (const extent of extents) {
    const take = Math.min(extent.length, left);
    if (take === 0) continue;
    const flags = (extent.data ? 0 : NBD_STATE_HOLE) | (extent.zero ? NBD_STATE_ZERO : 0);
    const last = runs.at(-1);
    if (last?.flags === flags) last.length += take;
    else if (runs.length === maxRuns) break;
    else runs.push({ length: take, flags });
    left -= take;
  }
  // A status reply must say something about the first byte.
  if (runs.length === 0) runs.push({ length, flags: 0 });
  return runs;
}

function simpleReply(request: NbdRequest, error: number): Reply {
  const out = Buffer.allocUnsafe(SIMPLE_REPLY_BYTES);
  encodeSimpleReply(out, 0, error, request.cookieHi, request.cookieLo);
  return out;
}
