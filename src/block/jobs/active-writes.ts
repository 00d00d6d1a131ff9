/**
 * copy-mode=write-blocking: a write of the guest goes to the target too before it ends, so that the job converges
 * whatever the guest writes. Facts: QEMU qapi/block-core.json (MirrorCopyMode).
 *
 * A write takes its chunks (chunk-states.ts) before it reaches the source and keeps them until both disks have it, so
 * that writes to one place reach both disks in one order. Chunks that it covers whole are clean afterwards. Of a chunk
 * that is dirty and covered in part nothing is written: the background has to copy it anyway. A write to the target that
 * fails is the job's failure, never the guest's; its chunks are dirty then. Discards promise no content and are left
 * to the background.
 */
import type { BlockNode } from '../node.ts';
import type { ChunkRun, ChunkStates } from './chunk-states.ts';

export interface ActiveWritesOptions {
  readonly states: ChunkStates;
  readonly target: BlockNode;
  readonly unmap: boolean;
  /** The copy is over: nothing waits, nothing is repeated. */
  readonly isOff: () => boolean;
  readonly isPaused: () => boolean;
  /** Resolves at the next change of any chunk. */
  readonly changed: () => Promise<void>;
  readonly wake: () => void;
  readonly bounded: (work: Promise<void>) => Promise<void>;
  readonly onError: (error: unknown) => void;
  readonly onCopied: (bytes: number) => void;
}

interface Write {
  readonly offset: number;
  readonly length: number;
  readonly run: ChunkRun;
  repeated: boolean;
}

export class ActiveWrites {
  readonly #options: ActiveWritesOptions;
  /** Of one range there is one at most, since it holds its chunks. */
  readonly #writes: Write[] = [];

  constructor(options: ActiveWritesOptions) {
    this.#options = options;
  }

  /** Before a write: takes its chunks, when they are free. */
  async enter(offset: number, length: number): Promise<void> {
    const { states, isOff } = this.#options;
    if (length === 0) return;
    const first = Math.floor(offset / states.chunkBytes);
    const run = { first, end: Math.floor((offset + length - 1) / states.chunkBytes) + 1 };
    while (!isOff() && !states.take(run)) await this.#options.changed();
    if (!isOff()) this.#writes.push({ offset, length, run, repeated: false });
  }

  /** After a write: frees its chunks. False when the target has not got it, so that its range is dirty. */
  leave(offset: number, length: number): boolean {
    const at = this.#find(offset, length);
    const write = this.#writes[at];
    if (write === undefined) return false;
    this.#writes.splice(at, 1);
    this.#options.states.end(write.run, true);
    return write.repeated;
  }

  /** Between the two, when the source has taken the bytes (null: zeros). Never throws. */
  async repeat(offset: number, length: number, source: Uint8Array | null): Promise<void> {
    const { states, target, isOff, isPaused, unmap } = this.#options;
    const write = this.#writes[this.#find(offset, length)];
    if (write === undefined || isOff() || isPaused()) return;
    const { from, to } = this.#clean(offset, offset + length);
    try {
      if (from < to) {
        const work =
          source === null
            ? target.writeZeroes(from, to - from, { unmap })
            : target.write(from, source.subarray(from - offset, to - offset));
        await this.#options.bounded(work);
        this.#options.onCopied(to - from);
      }
      const first = Math.ceil(offset / states.chunkBytes);
      const end =
        to >= states.lengthBytes ? write.run.end : Math.floor((offset + length) / states.chunkBytes);
      for (let chunk = first; chunk < end; chunk++) states.dirty.clear(chunk);
      write.repeated = true;
    } catch (error) {
      this.#options.onError(error);
      this.#options.wake();
    }
  }

  /** [offset, end) without the parts of dirty chunks at either end. */
  #clean(offset: number, end: number): { from: number; to: number } {
    const { dirty, chunkBytes, lengthBytes } = this.#options.states;
    let from = offset;
    let to = end;
    if (from % chunkBytes !== 0 && dirty.has(Math.floor(from / chunkBytes))) {
      from = Math.min(to, Math.ceil(from / chunkBytes) * chunkBytes);
    }
    if (to % chunkBytes !== 0 && to < lengthBytes && dirty.has(Math.floor(to / chunkBytes))) {
      to = Math.max(from, Math.floor(to / chunkBytes) * chunkBytes);
    }
    return { from, to };
  }

  #find(offset: number, length: number): number {
    return this.#writes.findIndex((write) => write.offset === offset && write.length === length);
  }
}
