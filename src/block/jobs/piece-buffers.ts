/**
 * The buffers of one copy, made when first needed and used again, so that copying allocates nothing and its memory is
 * bounded. A buffer that a stuck request may still touch is not given back: it is dropped, never shared.
 */
import { releaseBuffer } from '../../base/buffers.ts';

/** More than this many are not kept. */
const MAX_KEPT = 16;

export class PieceBuffers {
  readonly pieceBytes: number;
  readonly #free: Uint8Array[] = [];

  constructor(pieceBytes: number) {
    this.pieceBytes = pieceBytes;
  }

  take(): Uint8Array {
    return this.#free.pop() ?? new Uint8Array(this.pieceBytes);
  }

  give(buffer: Uint8Array): void {
    if (this.#free.length < MAX_KEPT) this.#free.push(buffer);
  }

  /** For the end of the copy. */
  release(): void {
    for (const buffer of this.#free.splice(0)) releaseBuffer(buffer);
  }
}
