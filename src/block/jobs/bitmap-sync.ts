/**
 * A mirror that copies what a dirty bitmap holds instead of the whole disk (sync=bitmap, sync=incremental): what is to
 * be copied first, what becomes of the bitmap at the end, and a guard against the wrong target.
 *
 * The guard: everything outside of the bitmap is taken to be equal, so a target that is not the disk which the bitmap
 * was kept for would silently become a mixture. A sample of clean chunks that hold data, and a few that read as zeros,
 * is compared before anything is written. It finds a wrong or an outdated disk, not a disk that differs in a few places.
 *
 * QEMU 7.2 has these modes for backup only ("Sync mode 'bitmap' not supported"); their meaning here is that of
 * qapi/block-core.json, BitmapSyncMode.
 */
import { randomInt } from 'node:crypto';
import { ColoError } from '../../base/errors.ts';
import type { BitmapLoan, DirtyBitmap } from '../dirty-bitmap.ts';
import type { BlockNode } from '../node.ts';
import type { ChunkBitmap } from './chunk-bitmap.ts';

/** on-success: done bits go when the job succeeds. always: also those done by a job that fails. never: none. */
export type BitmapMode = 'on-success' | 'always' | 'never';

const SAMPLES = 32;
/** How many of them may be chunks that read as zeros. */
const ZERO_SAMPLES = 8;
/** Where samples are looked for: all of a small disk, places by chance of a large one. */
const WINDOWS = 64;
const WINDOW_BYTES = 64 * 1024 * 1024;

/** Runs a request of the guard with the job's deadline and pause. */
export type Bounded = <T>(work: Promise<T>, what: string) => Promise<T>;

export class BitmapSync {
  readonly name: string;
  readonly mode: BitmapMode;
  readonly #loan: BitmapLoan;

  /** Borrows the bitmap until `end`. Throws when another job has it, or when it does not record. */
  constructor(bitmap: DirtyBitmap, mode: BitmapMode) {
    if (!bitmap.recording) {
      throw new ColoError(
        `Bitmap '${bitmap.name}' is disabled, so it does not know every change; a mirror needs one that records`,
      );
    }
    this.name = bitmap.name;
    this.mode = mode;
    this.#loan = bitmap.lend();
  }

  /**
   * Marks in `dirty` what the job has to copy at first. To be called when the job notes the source's writes as they end:
   * one that has begun is in the bitmap already, so none can fall in between.
   */
  addTo(dirty: ChunkBitmap): void {
    this.#loan.addTo(dirty);
  }

  /** Source and target are equal, and no write is in flight. */
  equalNow(): void {
    if (this.mode !== 'never') this.#loan.equalNow();
  }

  /** The job has ended; later calls do nothing. `left`: what it has not copied. */
  end(succeeded: boolean, left?: ChunkBitmap): void {
    if (succeeded && this.mode !== 'never') this.#loan.end('synced');
    else this.#loan.end('kept', this.mode === 'always' ? left : undefined);
  }

  /**
   * Compares a sample of the chunks that are not `dirty`. To be called after `addTo`. Throws when the target is not what the bitmap was kept for.
   */
  async check(source: BlockNode, target: BlockNode, dirty: ChunkBitmap, bounded: Bounded): Promise<void> {
    for (const chunk of await sample(source, dirty, bounded)) {
      const offset = chunk * dirty.chunkBytes;
      const length = Math.min(dirty.chunkBytes, source.lengthBytes - offset);
      const [ours, theirs] = [Buffer.alloc(length), Buffer.alloc(length)];
      const both = Promise.all([source.read(offset, ours), target.read(offset, theirs)]);
      await bounded(both, 'Comparing a sample');
      // A write that is on its way is not in `dirty` yet, but the bitmap knows it.
      if (ours.equals(theirs) || dirty.has(chunk) || this.#loan.isTouched(offset, length)) continue;
      throw new ColoError(
        `The target differs at ${offset}, where bitmap '${this.name}' says that nothing has changed: it is not the ` +
          'disk that the bitmap was kept for, or was written to since; use sync=full',
      );
    }
  }
}

/** Clean chunks by chance: with data as far as there are any, and the first one, where a disk says what it is. */
async function sample(source: BlockNode, dirty: ChunkBitmap, bounded: Bounded): Promise<number[]> {
  const withData = new Reservoir(SAMPLES - ZERO_SAMPLES);
  const zeros = new Reservoir(ZERO_SAMPLES);
  for (const offset of windows(source.lengthBytes)) {
    const length = Math.min(WINDOW_BYTES, source.lengthBytes - offset);
    for (const extent of await bounded(source.blockStatus(offset, length), 'Looking for a sample')) {
      const end = Math.ceil((extent.offset + extent.length) / dirty.chunkBytes);
      for (let chunk = Math.floor(extent.offset / dirty.chunkBytes); chunk < end; chunk++) {
        if (!dirty.has(chunk)) (extent.zero ? zeros : withData).offer(chunk);
      }
    }
  }
  const first = dirty.chunks > 0 && !dirty.has(0) ? [0] : [];
  return [...new Set([...first, ...withData.kept, ...zeros.kept])];
}

function windows(lengthBytes: number): number[] {
  const all = Math.ceil(lengthBytes / WINDOW_BYTES);
  if (all <= WINDOWS) return Array.from({ length: all }, (_, at) => at * WINDOW_BYTES);
  const chosen = new Set<number>([0]);
  while (chosen.size < WINDOWS) chosen.add(randomInt(all) * WINDOW_BYTES);
  return [...chosen];
}

/** Keeps so many of all that it is offered, each with the same probability. */
class Reservoir {
  readonly kept: number[] = [];
  readonly #size: number;
  #offered = 0;

  constructor(size: number) {
    this.#size = size;
  }

  offer(item: number): void {
    this.#offered++;
    if (this.kept.length < this.#size) this.kept.push(item);
    else {
      const place = Math.floor(Math.random() * this.#offered);
      if (place < this.#size) this.kept[place] = item;
    }
  }
}
