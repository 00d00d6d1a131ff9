/**
 * Encoding and decoding of the handshake (proto.md "Fixed newstyle negotiation"): options, their replies, and the
 * payloads of both. Pure functions; the dialogue itself is in handshake-server.ts and handshake-client.ts.
 *
 *   option   0 u64 "IHAVEOPT"          8 u32 option  12 u32 length                    16 bytes, then data
 *   reply    0 u64 0x3e889045565a9     8 u32 option  12 u32 type  16 u32 length       20 bytes, then data
 */
import { ProtocolError } from '../base/errors.ts';
import type { NBD_INFO_DESCRIPTION, NBD_INFO_NAME } from './constants.ts';
import {
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_EXPORT,
  NBD_OPTS_MAGIC_HI,
  NBD_OPTS_MAGIC_LO,
  NBD_REP_MAGIC_HI,
  NBD_REP_MAGIC_LO,
} from './constants.ts';
import { NBD_MAX_META_QUERIES, NBD_MAX_STRING } from './limits.ts';
import type { ByteReader } from './byte-reader.ts';
import { readU64, writeU64 } from './wire.ts';

export const OPTION_HEADER_BYTES = 16;
export const OPTION_REPLY_HEADER_BYTES = 20;

/** What a handshake needs of a connection. */
export interface NbdTransport {
  readonly reader: ByteReader;
  /** Resolves when the kernel has taken the bytes; rejects when the connection is lost. */
  send(bytes: Uint8Array): Promise<void>;
  /**
   * Sends `lastClear` (none: empty) and goes on in TLS: `reader` and `send` are secure when it resolves. Throws
   * ProtocolError when the peer has already sent something that would be taken for secure (CVE-2021-3716), and
   * TlsError when the peers do not trust each other.
   */
  startTls(lastClear: Uint8Array): Promise<void>;
}

/** An option with its data. */
export function encodeOption(option: number, data: Uint8Array): Buffer {
  const out = Buffer.allocUnsafe(OPTION_HEADER_BYTES + data.byteLength);
  out.writeUInt32BE(NBD_OPTS_MAGIC_HI, 0);
  out.writeUInt32BE(NBD_OPTS_MAGIC_LO, 4);
  out.writeUInt32BE(option, 8);
  out.writeUInt32BE(data.byteLength, 12);
  out.set(data, OPTION_HEADER_BYTES);
  return out;
}

/** Throws ProtocolError on a wrong magic. */
export function decodeOptionHeader(bytes: Buffer): { option: number; length: number } {
  if (bytes.readUInt32BE(0) !== NBD_OPTS_MAGIC_HI || bytes.readUInt32BE(4) !== NBD_OPTS_MAGIC_LO) {
    throw new ProtocolError(`Bad option magic ${bytes.toString('hex', 0, 8)}, expected "IHAVEOPT"`);
  }
  return { option: bytes.readUInt32BE(8), length: bytes.readUInt32BE(12) };
}

export function encodeOptionReply(option: number, type: number, data: Uint8Array): Buffer {
  const out = Buffer.allocUnsafe(OPTION_REPLY_HEADER_BYTES + data.byteLength);
  out.writeUInt32BE(NBD_REP_MAGIC_HI, 0);
  out.writeUInt32BE(NBD_REP_MAGIC_LO, 4);
  out.writeUInt32BE(option, 8);
  out.writeUInt32BE(type, 12);
  out.writeUInt32BE(data.byteLength, 16);
  out.set(data, OPTION_REPLY_HEADER_BYTES);
  return out;
}

/** Throws ProtocolError on a wrong magic. */
export function decodeOptionReplyHeader(bytes: Buffer): { option: number; type: number; length: number } {
  if (bytes.readUInt32BE(0) !== NBD_REP_MAGIC_HI || bytes.readUInt32BE(4) !== NBD_REP_MAGIC_LO) {
    throw new ProtocolError(`Bad option reply magic ${bytes.toString('hex', 0, 8)}`);
  }
  return { option: bytes.readUInt32BE(8), type: bytes.readUInt32BE(12), length: bytes.readUInt32BE(16) };
}

