/**
 * The client's decoder of the transmission phase: bytes go in as they come, calls on a sink come out. It holds no
 * request and no socket. READ data goes straight to the memory that the sink names; when much of it is missing, the
 * owner may read from the socket into that memory itself (`directTarget`, `directFilled`).
 *
 * Facts: proto.md "Simple reply message", "Structured reply message". Any violation is a ProtocolError, after which
 * the decoder must not be used again.
 */
import { ProtocolError } from '../base/errors.ts';
import {
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_BLOCK_STATUS,
  NBD_REPLY_TYPE_ERROR,
  NBD_REPLY_TYPE_ERROR_OFFSET,
  NBD_REPLY_TYPE_FLAG_ERROR,
  NBD_REPLY_TYPE_NONE,
  NBD_REPLY_TYPE_OFFSET_DATA,
  NBD_REPLY_TYPE_OFFSET_HOLE,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
} from './constants.ts';
import { NBD_MAX_EXTENTS, NBD_MAX_PAYLOAD, NBD_MAX_STRING } from './limits.ts';
import { CHUNK_HEADER_BYTES, SIMPLE_REPLY_BYTES, readU64 } from './wire.ts';

/** Every call may throw ProtocolError (unknown cookie, wrong range…). */
export interface ReplySink {
  /** A chunk begins: the cookie must be that of a request in flight. The other calls about this chunk follow. */
  chunkBegins(cookieHi: number, cookieLo: number): void;
  /** A simple reply. Returns the memory for the data that follows it, or null when none does. */
  simpleReply(cookieHi: number, cookieLo: number, error: number): Uint8Array | null;
  /** OFFSET_DATA: returns the memory for exactly `length` bytes at `offset` of the export. */
  dataChunk(cookieHi: number, cookieLo: number, offset: number, length: number): Uint8Array;
  /** OFFSET_HOLE. */
  holeChunk(cookieHi: number, cookieLo: number, offset: number, length: number): void;
  /** BLOCK_STATUS: `runs` holds u32 length, u32 flags…; valid during the call. */
  statusChunk(cookieHi: number, cookieLo: number, contextId: number, runs: Buffer): void;
  /** ERROR, ERROR_OFFSET or an error of unknown kind. */
  errorChunk(cookieHi: number, cookieLo: number, error: number, message: string): void;
  /** The reply is whole: its data too. */
  replyDone(cookieHi: number, cookieLo: number): void;
}

const HEADER = 0;
const DATA_OFFSET = 1;
const DATA = 2;
const CONTROL = 3;

/** Largest control payload by chunk type. */
const MAX_STATUS_BYTES = 4 + 8 * NBD_MAX_EXTENTS;
const MAX_ERROR_BYTES = 4 + 2 + NBD_MAX_STRING + 8;

export class ReplyDecoder {
  readonly #sink: ReplySink;
  readonly #structured: boolean;
  #state: typeof HEADER | typeof DATA_OFFSET | typeof DATA | typeof CONTROL = HEADER;
  /** Headers that straddle two chunks are put together here. */
  readonly #scratch = Buffer.alloc(CHUNK_HEADER_BYTES);
  #have = 0;
  #flags = 0;
  #type = 0;
  #cookieHi = 0;
  #cookieLo = 0;
  #length = 0;
  #target: Uint8Array | null = null;
  #filled = 0;
  #control: Buffer | null = null;

  constructor(sink: ReplySink, structured: boolean) {
    this.#sink = sink;
    this.#structured = structured;
  }

  /** The lower half of the cookie whose reply is being received, -1 between replies and inside a header. */
  get currentCookieLo(): number {
    return this.#state === HEADER ? -1 : this.#cookieLo;
  }

  /** The part of a READ's memory that is still to be filled, or null when something else comes next. */
  get directTarget(): Uint8Array | null {
    return this.#state === DATA && this.#target ? this.#target.subarray(this.#filled) : null;
  }

  /** `count` bytes were written to the start of `directTarget`. */
  directFilled(count: number): void {
    this.#filled += count;
    this.#endDataIfFull();
  }

