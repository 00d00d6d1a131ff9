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
import { copyPacketBytes, takePacketMemory } from '../base/packet-memory.ts';

/** Unsent bytes at which a chardev refuses more (the contract's bound, chardev.ts). */
export const UNSENT_LIMIT_BYTES = 4 * 1024 * 1024;

/** A piece that has grown to this is handed over. */
const PIECE_BYTES = 64 * 1024;
/** A piece below that bound and the largest framed packet (69632 bytes and an 8 byte header). */
const SLAB_BYTES = PIECE_BYTES + 72 * 1024;
/** Slabs that are kept for later. What a long stall takes beyond them is left to the garbage collector. */
const KEPT_SLABS = 16;

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
  /** Pieces that the stream has not done with. */
  #underWay = 0;
  #isKept = false;
  #kept = 0;
  /** Kept slabs that are full and that the stream still reads, and those that it does not. */
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
    copyPacketBytes(head, 0, head.length, slab, at);
    copyPacketBytes(body, from, to, slab, at + head.length);
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
    if (!this.#stream.writable) return;
    this.#underWay++;
    this.#stream.write(this.#slab.subarray(start, this.#end), this.#written);
  }

  readonly #flushDue = (): void => {
    this.#isFlushDue = false;
    this.flush();
  };

  /** A stream that has this holds us, so that our slabs are nobody else's meanwhile (base/packet-memory.ts). */
  readonly #written = (): void => {
    this.#underWay--;
  };

  /** The slab with `length` bytes free at `#end`. */
  #roomFor(length: number): Buffer {
    const slab = this.#slab;
    if (slab !== null) {
      if (this.#start === this.#end && this.#waiting === 0) this.#rewind();
      if (this.#end + length <= slab.length) return slab;
      this.flush();
      this.#waiting = this.#stream.writableLength;
      if (this.#isKept) this.#busy.push(slab);
    }
    this.#start = this.#end = 0;
    this.#slab = this.#nextSlab(length);
    return this.#slab;
  }

  #nextSlab(length: number): Buffer {
    const spare = length <= SLAB_BYTES ? this.#spare.pop() : undefined;
    this.#isKept = spare !== undefined || (length <= SLAB_BYTES && this.#kept < KEPT_SLABS);
    if (!this.#isKept) return Buffer.allocUnsafeSlow(Math.max(SLAB_BYTES, length));
    if (spare) return spare;
    this.#kept++;
    return takePacketMemory(SLAB_BYTES);
  }

  /** The stream reads none of the slabs any more. */
  #rewind(): void {
    this.#start = this.#end = 0;
    for (const slab of this.#busy) this.#spare.push(slab);
    this.#busy.length = 0;
  }
}
