/**
 * Where each chunk of a disk stands while it is being copied. Three bits a chunk, and the rules between them:
 * - dirty: the target may differ, and nobody has taken the chunk up;
 * - claimed: taken up, waiting for its turn; content that changes from here on makes it dirty again;
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

export class ChunkStates {
  readonly dirty: ChunkBitmap;
  readonly claimed: ChunkBitmap;
  readonly busy: ChunkBitmap;
  readonly chunkBytes: number;
  readonly lengthBytes: number;

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
  claim(from: number, maxChunks: number): ChunkRun | null {
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
    return { first, end };
  }

  /** Claimed chunks become dirty again. */
  giveBack(run: ChunkRun): void {
    for (let chunk = run.first; chunk < run.end; chunk++) {
      if (!this.claimed.has(chunk)) continue;
      this.claimed.clear(chunk);
      this.dirty.set(chunk);
    }
  }

  /** Claimed chunks become busy; false, with the claim given back, when one of them is no longer to be had. */
  begin(run: ChunkRun): boolean {
    for (let chunk = run.first; chunk < run.end; chunk++) {
      if (this.claimed.has(chunk) && !this.busy.has(chunk)) continue;
      this.giveBack(run);
      return false;
    }
    for (let chunk = run.first; chunk < run.end; chunk++) {
      this.claimed.clear(chunk);
      this.busy.set(chunk);
    }
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
    this.giveBack(run);
    for (let chunk = run.first; chunk < run.end; chunk++) this.busy.set(chunk);
    return true;
  }

  #isTaken(chunk: number): boolean {
    return this.busy.has(chunk) || this.claimed.has(chunk);
  }
}