/** Reads fields off an option's or a reply's data; running past its end is a ProtocolError. */
export class FieldReader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  u16(): number {
    return this.#bytes.readUInt16BE(this.#take(2));
  }

  u32(): number {
    return this.#bytes.readUInt32BE(this.#take(4));
  }

  u64(): number {
    return readU64(this.#bytes, this.#take(8));
  }

  /** The next `length` bytes as UTF-8; at most 4096. */
  text(length: number): string {
    if (length > NBD_MAX_STRING) {
      throw new ProtocolError(`A string of ${length} bytes is longer than the allowed ${NBD_MAX_STRING}`);
    }
    const from = this.#take(length);
    return this.#bytes.toString('utf8', from, from + length);
  }

  /** What is left as UTF-8. */
  rest(): string {
    return this.text(this.left);
  }

  /** Throws ProtocolError when something is left. */
  finish(what: string): void {
    if (this.left > 0) throw new ProtocolError(`${this.left} stray bytes behind ${what}`);
  }

  #take(count: number): number {
    if (count > this.left) throw new ProtocolError(`The data ends ${count - this.left} bytes too early`);
    const from = this.#at;
    this.#at += count;
    return from;
  }
}

/** Data of INFO and GO: u32 name length, name, u16 count, u16 info types. */
export function encodeInfoRequest(name: string, infos: readonly number[]): Buffer {
  const text = Buffer.from(name);
  const out = Buffer.allocUnsafe(4 + text.length + 2 + 2 * infos.length);
  let at = out.writeUInt32BE(text.length, 0);
  at += text.copy(out, at);
  at = out.writeUInt16BE(infos.length, at);
  for (const info of infos) at = out.writeUInt16BE(info, at);
  return out;
}

export function decodeInfoRequest(data: Buffer): { name: string; infos: number[] } {
  const fields = new FieldReader(data);
  const name = fields.text(fields.u32());
  const count = fields.u16();
  if (count * 2 !== fields.left) throw new ProtocolError(`${count} info requests in ${fields.left} bytes`);
  const infos: number[] = [];
  for (let index = 0; index < count; index++) infos.push(fields.u16());
  return { name, infos };
}

/** Data of LIST/SET_META_CONTEXT: u32 name length, name, u32 count, (u32 length, query)… */
export function encodeMetaRequest(name: string, queries: readonly string[]): Buffer {
  const parts = [name, ...queries].map((text) => Buffer.from(text));
  const out = Buffer.allocUnsafe(4 + parts.reduce((sum, part) => sum + 4 + part.length, 0));
  let at = 0;
  for (const [index, part] of parts.entries()) {
    at = out.writeUInt32BE(part.length, at);
    at += part.copy(out, at);
    if (index === 0) at = out.writeUInt32BE(queries.length, at);
  }
  return out;
}

export function decodeMetaRequest(data: Buffer): { name: string; queries: string[] } {
  const fields = new FieldReader(data);
  const name = fields.text(fields.u32());
  const count = fields.u32();
  if (count > NBD_MAX_META_QUERIES) throw new ProtocolError(`${count} meta context queries are too many`);
  const queries: string[] = [];
  for (let index = 0; index < count; index++) queries.push(fields.text(fields.u32()));
  fields.finish('the meta context queries');
  return { name, queries };
}

/** Data of a META_CONTEXT reply: u32 id, name. */
export function encodeMetaContext(id: number, name: string): Buffer {
  const out = Buffer.allocUnsafe(4 + Buffer.byteLength(name));
  out.write(name, out.writeUInt32BE(id, 0));
  return out;
}

/** Data of a SERVER reply: u32 name length, name, description. */
export function encodeListEntry(name: string, description: string): Buffer {
  const text = Buffer.from(name);
  const out = Buffer.allocUnsafe(4 + text.length + Buffer.byteLength(description));
  out.writeUInt32BE(text.length, 0);
  text.copy(out, 4);
  out.write(description, 4 + text.length);
  return out;
}

export function encodeInfoExport(sizeBytes: number, flags: number): Buffer {
  const out = Buffer.allocUnsafe(12);
  out.writeUInt16BE(NBD_INFO_EXPORT, 0);
  out.writeUInt16BE(flags, writeU64(out, 2, sizeBytes));
  return out;
}

export function encodeInfoBlockSize(minBytes: number, preferredBytes: number, maxBytes: number): Buffer {
  const out = Buffer.allocUnsafe(14);
  out.writeUInt16BE(NBD_INFO_BLOCK_SIZE, 0);
  out.writeUInt32BE(minBytes, 2);
  out.writeUInt32BE(preferredBytes, 6);
  out.writeUInt32BE(maxBytes, 10);
  return out;
}

/** NAME or DESCRIPTION. */
export function encodeInfoText(
  type: typeof NBD_INFO_NAME | typeof NBD_INFO_DESCRIPTION,
  text: string,
): Buffer {
  const out = Buffer.allocUnsafe(2 + Buffer.byteLength(text));
  out.write(text, out.writeUInt16BE(type, 0));
  return out;
}
