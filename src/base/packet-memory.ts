/**
 * One block of memory that packets travel through: what sockets read into, what waits for its twin, what is written.
 * Within one ArrayBuffer bytes are copied from place to place without a view on each (`copyWithin`); between two, Node
 * has no way of copying from the middle of one without allocating such a view, and that was most of what a packet
 * allocated.
 *
 * A piece is given back by being forgotten: when the Buffer has been collected its place is used again. So whoever has
 * others read a piece (a stream that writes it) must keep that Buffer until they are done. When the block is used up,
 * pieces are memory of their own; then copying allocates views again, and nothing else is different. The operating
 * system provides pages of the block when they are touched.
 */
import { markAsUntransferable } from 'node:worker_threads';

export const PACKET_MEMORY_BYTES = 32 * 1024 * 1024;
/** Pieces begin on a cache line. */
const ALIGNMENT_BYTES = 64;
/** Below it Node cuts buffers out of larger ones. */
const CUT_BYTES = 2048;
/** Below this a loop is quicker than a native call. */
const SHORT_BYTES = 96;

/** A place that has been given out once. */
interface Place {
  readonly at: number;
  readonly bytes: number;
}

class PacketMemory {
  readonly #block: ArrayBuffer;
  readonly #all: Uint8Array;
  /** Everything behind it was never given out. */
  #end = 0;
  readonly #free = new Map<number, number[]>();
  readonly #collected = new FinalizationRegistry<Place>(({ at, bytes }) => {
    const places = this.#free.get(bytes);
    if (places) places.push(at);
    else this.#free.set(bytes, [at]);
  });

  constructor(bytes: number) {
    this.#block = new ArrayBuffer(bytes);
    // Sent away to a worker by mistake, it would be gone for all.
    markAsUntransferable(this.#block);
    this.#all = new Uint8Array(this.#block);
  }

  /** Memory of undefined content. Pieces are used again by size: ask for few different sizes. */
  take(bytes: number): Buffer {
    const rounded = Math.ceil(bytes / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
    let at = this.#free.get(rounded)?.pop();
    if (at === undefined) {
      if (this.#end + rounded > this.#block.byteLength) {
        return bytes < CUT_BYTES ? Buffer.allocUnsafe(bytes) : Buffer.allocUnsafeSlow(bytes);
      }
      at = this.#end;
      this.#end += rounded;
    }
    const piece = Buffer.from(this.#block, at, bytes);
    this.#collected.register(piece, { at, bytes: rounded });
    return piece;
  }

  copy(source: Uint8Array, from: number, to: number, target: Uint8Array, at: number): void {
    if (to - from <= SHORT_BYTES) {
      for (let index = from; index < to; index++) target[at + index - from] = source[index]!;
    } else if (from === 0 && to === source.length) {
      target.set(source, at);
    } else if (source.buffer === this.#block && target.buffer === this.#block) {
      if (at + to - from > target.length) throw new RangeError('A copy does not fit');
      const start = source.byteOffset;
      this.#all.copyWithin(target.byteOffset + at, start + from, start + to);
    } else {
      target.set(source.subarray(from, to), at);
    }
  }
}

const memory = new PacketMemory(PACKET_MEMORY_BYTES);

/** What one read brings at most. A unix socket holds less (net.core.wmem_default), so that one read empties it. */
export const RECEIVE_BYTES = 256 * 1024;
/** What sockets read into whose bytes are used up when the callback of the read ends. One serves all of them. */
export const RECEIVE_SLAB = memory.take(RECEIVE_BYTES);

/** A piece of the block, or of memory of its own when that is used up. */
export function takePacketMemory(bytes: number): Buffer {
  return memory.take(bytes);
}

/** Copies `source[from, to)` to `target`, from `at` on. Throws RangeError when it does not fit. */
export function copyPacketBytes(
  source: Uint8Array,
  from: number,
  to: number,
  target: Uint8Array,
  at: number,
): void {
  memory.copy(source, from, to, target, at);
}
