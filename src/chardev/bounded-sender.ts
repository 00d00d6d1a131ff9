/**
 * Writes byte runs to a stream so that the caller may reuse its memory at once, with a bound on what waits unsent.
 *
 * Runs are gathered in a slab and handed over as one piece when the callback that sends them has ended (Node's "next
 * tick"), or earlier when the piece is large: a system call a frame would cost more than all that is done to the frame.
 * No timer is involved: nothing that a peer could wait for happens before the tick.
 *
 * A socket mostly takes a piece within the call; then the same place of the slab serves the next one and nothing is
 * allocated. While something is still waiting the slab's used part belongs to the stream: the position moves on, and a
 * full slab is used again when the stream has emptied.
 */
import type { Writable } from 'node:stream';

/** Unsent bytes at which a chardev refuses more (the contract's bound, chardev.ts). */
export const UNSENT_LIMIT_BYTES = 4 * 1024 * 1024;

/** A piece that has grown to this is handed over. */
const PIECE_BYTES = 64 * 1024;
/** A piece below that bound and the largest framed packet (69632 bytes and an 8 byte header). */
const SLAB_BYTES = PIECE_BYTES + 72 * 1024;
/** Slabs that are kept for later; after a long stall the others are left to the garbage collector. */
const SPARE_LIMIT = 8;
/** Below this a loop is quicker than a view and a native call. */
const SHORT_BYTES = 96;

const EMPTY = new Uint8Array(0);

export class BoundedSender {
  readonly #stream: Writable;
  readonly #limitBytes: number;
  #slab: Buffer | null = null;
  /** The bytes [start, end) of the slab wait for the end of the tick. */
  #start = 0;
  #end = 0;
  /** What the stream had unsent when the present piece was begun. */
  #waiting = 0;
  #isFlushDue = false;
  /** Full slabs that the stream still reads, and those that it does not. */
  #busy: Buffer[] = [];
  #spare: Buffer[] = [];
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
    const slab = this.#roomFor(length);
    const at = this.#end;
    copyInto(slab, at, head, 0, head.length);
    copyInto(slab, at + head.length, body, from, to);
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
    if (start === this.#end || this.#slab === null) return;
    this.#start = this.#end;
    // A stream that has ended meanwhile takes its bytes along.
    if (this.#stream.writable) this.#stream.write(this.#slab.subarray(start, this.#end));
  }

  readonly #flushDue = (): void => {
    this.#isFlushDue = false;
    this.flush();
  };

  /** The slab with `length` bytes free at `#end`. */
  #roomFor(length: number): Buffer {
    const slab = this.#slab;
    if (slab !== null) {
      if (this.#start === this.#end && this.#waiting === 0) this.#rewind();
      if (this.#end + length <= slab.length) return slab;
      this.flush();
      this.#waiting = this.#stream.writableLength;
      if (slab.length === SLAB_BYTES && this.#busy.length + this.#spare.length < SPARE_LIMIT)
        this.#busy.push(slab);
    }
    const spare = length <= SLAB_BYTES ? this.#spare.pop() : undefined;
    this.#slab = spare ?? Buffer.allocUnsafeSlow(Math.max(SLAB_BYTES, length));
    this.#start = this.#end = 0;
    return this.#slab;
  }

  /** The stream reads none of the slabs any more. */
  #rewind(): void {
    this.#start = this.#end = 0;
    for (const slab of this.#busy) this.#spare.push(slab);
    this.#busy.length = 0;
  }
}

function copyInto(slab: Buffer, at: number, bytes: Uint8Array, from: number, to: number): void {
  if (to - from <= SHORT_BYTES) {
    for (let index = from; index < to; index++) slab[at + index - from] = bytes[index]!;
  } else {
    slab.set(from === 0 && to === bytes.length ? bytes : bytes.subarray(from, to), at);
  }
}
