/**
 * Payload memory that is used again: a fresh 256 KiB buffer per request costs page faults and drives the garbage
 * collector. Small payloads stay with Node's own pool, very large ones are allocated; what is kept idle is bounded.
 *
 * Whoever takes memory gives it back when nothing reads or writes it any more, or never: then it is collected.
 */

export const SMALLEST_POOLED_BYTES = 32 * 1024;
const LARGEST = 4 * 1024 * 1024;
/** On top of each power of two, for the reply header in front of a payload that is one itself. */
const HEADROOM = 4096;
/** Bytes kept for later. */
const MAX_IDLE_BYTES = 32 * 1024 * 1024;

export class BufferPool {
  /** Idle slabs by size. */
  readonly #idle = new Map<number, ArrayBuffer[]>();
  #idleBytes = 0;
  /** Slabs that are in use, so that nothing is given back twice and nothing foreign comes in. */
  readonly #inUse = new WeakSet<ArrayBufferLike>();

  /** `length` bytes of undefined content. */
  take(length: number): Buffer {
    if (length < SMALLEST_POOLED_BYTES || length > LARGEST) return Buffer.allocUnsafe(length);
    const size = HEADROOM + 2 ** Math.ceil(Math.log2(Math.max(length - HEADROOM, SMALLEST_POOLED_BYTES)));
    let slab: ArrayBufferLike | undefined = this.#idle.get(size)?.pop();
    if (slab) this.#idleBytes -= size;
    else slab = Buffer.allocUnsafeSlow(size).buffer;
    this.#inUse.add(slab);
    return Buffer.from(slab, 0, length);
  }

  /** Takes the memory behind `bytes` back if it came from here. `bytes` must not be used afterwards. */
  give(bytes: Uint8Array): void {
    const slab = bytes.buffer;
    if (!this.#inUse.delete(slab) || !(slab instanceof ArrayBuffer)) return;
    const size = slab.byteLength;
    if (this.#idleBytes + size > MAX_IDLE_BYTES) return;
    this.#idleBytes += size;
    const slabs = this.#idle.get(size);
    if (slabs) slabs.push(slab);
    else this.#idle.set(size, [slab]);
  }
}
