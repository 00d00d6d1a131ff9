/**
 * Named dirty bitmaps of a block node: which chunks were changed since somebody last asked. BlockNode marks every
 * mutation (write, zeroes, discard, emptying) twice: before it reaches the driver, so that nothing on the disk is ever
 * missing here, and when it has ended, well or not, so that a bit that was taken away meanwhile comes back.
 *
 * They live in memory and die with the process; persistent ones are refused. What belongs to whom: a job borrows a
 * bitmap (`lend`); it is busy then, and what is written meanwhile goes to a second map (QEMU's successor). At the end
 * the job says what remains: nothing but the second map (`synced`), or everything of both (`kept`).
 *
 * Sources: QEMU docs/interop/bitmaps.rst, qapi/block-core.json (block-dirty-bitmap-*); texts asked of QEMU 7.2.
 */
import { ColoError, ParameterError } from '../base/errors.ts';
import { ChunkBitmap } from './jobs/chunk-bitmap.ts';

const DEFAULT_GRANULARITY_BYTES = 64 * 1024;
const MIN_GRANULARITY_BYTES = 512;
/** QEMU's BDRV_BITMAP_MAX_NAME_SIZE, in bytes. */
const MAX_NAME_BYTES = 1023;
const MAX_BITMAPS = 32;
/** Of all bitmaps of one node, their second maps not counted. */
const MAX_BITMAP_BYTES = 64 * 1024 * 1024;

/** One element of `dirty-bitmaps` in query-block and query-named-block-nodes. */
export interface DirtyBitmapInfo {
  name: string;
  count: number;
  granularity: number;
  recording: boolean;
  busy: boolean;
  persistent: boolean;
}

/** A bitmap in the hands of a job. */
export interface BitmapLoan {
  /** Adds what is dirty by now to `bits`: what was when the job began, and what was recorded since. */
  addTo(bits: ChunkBitmap): void;
  /** Whether something in the range was written, or is being written, since the job began. */
  isTouched(offset: number, length: number): boolean;
  /** The copy is equal to the disk now and no write is in flight: what was recorded meanwhile is of no interest. */
  equalNow(): void;
  /** The job has ended. `synced`: `bits` are done; else they are dirty again, or those of `left` if it is given. */
  end(outcome: 'synced' | 'kept', left?: ChunkBitmap): void;
}

export class DirtyBitmap {
  readonly name: string;
  #bits: ChunkBitmap;
  #recording: boolean;
  #successor: ChunkBitmap | null = null;
  /** Not lent, but not whole yet either. */
  #incomplete = false;

  constructor(name: string, lengthBytes: number, granularityBytes: number, recording: boolean) {
    this.name = name;
    this.#bits = new ChunkBitmap(lengthBytes, granularityBytes);
    this.#recording = recording;
  }

  get granularityBytes(): number {
    return this.#bits.chunkBytes;
  }

  get lengthBytes(): number {
    return this.#bits.lengthBytes;
  }

  get recording(): boolean {
    return this.#recording;
  }

  get busy(): boolean {
    return this.#successor !== null || this.#incomplete;
  }

  /** Bytes of the dirty chunks, whole ones, as QEMU counts. */
  get dirtyBytes(): number {
    return this.#bits.count * this.#bits.chunkBytes;
  }

  info(): DirtyBitmapInfo {
    return {
      name: this.name,
      count: this.dirtyBytes,
      granularity: this.granularityBytes,
      recording: this.#recording,
      busy: this.busy,
      persistent: false,
    };
  }

  has(offset: number): boolean {
    return this.#bits.has(Math.floor(offset / this.granularityBytes));
  }

