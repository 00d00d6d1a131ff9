/**
 * What of the forwarded writes the other host may forget when it loses its page cache: those that have ended since the
 * last flush of the other side that succeeded, in chunks. Asked once, at parting. (A write that has not ended by then
 * ends later in the node above, which records from the parting on.)
 *
 * A flush covers the writes that had ended when it began. So when one begins, what was noted until then is put aside,
 * and forgotten when it has succeeded. While one flush is out, others cover nothing.
 */
import { ChunkBitmap } from '../../jobs/chunk-bitmap.ts';

const CHUNK_BYTES = 64 * 1024;

export class Unsettled {
  readonly #since: ChunkBitmap;
  readonly #aside: ChunkBitmap;
  #isFlushing = false;

  constructor(lengthBytes: number) {
    this.#since = new ChunkBitmap(lengthBytes, CHUNK_BYTES);
    this.#aside = new ChunkBitmap(lengthBytes, CHUNK_BYTES);
  }

  /** The other side has taken a write. */
  ended(offset: number, length: number): void {
    this.#since.setRange(offset, length);
  }

  /** Returns what is to be told how the flush ended. */
  flushBegins(): (succeeded: boolean) => void {
    if (this.#isFlushing) return () => undefined;
    this.#isFlushing = true;
    // What an earlier flush, which failed, has left aside stays there.
    this.#aside.setFrom(this.#since);
    this.#since.clearAll();
    return (succeeded) => {
      this.#isFlushing = false;
      if (succeeded) this.#aside.clearAll();
    };
  }

  /** Tells what the other disk may lack. */
  each(tell: (offset: number, length: number) => void): void {
    this.#since.eachRun(tell);
    this.#aside.eachRun(tell);
  }
}
