/**
 * Turns a stream's chunks into reads of known length, for straight-line code (the handshake, and a server's loop over
 * requests). It knows no socket: the owner pushes chunks, and is told through `flow` when to stop and to go on.
 *
 * A read that lies inside one chunk is a view of it, without a copy; a longer one is copied once, straight from the
 * arriving chunks into its destination. Chunks must therefore not be reused by the owner. One read at a time.
 */
import { Deferred } from '../base/async.ts';
import { NbdEndOfStreamError } from './errors.ts';

export interface ReaderFlow {
  pause(): void;
  resume(): void;
}

export class ByteReader {
  readonly #flow: ReaderFlow;
  readonly #highWaterBytes: number;
  #chunks: Buffer[] = [];
  /** Bytes of #chunks[0] that were consumed. */
  #consumed = 0;
  #buffered = 0;
  #paused = false;
  #ended: Error | null = null;
  #target: Uint8Array | null = null;
  #filled = 0;
  #waiter: Deferred<void> | null = null;

  constructor(flow: ReaderFlow, highWaterBytes: number) {
    this.#flow = flow;
    this.#highWaterBytes = highWaterBytes;
  }

  /** Bytes that have arrived and were not read. */
  get bufferedBytes(): number {
    return this.#buffered;
  }

  /** Takes a chunk over. */
  push(chunk: Buffer): void {
    if (this.#ended) return;
    this.#chunks.push(chunk);
    this.#buffered += chunk.length;
    if (this.#target) this.#fill();
    if (!this.#paused && this.#buffered > this.#highWaterBytes) {
      this.#paused = true;
      this.#flow.pause();
    }
  }

  /** No more chunks will come: the present read and later ones fail with `reason`. What is buffered can be read. */
  end(reason: Error = new NbdEndOfStreamError('The peer closed the connection')): void {
    if (this.#ended) return;
    this.#ended = reason;
    this.#target = null;
    this.#waiter?.reject(reason);
    this.#waiter = null;
  }

  /** `length` bytes if they have arrived already, else null. The view stays valid. */
  readNow(length: number): Buffer | null {
    if (this.#buffered < length) return null;
    const first = this.#chunks[0];
    if (first && first.length - this.#consumed >= length) {
      const view = first.subarray(this.#consumed, this.#consumed + length);
      this.#advance(length);
      return view;
    }
    const out = Buffer.allocUnsafe(length);
    this.#copyTo(out, 0);
    return out;
  }

  /** `length` bytes. Throws NbdEndOfStreamError (or the reason given to `end`) when the stream ends before. */
  async read(length: number): Promise<Buffer> {
    const now = this.readNow(length);
    if (now) return now;
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
    this.#filled = this.#copyTo(target, 0);
    if (this.#filled === target.byteLength) return;
    if (this.#ended) throw this.#ended;
    if (this.#waiter) throw new Error('Two reads at once');
    this.#target = target;
    this.#waiter = new Deferred<void>();
    await this.#waiter.promise;
  }

  /** Drops `length` bytes without storing them. */
  async skip(length: number): Promise<void> {
    let left = length;
    while (left > 0) {
      const now = Math.min(left, this.#buffered > 0 ? this.#buffered : 1);
      if (this.#buffered > 0) this.#drop(now);
      else await this.read(1);
      left -= now;
    }
  }

  #fill(): void {
    const target = this.#target;
    if (!target) return;
    this.#filled += this.#copyTo(target, this.#filled);
    if (this.#filled < target.byteLength) return;
    this.#target = null;
    const waiter = this.#waiter;
    this.#waiter = null;
    waiter?.resolve();
  }

  /** Copies what there is into `target` from `at` on; returns how much. */
  #copyTo(target: Uint8Array, at: number): number {
    let position = at;
    while (position < target.byteLength && this.#buffered > 0) {
      const first = this.#chunks[0]!;
      const count = Math.min(first.length - this.#consumed, target.byteLength - position);
      target.set(first.subarray(this.#consumed, this.#consumed + count), position);
      position += count;
      this.#advance(count);
    }
    return position - at;
  }

  #drop(length: number): void {
    let left = length;
    while (left > 0) {
      const count = Math.min(this.#chunks[0]!.length - this.#consumed, left);
      this.#advance(count);
      left -= count;
    }
  }

  /** Consumes `count` bytes of the first chunk. */
  #advance(count: number): void {
    this.#consumed += count;
    this.#buffered -= count;
    if (this.#consumed === (this.#chunks[0]?.length ?? 0)) {
      this.#chunks.shift();
      this.#consumed = 0;
    }
    if (this.#paused && this.#buffered <= this.#highWaterBytes / 2) {
      this.#paused = false;
      this.#flow.resume();
    }
  }
}