  /** A range was, or is about to be, changed. */
  mark(offset: number, length: number): void {
    if (this.#recording) this.seed(offset, length);
  }

  /** Marks a range whether or not the bitmap records. */
  seed(offset: number, length: number): void {
    const end = offset + length;
    if (end > this.#bits.lengthBytes) this.#grow(end);
    (this.#successor ?? this.#bits).setRange(offset, length);
  }

  /** What is being put into it is not all there yet: busy until `complete`. */
  beginSeeding(): void {
    this.#incomplete = true;
  }

  complete(): void {
    this.#incomplete = false;
  }

  setRecording(recording: boolean): void {
    this.requireIdle();
    this.#recording = recording;
  }

  clear(): void {
    this.requireIdle();
    this.#bits.clearAll();
  }

  /** Takes the dirty chunks of `other` in; the granularities may differ. Throws when the lengths do. */
  merge(other: DirtyBitmap): void {
    this.requireMergeable(other);
    if (other !== this) this.#bits.setFrom(other.#bits);
  }

  requireMergeable(other: DirtyBitmap): void {
    this.requireIdle();
    other.requireIdle();
    if (other.lengthBytes !== this.lengthBytes) {
      throw new ColoError(
        `Bitmaps are of different sizes (destination size is ${this.lengthBytes}, source size is ` +
          `${other.lengthBytes}) and can't be merged`,
      );
    }
  }

  /** Throws while a job has it. */
  requireIdle(): void {
    if (!this.busy) return;
    throw new ColoError(`Bitmap '${this.name}' is currently in use by another operation and cannot be used`);
  }

  /** Throws while another job has it. */
  lend(): BitmapLoan {
    this.requireIdle();
    const { lengthBytes, granularityBytes } = this;
    this.#successor = new ChunkBitmap(lengthBytes, granularityBytes);
    let ended = false;
    return {
      addTo: (bits) => {
        bits.setFrom(this.#bits);
        if (this.#successor) bits.setFrom(this.#successor);
      },
      isTouched: (offset, length) => this.#successor?.hasAny(offset, length) ?? false,
      equalNow: () => {
        if (!ended) this.#successor?.clearAll();
      },
      end: (outcome, left) => {
        if (ended) return;
        ended = true;
        const since = this.#successor ?? new ChunkBitmap(this.lengthBytes, granularityBytes);
        this.#successor = null;
        if (outcome === 'kept') since.setFrom(left ?? this.#bits);
        this.#bits = since;
      },
    };
  }

  /** The node has grown; what is new counts as changed. */
  #grow(lengthBytes: number): void {
    const before = this.#bits.lengthBytes;
    const larger = (old: ChunkBitmap): ChunkBitmap => {
      const bits = new ChunkBitmap(lengthBytes, old.chunkBytes);
      bits.setFrom(old);
      return bits;
    };
    const lent = this.#successor !== null;
    if (this.#successor) this.#successor = larger(this.#successor);
    else this.#bits = larger(this.#bits);
    // A job's bits stay as they are: a job on a node that grows fails by its length.
    if (!lent) this.#bits.setRange(before, lengthBytes - before);
    else this.#successor?.setRange(before, lengthBytes - before);
  }
}

/** The bitmaps of one node, in the order in which they were made. */
export class DirtyBitmaps {
  #list: readonly DirtyBitmap[] = [];

  get list(): readonly DirtyBitmap[] {
    return this.#list;
  }

  /** For query-block: undefined when there are none, newest first, as in QEMU. */
  info(): DirtyBitmapInfo[] | undefined {
    if (this.#list.length === 0) return undefined;
    return this.#list.map((bitmap) => bitmap.info()).reverse();
  }

  find(name: string): DirtyBitmap | null {
    return this.#list.find((bitmap) => bitmap.name === name) ?? null;
  }

  /** Throws with QEMU's text. */
  require(name: string): DirtyBitmap {
    const found = this.find(name);
    if (!found) throw new ColoError(`Dirty bitmap '${name}' not found`);
    return found;
  }

  /** Throws ParameterError, ColoError. */
  add(
    name: string,
    lengthBytes: number,
    options: { readonly granularityBytes?: number; readonly disabled?: boolean } = {},
  ): DirtyBitmap {
    const granularityBytes = options.granularityBytes ?? DEFAULT_GRANULARITY_BYTES;
    if (name === '') throw new ParameterError('Bitmap name cannot be empty');
    if (granularityBytes < MIN_GRANULARITY_BYTES || !Number.isInteger(Math.log2(granularityBytes))) {
      throw new ParameterError('Granularity must be power of 2 and at least 512');
    }
    if (Buffer.byteLength(name) > MAX_NAME_BYTES) throw new ParameterError(`Bitmap name too long: ${name}`);
    if (this.find(name)) throw new ColoError(`Bitmap already exists: ${name}`);
    if (this.#list.length >= MAX_BITMAPS) {
      throw new ColoError(
        `There are ${MAX_BITMAPS} bitmaps already; remove one with block-dirty-bitmap-remove`,
      );
    }
    const bytes = this.#list.reduce(
      (sum, bitmap) => sum + mapBytes(bitmap.lengthBytes, bitmap.granularityBytes),
      mapBytes(lengthBytes, granularityBytes),
    );
    if (bytes > MAX_BITMAP_BYTES) {
      throw new ColoError(
        `The bitmaps of one node may take ${MAX_BITMAP_BYTES} bytes; use a larger granularity`,
      );
    }
    const bitmap = new DirtyBitmap(name, lengthBytes, granularityBytes, options.disabled !== true);
    this.#list = [...this.#list, bitmap];
    return bitmap;
  }

  /** Throws when there is none of that name or a job has it. */
  remove(name: string): void {
    const bitmap = this.require(name);
    bitmap.requireIdle();
    this.drop(bitmap);
  }

  /** Takes it out even if a job has it; the job's loan then ends in nothing. */
  drop(bitmap: DirtyBitmap): void {
    this.#list = this.#list.filter((other) => other !== bitmap);
  }

  /** Moves one of another node's bitmaps here, in place of any of that name; nothing when there is none. */
  takeOver(from: DirtyBitmaps, name: string): void {
    const bitmap = from.find(name);
    if (!bitmap || from === this) return;
    from.drop(bitmap);
    this.#list = [...this.#list.filter((other) => other.name !== name), bitmap];
  }

  mark(offset: number, length: number): void {
    for (const bitmap of this.#list) bitmap.mark(offset, length);
  }
}

function mapBytes(lengthBytes: number, granularityBytes: number): number {
  return Math.ceil(lengthBytes / granularityBytes / 8);
}