  /** Takes bytes in; they may be reused afterwards. Throws ProtocolError. */
  feed(bytes: Buffer): void {
    let at = 0;
    while (at < bytes.length) {
      switch (this.#state) {
        case HEADER:
          at = this.#header(bytes, at);
          break;
        case DATA_OFFSET:
          at = this.#dataOffset(bytes, at);
          break;
        case DATA: {
          const target = this.#target!;
          const count = Math.min(bytes.length - at, target.byteLength - this.#filled);
          target.set(bytes.subarray(at, at + count), this.#filled);
          at += count;
          this.directFilled(count);
          break;
        }
        case CONTROL: {
          const control = this.#control!;
          const count = Math.min(bytes.length - at, control.length - this.#filled);
          bytes.copy(control, this.#filled, at, at + count);
          at += count;
          this.#filled += count;
          if (this.#filled === control.length) this.#endControl(control);
          break;
        }
      }
    }
  }

  #header(bytes: Buffer, from: number): number {
    let at = from;
    if (this.#have === 0 && bytes.length - at >= CHUNK_HEADER_BYTES) {
      // The common case: a whole header in place. A simple reply needs fewer bytes of it.
      return at + this.#decodeHeader(bytes, at);
    }
    const needed = this.#have < 4 ? 4 : this.#headerBytes();
    const count = Math.min(needed - this.#have, bytes.length - at);
    bytes.copy(this.#scratch, this.#have, at, at + count);
    this.#have += count;
    at += count;
    if (this.#have >= 4 && this.#have === this.#headerBytes()) {
      this.#have = 0;
      this.#decodeHeader(this.#scratch, 0);
    }
    return at;
  }

  /** Length of the header that begins in the scratch. */
  #headerBytes(): number {
    return this.#scratch.readUInt32BE(0) === NBD_SIMPLE_REPLY_MAGIC ? SIMPLE_REPLY_BYTES : CHUNK_HEADER_BYTES;
  }

  /** Returns the header's length. */
  #decodeHeader(bytes: Buffer, at: number): number {
    const magic = bytes.readUInt32BE(at);
    this.#cookieHi = bytes.readUInt32BE(at + 8);
    this.#cookieLo = bytes.readUInt32BE(at + 12);
    if (magic === NBD_SIMPLE_REPLY_MAGIC) {
      const error = bytes.readUInt32BE(at + 4);
      const target = this.#sink.simpleReply(this.#cookieHi, this.#cookieLo, error);
      this.#flags = NBD_REPLY_FLAG_DONE;
      if (target && target.byteLength > 0) this.#expectData(target);
      else this.#sink.replyDone(this.#cookieHi, this.#cookieLo);
      return SIMPLE_REPLY_BYTES;
    }
    if (magic !== NBD_STRUCTURED_REPLY_MAGIC) {
      throw new ProtocolError(`Bad reply magic 0x${magic.toString(16)}`);
    }
    if (!this.#structured) {
      throw new ProtocolError('Server sent a structured reply, which was not negotiated');
    }
    this.#flags = bytes.readUInt16BE(at + 4);
    this.#type = bytes.readUInt16BE(at + 6);
    this.#length = bytes.readUInt32BE(at + 16);
    this.#beginChunk();
    return CHUNK_HEADER_BYTES;
  }

  #beginChunk(): void {
    const length = this.#length;
    this.#sink.chunkBegins(this.#cookieHi, this.#cookieLo);
    switch (this.#type) {
      case NBD_REPLY_TYPE_NONE:
        if (length !== 0 || (this.#flags & NBD_REPLY_FLAG_DONE) === 0) {
          throw new ProtocolError(`NONE chunk of ${length} bytes, flags ${this.#flags}`);
        }
        this.#sink.replyDone(this.#cookieHi, this.#cookieLo);
        return;
      case NBD_REPLY_TYPE_OFFSET_DATA:
        this.#check(length > 8 && length <= NBD_MAX_PAYLOAD + 8);
        this.#state = DATA_OFFSET;
        this.#filled = 0;
        return;
      case NBD_REPLY_TYPE_OFFSET_HOLE:
        this.#check(length === 12);
        break;
      case NBD_REPLY_TYPE_BLOCK_STATUS:
        this.#check(length >= 12 && (length - 4) % 8 === 0 && length <= MAX_STATUS_BYTES);
        break;
      default:
        if ((this.#type & NBD_REPLY_TYPE_FLAG_ERROR) === 0) {
          throw new ProtocolError(`Unexpected chunk type ${this.#type}`);
        }
        this.#check(length >= 6 && length <= MAX_ERROR_BYTES);
    }
    this.#state = CONTROL;
    this.#control = Buffer.allocUnsafe(length);
    this.#filled = 0;
  }

  #check(isLengthRight: boolean): void {
    if (!isLengthRight) throw new ProtocolError(`Chunk of type ${this.#type} with ${this.#length} bytes`);
  }

  /** The eight bytes in front of OFFSET_DATA's data, collected in the scratch. */
  #dataOffset(bytes: Buffer, at: number): number {
    const count = Math.min(8 - this.#filled, bytes.length - at);
    bytes.copy(this.#scratch, this.#filled, at, at + count);
    this.#filled += count;
    if (this.#filled === 8) {
      const offset = readU64(this.#scratch, 0);
      const length = this.#length - 8;
      this.#expectData(this.#sink.dataChunk(this.#cookieHi, this.#cookieLo, offset, length));
    }
    return at + count;
  }

  #expectData(target: Uint8Array): void {
    this.#target = target;
    this.#filled = 0;
    this.#state = DATA;
  }

  #endDataIfFull(): void {
    if (this.#filled < this.#target!.byteLength) return;
    this.#target = null;
    this.#endChunk();
  }

  #endControl(payload: Buffer): void {
    this.#control = null;
    const [hi, lo] = [this.#cookieHi, this.#cookieLo];
    if (this.#type === NBD_REPLY_TYPE_OFFSET_HOLE) {
      this.#sink.holeChunk(hi, lo, readU64(payload, 0), payload.readUInt32BE(8));
    } else if (this.#type === NBD_REPLY_TYPE_BLOCK_STATUS) {
      this.#sink.statusChunk(hi, lo, payload.readUInt32BE(0), payload.subarray(4));
    } else {
      this.#sink.errorChunk(hi, lo, payload.readUInt32BE(0), this.#errorMessage(payload));
    }
    this.#endChunk();
  }

  /** u32 error, u16 message length, message, and for ERROR_OFFSET a u64 that nobody here needs. */
  #errorMessage(payload: Buffer): string {
    const length = payload.readUInt16BE(4);
    const end = 6 + length;
    if (end > payload.length || length > NBD_MAX_STRING) {
      throw new ProtocolError('Error chunk with a message beyond its end');
    }
    const tail = payload.length - end;
    const expected = this.#type === NBD_REPLY_TYPE_ERROR_OFFSET ? 8 : 0;
    const isKnown = this.#type === NBD_REPLY_TYPE_ERROR || this.#type === NBD_REPLY_TYPE_ERROR_OFFSET;
    if (isKnown && tail !== expected) throw new ProtocolError(`Error chunk with ${tail} stray bytes`);
    return payload.toString('utf8', 6, end);
  }

  #endChunk(): void {
    this.#state = HEADER;
    if ((this.#flags & NBD_REPLY_FLAG_DONE) !== 0) this.#sink.replyDone(this.#cookieHi, this.#cookieLo);
  }
}
