/**
 * Turns a stream of bytes into reads of known length, for straight-line code (the handshake, and a server's loop over
 * requests). It knows no socket: the owner reads into `nextBuffer` and says how much came (`received`), or pushes chunks
 * that it has (TLS); through `flow` it is told when to stop and to go on.
 *
 * Bytes land in a slab, one behind the other, so that a message which came in several pieces is still one piece of
 * memory: `readNow` and `view` give it in place, without a copy. A payload too large for that (`readInto`) is read
 * straight into its destination as soon as the slab holds none of it. One read at a time.
 */
import { Deferred } from '../base/async.ts';
import type { BufferPool } from './buffer-pool.ts';
import { NbdEndOfStreamError } from './errors.ts';
import { NBD_MAX_VIEW, NBD_RECEIVE_SLAB } from './limits.ts';

export interface ReaderFlow {
  pause(): void;
  resume(): void;
}

/** Room that is offered to a read at least: less would make a system call of every few requests. */
const MIN_ROOM_BYTES = 64 * 1024;
/** Less than this is cheaper to copy from the slab than to read by a system call of its own. */
const DIRECT_MIN_BYTES = 64 * 1024;

interface Slab {
  readonly bytes: Buffer;
  /** Views that were given out and not released. */
  views: number;
}

export class ByteReader {
  readonly #flow: ReaderFlow;
  readonly #highWaterBytes: number;
  readonly #pool: BufferPool | null;
  #slab: Slab | null = null;
  /** What has arrived and was not read: [start, end) of the slab. */
  #start = 0;
  #end = 0;
  /** Slabs with views outstanding, the present one among them once it has some. */
  readonly #viewed = new Map<ArrayBufferLike, Slab>();
  #paused = false;
  #ended: Error | null = null;
  /** The destination of `readInto` while it waits, and how much of it is there. */
  #target: Uint8Array | null = null;
  #filled = 0;
  /** The owner was given a piece of the destination to read into. */
  #direct = false;
  /** Bytes that the waiting read wants to see in the slab. */
  #wanted = 0;
  #waiter: Deferred<void> | null = null;

  /** Slabs come from `pool` and go back to it; without one they are left to the garbage collector. */
  constructor(flow: ReaderFlow, highWaterBytes: number, pool: BufferPool | null = null) {
    this.#flow = flow;
    this.#highWaterBytes = highWaterBytes;
    this.#pool = pool;
  }

  /** Bytes that have arrived and were not read. */
  get bufferedBytes(): number {
    return this.#end - this.#start;
  }

