/**
 * Encoding and decoding of the transmission phase (proto.md "Transmission phase"): pure functions over bytes, no
 * sockets, no state. Encoders write at `at` into memory of the caller and return the position behind.
 *
 * Offsets are numbers: a u64 above 2^53 decodes to an inexact number that is still larger than any export, so range
 * checks hold. Cookies stay two u32 (`hi`, `lo`), echoed and never computed with.
 *
 *   request  0 u32 magic  4 u16 flags  6 u16 type  8 u64 cookie  16 u64 offset  24 u32 length           28 bytes
 *   simple   0 u32 magic  4 u32 error  8 u64 cookie                                                     16 bytes
 *   chunk    0 u32 magic  4 u16 flags  6 u16 type  8 u64 cookie  16 u32 length                          20 bytes
 */
import { ProtocolError } from '../base/errors.ts';
import {
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_BLOCK_STATUS,
  NBD_REPLY_TYPE_ERROR,
  NBD_REPLY_TYPE_OFFSET_DATA,
  NBD_REQUEST_MAGIC,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
} from './constants.ts';
import { NBD_MAX_STRING } from './limits.ts';

export const REQUEST_BYTES = 28;
export const SIMPLE_REPLY_BYTES = 16;
export const CHUNK_HEADER_BYTES = 20;
/** A chunk header and the offset that precedes the data of OFFSET_DATA. */
export const DATA_CHUNK_HEADER_BYTES = CHUNK_HEADER_BYTES + 8;

const TWO_32 = 2 ** 32;

export interface NbdRequest {
  readonly flags: number;
  readonly type: number;
  readonly cookieHi: number;
  readonly cookieLo: number;
  /** Bytes; above 2^53 inexact, see the head of this file. */
  readonly offset: number;
  readonly length: number;
}

/** A u64 at `at`; inexact above 2^53. */
export function readU64(bytes: Buffer, at: number): number {
  return bytes.readUInt32BE(at) * TWO_32 + bytes.readUInt32BE(at + 4);
}

/** Writes a non-negative safe integer as u64 and returns the position behind it. */
export function writeU64(out: Buffer, at: number, value: number): number {
  out.writeUInt32BE(Math.floor(value / TWO_32), at);
  return out.writeUInt32BE(value % TWO_32, at + 4);
}

/** Decodes the 28 bytes at the start of `bytes`. Throws ProtocolError on a wrong magic. */
export function decodeRequest(bytes: Buffer): NbdRequest {
  const magic = bytes.readUInt32BE(0);
  if (magic !== NBD_REQUEST_MAGIC) {
    throw new ProtocolError(
      `Bad request magic 0x${magic.toString(16)}, expected 0x${NBD_REQUEST_MAGIC.toString(16)}`,
    );
  }
  return {
    flags: bytes.readUInt16BE(4),
    type: bytes.readUInt16BE(6),
    cookieHi: bytes.readUInt32BE(8),
    cookieLo: bytes.readUInt32BE(12),
    offset: readU64(bytes, 16),
    length: bytes.readUInt32BE(24),
  };
}

/** Scalars instead of an NbdRequest: this is the client's hot path. */
export function encodeRequest(
  out: Buffer,
  at: number,
  flags: number,
  type: number,
  cookieHi: number,
  cookieLo: number,
  offset: number,
  length: number,
): number {
  out.writeUInt32BE(NBD_REQUEST_MAGIC, at);
  out.writeUInt16BE(flags, at + 4);
  out.writeUInt16BE(type, at + 6);
  out.writeUInt32BE(cookieHi, at + 8);
  out.writeUInt32BE(cookieLo, at + 12);
  writeU64(out, at + 16, offset);
  return out.writeUInt32BE(length, at + 24);
}

export function encodeSimpleReply(
  out: Buffer,
  at: number,
  error: number,
  cookieHi: number,
  cookieLo: number,
): number {
  out.writeUInt32BE(NBD_SIMPLE_REPLY_MAGIC, at);
  out.writeUInt32BE(error, at + 4);
  out.writeUInt32BE(cookieHi, at + 8);
  return out.writeUInt32BE(cookieLo, at + 12);
}

export function encodeChunkHeader(
  out: Buffer,
  at: number,
  flags: number,
  type: number,
  cookieHi: number,
  cookieLo: number,
  length: number,
): number {
  out.writeUInt32BE(NBD_STRUCTURED_REPLY_MAGIC, at);
  out.writeUInt16BE(flags, at + 4);
  out.writeUInt16BE(type, at + 6);
  out.writeUInt32BE(cookieHi, at + 8);
  out.writeUInt32BE(cookieLo, at + 12);
  return out.writeUInt32BE(length, at + 16);
}

/** The header of a READ reply in one chunk; `length` bytes of data follow it. */
export function encodeDataChunkHeader(
  out: Buffer,
  at: number,
  cookieHi: number,
  cookieLo: number,
  offset: number,
  length: number,
): number {
  const behind = encodeChunkHeader(
    out,
    at,
    NBD_REPLY_FLAG_DONE,
    NBD_REPLY_TYPE_OFFSET_DATA,
    cookieHi,
    cookieLo,
    length + 8,
  );
  return writeU64(out, behind, offset);
}

/** A whole ERROR chunk: u32 error, u16 message length, message (cut to the protocol's 4096 bytes). */
export function errorChunk(error: number, message: string, cookieHi: number, cookieLo: number): Buffer {
  const text = Buffer.from(message).subarray(0, NBD_MAX_STRING);
  const out = Buffer.allocUnsafe(CHUNK_HEADER_BYTES + 6 + text.length);
  const length = 6 + text.length;
  let at = encodeChunkHeader(out, 0, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR, cookieHi, cookieLo, length);
  at = out.writeUInt32BE(error, at);
  at = out.writeUInt16BE(text.length, at);
  text.copy(out, at);
  return out;
}

/** One run of a BLOCK_STATUS reply: NBD_STATE_… flags. */
export interface StatusRun {
  length: number;
  flags: number;
}

/** A whole BLOCK_STATUS chunk: u32 context id, then u32 length and u32 flags per run. */
export function statusChunk(
  contextId: number,
  runs: readonly StatusRun[],
  cookieHi: number,
  cookieLo: number,
): Buffer {
  const length = 4 + 8 * runs.length;
  const out = Buffer.allocUnsafe(CHUNK_HEADER_BYTES + length);
  let at = encodeChunkHeader(
    out,
    0,
    NBD_REPLY_FLAG_DONE,
    NBD_REPLY_TYPE_BLOCK_STATUS,
    cookieHi,
    cookieLo,
    length,
  );
  at = out.writeUInt32BE(contextId, at);
  for (const run of runs) {
    at = out.writeUInt32BE(run.length, at);
    at = out.writeUInt32BE(run.flags, at);
  }
  return out;
}
