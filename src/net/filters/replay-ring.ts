/**
 * The last frames that a secondary gave to its primary for comparison. The primary may have died before it released
 * its own twin, so a secondary that goes on alone says them again. Bounded by age and by bytes.
 */

export const REPLAY_AGE_MS = 500;
export const REPLAY_BYTES = 256 * 1024;

interface Entry {
  readonly atMs: number;
  readonly frame: Uint8Array;
}

export class ReplayRing {
  readonly #ageMs: number;
  readonly #limitBytes: number;
  #entries: Entry[] = [];
  #first = 0;
  #bytes = 0;

  constructor(ageMs = REPLAY_AGE_MS, limitBytes = REPLAY_BYTES) {
    this.#ageMs = ageMs;
    this.#limitBytes = limitBytes;
  }

  get size(): number {
    return this.#entries.length - this.#first;
  }

  /** Keeps a copy. */
  push(frame: Uint8Array, nowMs: number): void {
    if (frame.length > this.#limitBytes) return;
    this.#entries.push({ atMs: nowMs, frame: Buffer.from(frame) });
    this.#bytes += frame.length;
    while (this.#bytes > this.#limitBytes || nowMs - this.#entries[this.#first]!.atMs > this.#ageMs) {
      this.#bytes -= this.#entries[this.#first]!.frame.length;
      this.#first++;
    }
    // Amortised: the spent front is cut off when it is the larger half.
    if (this.#first > 64 && this.#first * 2 > this.#entries.length) {
      this.#entries = this.#entries.slice(this.#first);
      this.#first = 0;
    }
  }

  /** The frames that are young enough, oldest first; the ring is empty then. */
  take(nowMs: number): Uint8Array[] {
    const young = this.#entries.slice(this.#first).filter((entry) => nowMs - entry.atMs <= this.#ageMs);
    this.clear();
    return young.map((entry) => entry.frame);
  }

  clear(): void {
    this.#entries = [];
    this.#first = 0;
    this.#bytes = 0;
  }
}
