/**
 * Where each chunk of a disk stands while it is being copied. Three bits a chunk, and the rules between them:
 * - dirty: the target may differ, and nobody has taken the chunk up;
 * - claimed: taken up, waiting for its turn; content that changes from here on makes it dirty again. A write of the
 *   guest that goes to both disks takes the chunk away from its claim, for good: the claim's plan of it is out of date,
 *   also when another claim has taken the chunk up since;
 * - busy: one request is copying it, or a write of the guest is on its way to both disks. Never two at a time, so an
 *   older copy never lands on a newer one.
 * The dirty bit is cleared before the source is read, and every write that ends sets it again.
 */
import { ChunkBitmap } from './chunk-bitmap.ts';

/** Chunks [first, end). */
export interface ChunkRun {
  readonly first: number;
  readonly end: number;
}

/** Chunks that were taken up together. It lasts until all of them have been begun or given back. */
export interface Claim extends ChunkRun {
  /** Chunks that are no longer its own; null: none. */
  stolen: Set<number> | null;
  /** Chunks of it that have neither been begun nor given back. */
  open: number;
}

export class ChunkStates {
  readonly dirty: ChunkBitmap;
  readonly claimed: ChunkBitmap;
  readonly busy: ChunkBitmap;
  readonly chunkBytes: number;
  readonly lengthBytes: number;
  readonly #claims = new Set<Claim>();

  constructor(lengthBytes: number, chunkBytes: number) {
    this.chunkBytes = chunkBytes;
    this.lengthBytes = lengthBytes;
    this.dirty = new ChunkBitmap(lengthBytes, chunkBytes);
    this.claimed = new ChunkBitmap(lengthBytes, chunkBytes);
    this.busy = new ChunkBitmap(lengthBytes, chunkBytes);
  }

  /** Bytes that nobody is copying yet. */
  get waitingBytes(): number {
    return this.dirty.bytes + this.claimed.bytes;
  }

  get restBytes(): number {
    return this.waitingBytes + this.busy.bytes;
  }

  offsetOf(chunk: number): number {
    return chunk * this.chunkBytes;
  }

  /** The bytes of a run; the last chunk of a disk may be short. */
  bytesOf(run: ChunkRun): number {
    return Math.min(run.end * this.chunkBytes, this.lengthBytes) - run.first * this.chunkBytes;
  }

  /** Claims the next run of dirty chunks at or after `from`, going round; null when all that is dirty is taken. */
  claim(from: number, maxChunks: number): Claim | null {
    let first = this.dirty.nextSet(from);
    for (let skipped = 0; first >= 0 && this.#isTaken(first); skipped++) {
      if (skipped > this.busy.count + this.claimed.count) return null;
      first = this.dirty.nextSet(first + 1);
    }
    if (first < 0) return null;
    const limit = Math.min(first + maxChunks, this.dirty.chunks);
    let end = first;
    for (; end < limit && this.dirty.has(end) && !this.#isTaken(end); end++) {
      this.dirty.clear(end);
      this.claimed.set(end);
    }
    const claim: Claim = { first, end, stolen: null, open: end - first };
    this.#claims.add(claim);
    return claim;
  }

  /** Chunks of a claim become dirty again, as far as they are still its own. */
  giveBack(claim: Claim, run: ChunkRun = claim): void {
    for (let chunk = run.first; chunk < run.end; chunk++) {
      if (!this.#owns(claim, chunk)) continue;
      this.claimed.clear(chunk);
      this.dirty.set(chunk);
    }
    this.#settle(claim, run);
  }

  /** Chunks of a claim become busy; false, with them given back, when one of them is no longer to be had. */
  begin(claim: Claim, run: ChunkRun): boolean {
    for (let chunk = run.first; chunk < run.end; chunk++) {
      if (this.#owns(claim, chunk) && !this.busy.has(chunk)) continue;
      this.giveBack(claim, run);
      return false;
    }
    for (let chunk = run.first; chunk < run.end; chunk++) {
      this.claimed.clear(chunk);
      this.busy.set(chunk);
    }
    this.#settle(claim, run);
    return true;
  }

  /** Busy chunks have been copied, or not and are dirty again. */
  end(run: ChunkRun, copied: boolean): void {
    for (let chunk = run.first; chunk < run.end; chunk++) {
      this.busy.clear(chunk);
      if (!copied) this.dirty.set(chunk);
    }
  }

  /** Makes chunks busy for a write of the guest, taking them away from a claim; false while one is busy. */
  take(run: ChunkRun): boolean {
    for (let chunk = run.first; chunk < run.end; chunk++) if (this.busy.has(chunk)) return false;
    for (let chunk = run.first; chunk < run.end; chunk++) {
      if (this.claimed.has(chunk)) this.#steal(chunk);
      this.busy.set(chunk);
    }
    return true;
  }

  #steal(chunk: number): void {
    for (const claim of this.#claims) {
      if (chunk < claim.first || chunk >= claim.end) continue;
      // Whichever of them has it, and no harm done to one that has begun it already.
      claim.stolen ??= new Set();
      claim.stolen.add(chunk);
    }
    this.claimed.clear(chunk);
    this.dirty.set(chunk);
  }

  #owns(claim: Claim, chunk: number): boolean {
    return this.claimed.has(chunk) && claim.stolen?.has(chunk) !== true;
  }

  #settle(claim: Claim, run: ChunkRun): void {
    claim.open -= run.end - run.first;
    if (claim.open <= 0) this.#claims.delete(claim);
  }

  #isTaken(chunk: number): boolean {
    return this.busy.has(chunk) || this.claimed.has(chunk);
  }
}