  /** Where the owner has to put the next bytes of the stream. Never empty. */
  nextBuffer(): Uint8Array {
    const target = this.#target;
    this.#direct =
      target !== null && this.#start === this.#end && target.byteLength - this.#filled >= DIRECT_MIN_BYTES;
    if (target !== null && this.#direct) return target.subarray(this.#filled);
    const slab = this.#roomFor(Math.max(MIN_ROOM_BYTES, this.#wanted - this.bufferedBytes));
    return slab.bytes.subarray(this.#end);
  }

  /** `count` bytes were put where `nextBuffer` said. */
  received(count: number): void {
    if (this.#ended) return;
    if (this.#direct) this.#filled += count;
    else {
      this.#end += count;
      if (this.#target) this.#filled += this.#takeInto(this.#target, this.#filled);
    }
    this.#wake();
    if (!this.#paused && this.bufferedBytes > Math.max(this.#highWaterBytes, this.#wanted)) {
      this.#paused = true;
      this.#flow.pause();
    }
  }

  /** Takes bytes that the owner has in memory of its own; they are copied. */
  push(chunk: Uint8Array): void {
    for (let done = 0; done < chunk.byteLength && !this.#ended;) {
      const room = this.nextBuffer();
      const count = Math.min(room.byteLength, chunk.byteLength - done);
      room.set(chunk.subarray(done, done + count));
      this.received(count);
      done += count;
    }
  }

  /**
   * No more bytes will come: the present read and later ones fail with `reason`. What has arrived can still be read.
   * The destination of a `readInto` that was under way must not be used for anything else: the owner's socket may
   * still be about to fill it.
   */
  end(reason: Error = new NbdEndOfStreamError('The peer closed the connection')): void {
    if (this.#ended) return;
    this.#ended = reason;
    this.#target = null;
    this.#wanted = 0;
    this.#waiter?.reject(reason);
    this.#waiter = null;
  }

  /** `length` bytes if they have arrived already, else null. In place: to be used before the caller next awaits. */
  readNow(length: number): Buffer | null {
    if (this.bufferedBytes < length || !this.#slab) return null;
    const view = this.#slab.bytes.subarray(this.#start, this.#start + length);
    this.#advance(length);
    return view;
  }

  /** `length` bytes in memory of their own. Throws NbdEndOfStreamError (or the reason given to `end`) when it ends before. */
  async read(length: number): Promise<Buffer> {
    const out = Buffer.allocUnsafe(length);
    await this.readInto(out);
    return out;
  }

  /** As `read`, but null when the stream ended properly before the first of the bytes. */
  async readOrEnd(length: number): Promise<Buffer | null> {
    try {
      return await this.read(length);
    } catch (error) {
      if (error instanceof NbdEndOfStreamError && this.#filled === 0) return null;
      throw error;
    }
  }

  /** Fills all of `target`. */
  async readInto(target: Uint8Array): Promise<void> {
    this.#filled = this.#takeInto(target, 0);
    if (this.#filled === target.byteLength) return;
    this.#target = target;
    await this.#wait();
  }

  /** `length` bytes (at most NBD_MAX_VIEW) in place, which stay as they are until `release`. */
  async view(length: number): Promise<Uint8Array> {
    if (length > NBD_MAX_VIEW) throw new RangeError(`A view of ${length} bytes`);
    if (this.bufferedBytes < length) {
      this.#wanted = length;
      this.#goOn();
      await this.#wait();
    }
    if (length === 0) return new Uint8Array(0);
    const slab = this.#slab!;
    slab.views++;
    this.#viewed.set(slab.bytes.buffer, slab);
    const view = new Uint8Array(slab.bytes.buffer, slab.bytes.byteOffset + this.#start, length);
    this.#advance(length);
    return view;
  }

  /** Ends the use of a `view`; false when `bytes` are none. */
  release(bytes: Uint8Array): boolean {
    const slab = this.#viewed.get(bytes.buffer);
    if (!slab) return false;
    if (--slab.views > 0) return true;
    this.#viewed.delete(bytes.buffer);
    if (slab !== this.#slab) this.#pool?.give(slab.bytes);
    return true;
  }

  /** Drops `length` bytes without storing them. */
  async skip(length: number): Promise<void> {
    let left = length;
    while (left > 0) {
      const now = Math.min(left, Math.max(1, this.bufferedBytes));
      if (this.bufferedBytes > 0) this.#advance(now);
      else await this.read(1);
      left -= now;
    }
  }

  async #wait(): Promise<void> {
    if (this.#ended) {
      this.#target = null;
      this.#wanted = 0;
      throw this.#ended;
    }
    if (this.#waiter) throw new Error('Two reads at once');
    this.#waiter = new Deferred<void>();
    await this.#waiter.promise;
  }

  /** Lets the waiting read go on when what it waits for is there. */
  #wake(): void {
    const waiter = this.#waiter;
    if (!waiter) return;
    if (this.#target ? this.#filled < this.#target.byteLength : this.bufferedBytes < this.#wanted) return;
    this.#target = null;
    this.#wanted = 0;
    this.#waiter = null;
    waiter.resolve();
  }

  /** Takes what there is into `target` from `at` on; returns how much. */
  #takeInto(target: Uint8Array, at: number): number {
    const count = Math.min(this.bufferedBytes, target.byteLength - at);
    if (count === 0 || !this.#slab) return 0;
    target.set(this.#slab.bytes.subarray(this.#start, this.#start + count), at);
    this.#advance(count);
    return count;
  }

  #advance(count: number): void {
    this.#start += count;
    if (this.bufferedBytes <= this.#highWaterBytes / 2) this.#goOn();
  }

  #goOn(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#flow.resume();
  }

  /** The slab with at least `room` bytes behind `#end`: the present one, rewound if it is empty, or a fresh one. */
  #roomFor(room: number): Slab {
    const old = this.#slab;
    // An empty slab that nobody looks at is filled from its start again: that memory is in the CPU's caches.
    if (old?.views === 0 && this.#start === this.#end) this.#start = this.#end = 0;
    if (old && old.bytes.byteLength - this.#end >= room) return old;
    const unread = this.bufferedBytes;
    const size = Math.max(NBD_RECEIVE_SLAB, unread + room);
    const fresh: Slab = { bytes: this.#pool?.take(size) ?? Buffer.allocUnsafe(size), views: 0 };
    if (old) {
      fresh.bytes.set(old.bytes.subarray(this.#start, this.#end));
      if (old.views === 0) this.#pool?.give(old.bytes);
    }
    this.#slab = fresh;
    this.#start = 0;
    this.#end = unread;
    return fresh;
  }
}
