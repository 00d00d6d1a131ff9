/**
 * Writes byte runs to a stream so that the caller may reuse its memory at once, with a bound on what waits unsent.
 *
 * Runs are gathered in a slab and handed over as one piece when the callback that sends them has ended (Node's "next
 * tick"), or earlier when the piece is large: a system call a frame would cost more than all that is done to the frame.
 * No timer is involved: nothing that a peer could wait for happens before the tick.
 *
 * A socket mostly takes a piece within the call; then the same place of the slab serves the next one and nothing is
 * allocated. While something is still waiting the slab's used part belongs to the stream: the position moves on, and a
 * full slab is put aside until the stream has done with the last piece of it. So a stream that is behind all the time
 * (never empty, never stuck) goes round a few slabs.
 */
import type { Writable } from 'node:stream';
import { copyPacketBytes, takePacketMemory } from '../base/packet-memory.ts';

/** Unsent bytes at which a chardev refuses more (the contract's bound, chardev.ts). */
export const UNSENT_LIMIT_BYTES = 4 * 1024 * 1024;

/** A piece that has grown to this is handed over. */
const PIECE_BYTES = 64 * 1024;
/** A piece below that bound and the largest framed packet (69632 bytes and an 8 byte header). */
const SLAB_BYTES = PIECE_BYTES + 72 * 1024;
/** Slabs that are kept for later: all that frames of usual size need up to the limit. Others are left to the collector. */
const KEPT_SLABS = 34;

const EMPTY = new Uint8Array(0);

/**
 * Memory that pieces are cut from. A stream that has a piece has `written` too, which holds all of the slab, so that it
 * is nobody else's meanwhile (base/packet-memory.ts).
 */
interface Slab {
  readonly bytes: Buffer;
  /** Pieces that the stream has not done with. */
  underWay: number;
  readonly written: () => void;
}

export class BoundedSender {
  readonly #stream: Writable;
  readonly #limitBytes: number;
  #slab: Slab | null = null;
  /** The bytes [start, end) of the slab wait for the end of the tick. */
  #start = 0;
  #end = 0;
  /** What the stream had unsent when the present piece was begun. */
  #waiting = 0;
  #isFlushDue = false;
  #kept = 0;
  /** Kept slabs that nobody reads. */
  readonly #spare: Slab[] = [];
  /** Bytes accepted so far. */
  bytesSent = 0;

  constructor(stream: Writable, limitBytes = UNSENT_LIMIT_BYTES) {
    this.#stream = stream;
    this.#limitBytes = limitBytes;
  }

  /**
   * Sends `head` and then `body[from, to)`, or, when both do not fit under the bound or the stream has ended, nothing:
   * false.
   */
  send(head: Uint8Array, body: Uint8Array = EMPTY, from = 0, to = body.length): boolean {
    const length = head.length + (to - from);
    if (this.#start === this.#end) {
      if (!this.#stream.writable) return false;
      this.#waiting = this.#stream.writableLength;
    }
    if (this.#waiting + (this.#end - this.#start) + length > this.#limitBytes) return false;
    if (length === 0) return true;
    const { bytes } = this.#roomFor(length);
    const at = this.#end;
    copyPacketBytes(head, 0, head.length, bytes, at);
    copyPacketBytes(body, from, to, bytes, at + head.length);
    this.#end = at + length;
    this.bytesSent += length;
    if (this.#end - this.#start >= PIECE_BYTES) this.flush();
    else if (!this.#isFlushDue) {
      this.#isFlushDue = true;
      process.nextTick(this.#flushDue);
    }
    return true;
  }

  /** Hands over what waits for the end of the tick. */
  flush(): void {
    const start = this.#start;
    const slab = this.#slab;
    if (start === this.#end || slab === null) return;
    this.#start = this.#end;
    // A stream that has ended meanwhile takes its bytes along.
    if (!this.#stream.writable) return;
    slab.underWay++;
    this.#stream.write(slab.bytes.subarray(start, this.#end), slab.written);
  }

  readonly #flushDue = (): void => {
    this.#isFlushDue = false;
    this.flush();
  };

  /** The slab with `length` bytes free at `#end`. */
  #roomFor(length: number): Slab {
    const slab = this.#slab;
    if (slab !== null) {
      // The stream may have taken all before it has said so of each piece.
      const isUnread = slab.underWay === 0 || this.#waiting === 0;
      if (this.#start === this.#end && isUnread) this.#start = this.#end = 0;
      if (this.#end + length <= slab.bytes.length) return slab;
      this.flush();
      this.#waiting = this.#stream.writableLength;
    }
    this.#start = this.#end = 0;
    this.#slab = this.#nextSlab(length);
    return this.#slab;
  }

  #nextSlab(length: number): Slab {
    const isUsual = length <= SLAB_BYTES;
    const spare = isUsual ? this.#spare.pop() : undefined;
    if (spare !== undefined) return spare;
    const isKept = isUsual && this.#kept < KEPT_SLABS;
    if (isKept) this.#kept++;
    const bytes = isKept
      ? takePacketMemory(SLAB_BYTES)
      : Buffer.allocUnsafeSlow(Math.max(SLAB_BYTES, length));
    const slab: Slab = {
      bytes,
      underWay: 0,
      written: () => {
        slab.underWay--;
        if (isKept && slab.underWay === 0 && slab !== this.#slab) this.#spare.push(slab);
      },
    };
    return slab;
  }
}
