/**
 * The buffers of one copy, made when first needed and used again, so that copying allocates nothing and its memory is
 * bounded. A buffer that a stuck request may still touch is not given back: it is dropped, never shared.
 */
import { releaseBuffer } from '../../base/buffers.ts';

/** More than this many are not kept. */
const MAX_KEPT = 16;

export class PieceBuffers {
  readonly pieceBytes: number;
  readonly #smallBytes: number;
  readonly #free: Uint8Array[] = [];
  readonly #freeSmall: Uint8Array[] = [];

  /** Buffers of `pieceBytes`, and small ones for pieces of up to `smallBytes`. */
  constructor(pieceBytes: number, smallBytes = pieceBytes) {
    this.pieceBytes = pieceBytes;
    this.#smallBytes = Math.min(smallBytes, pieceBytes);
  }

  /** How large a buffer `take` gives. */
  sizeFor(bytes: number): number {
    return bytes <= this.#smallBytes ? this.#smallBytes : this.pieceBytes;
  }

  take(bytes: number): Uint8Array {
    const size = this.sizeFor(bytes);
    return this.#listOf(size).pop() ?? new Uint8Array(size);
  }

  give(buffer: Uint8Array): void {
    const list = this.#listOf(buffer.byteLength);
    if (list.length < MAX_KEPT) list.push(buffer);
  }

  /** For the end of the copy. */
  release(): void {
    this.#freeSmall.length = 0;
    for (const buffer of this.#free.splice(0)) releaseBuffer(buffer);
  }

  #listOf(size: number): Uint8Array[] {
    return size < this.pieceBytes ? this.#freeSmall : this.#free;
  }
}
