/**
 * Writes byte runs to a stream so that the caller may reuse its memory at once, with a bound on what waits unsent.
 *
 * Each run is copied into a slab and handed over as one piece. A socket mostly takes it within the call; then the same
 * place of the slab serves the next run and nothing is allocated. While something is still waiting the slab's used
 * part belongs to the stream: the position moves on and a full slab is left to the garbage collector.
 */
import type { Writable } from 'node:stream';

/** Unsent bytes at which a chardev refuses more (the contract's bound, chardev.ts). */
export const UNSENT_LIMIT_BYTES = 4 * 1024 * 1024;

/** Larger than the largest framed packet (69632 bytes and an 8 byte header), so that one always fits. */
const SLAB_BYTES = 128 * 1024;

const EMPTY = new Uint8Array(0);

export class BoundedSender {
  readonly #stream: Writable;
  readonly #limitBytes: number;
  #slab: Buffer | null = null;
  #position = 0;
  /** Bytes given to the stream so far. */
  bytesSent = 0;

  constructor(stream: Writable, limitBytes = UNSENT_LIMIT_BYTES) {
    this.#stream = stream;
    this.#limitBytes = limitBytes;
  }

  /** Sends `head` and then `body`, or, when both do not fit under the bound or the stream has ended, nothing: false. */
  send(head: Uint8Array, body: Uint8Array = EMPTY): boolean {
    const stream = this.#stream;
    const length = head.length + body.length;
    const waiting = stream.writableLength;
    if (!stream.writable || waiting + length > this.#limitBytes) return false;
    if (length === 0) return true;
    if (waiting === 0) this.#position = 0;
    let slab = this.#slab;
    if (slab === null || this.#position + length > slab.length) {
      slab = Buffer.allocUnsafeSlow(Math.max(SLAB_BYTES, length));
      this.#slab = slab;
      this.#position = 0;
    }
    const start = this.#position;
    slab.set(head, start);
    slab.set(body, start + head.length);
    this.#position = start + length;
    stream.write(slab.subarray(start, start + length));
    this.bytesSent += length;
    return true;
  }
}
