/**
 * The file below a qcow2 image as its metadata code sees it: reads behind the end give zeros, room is made before it is
 * used, and clusters that were never written are known to be zeros (so that a fresh cluster needs no padding).
 * Growth happens in sparse steps and is undone by `trim`.
 *
 * `barrier` puts a flush between two writes of which the second must not reach the disk before the first. While `lax`
 * is set there is nothing that a power failure could take (the image was emptied and not flushed since): no barriers.
 */
import { Mutex } from '../../../base/async.ts';
import { IoError } from '../../../base/errors.ts';
import type { BlockNode } from '../../node.ts';

const GROW_STEP = 4 * 2 ** 20;

export class HostFile {
  readonly node: BlockNode;
  readonly #clusterBytes: number;
  /** Growing and cutting, one at a time: truncate sets a length, it does not raise one. */
  readonly #resizing = new Mutex();
  /** From this byte on the file holds zeros, whatever its length. */
  #virginFrom: number;
  /** The end of the last cluster in use. */
  #usedEnd: number;
  #flushing: Promise<void> | null = null;
  #nextFlush: Promise<void> | null = null;
  lax = false;

  constructor(node: BlockNode, clusterBytes: number) {
    this.node = node;
    this.#clusterBytes = clusterBytes;
    this.#virginFrom = Math.ceil(node.lengthBytes / clusterBytes) * clusterBytes;
    this.#usedEnd = node.lengthBytes;
  }

  get lengthBytes(): number {
    return this.node.lengthBytes;
  }

  /** The end of what is, or may be, in use. */
  get usedEnd(): number {
    return this.#usedEnd;
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    const there = Math.max(0, Math.min(target.byteLength, this.node.lengthBytes - offset));
    if (there > 0)
      await this.node.read(offset, there === target.byteLength ? target : target.subarray(0, there));
    if (there < target.byteLength) target.fill(0, there);
  }

  /** Writes into clusters in use; the last one of a file may lie behind its end in part. Throws IoError. */
  write(offset: number, source: Uint8Array): Promise<void> {
    if (offset + source.byteLength <= this.node.lengthBytes) return this.node.write(offset, source);
    return this.#writeBehind(offset, source);
  }

  async #writeBehind(offset: number, source: Uint8Array): Promise<void> {
    const end = offset + source.byteLength;
    if (end > this.#virginFrom)
      throw new IoError('EIO', `Cluster at ${offset} lies behind the end of the image file`);
    if (end > this.#usedEnd) this.#usedEnd = end;
    await this.#grow(end);
    await this.node.write(offset, source);
  }

  /** All writes that ended before are on stable storage afterwards. Calls that come at once share one flush. */
  flush(): Promise<void> {
    if (!this.#flushing) return this.#startFlush();
    // The one that is under way may have begun before the caller's writes ended.
    this.#nextFlush ??= this.#flushing.catch(() => undefined).then(() => this.#startFlush());
    return this.#nextFlush;
  }

  #startFlush(): Promise<void> {
    this.#nextFlush = null;
    const flushing = this.node.flush().finally(() => {
      if (this.#flushing === flushing) this.#flushing = null;
    });
    this.#flushing = flushing;
    return flushing;
  }

  /** What was written before reaches the disk before what is written afterwards. */
  barrier(): Promise<void> {
    return this.lax ? Promise.resolve() : this.flush();
  }

  /** True: the clusters from `offset` on have never been written. Ask before `reserve` of the same range. */
  isVirgin(offset: number): boolean {
    return offset >= this.#virginFrom;
  }

  /** Makes the file reach `end`; these clusters are in use from now on. Throws IoError (ENOSPC). */
  async reserve(end: number): Promise<void> {
    if (end > this.#usedEnd) this.#usedEnd = end;
    if (end > this.#virginFrom) this.#virginFrom = end;
    await this.#grow(end);
  }

  /** Clusters that were reserved and never used. */
  unreserve(start: number, end: number): void {
    if (end >= this.#usedEnd && start < this.#usedEnd) this.#usedEnd = start;
  }

  /** Everything from `end` on is free: gives it back. */
  async cut(end: number): Promise<void> {
    await this.#resizing.run(async () => {
      const { driver } = this.node;
      if (!driver.truncate) return;
      this.#usedEnd = end;
      if (end < driver.lengthBytes) await driver.truncate(end);
      this.#virginFrom = Math.ceil(end / this.#clusterBytes) * this.#clusterBytes;
    });
  }

  /** Gives back what growth in steps took too much. */
  async trim(): Promise<void> {
    await this.#resizing.run(async () => {
      const { driver } = this.node;
      if (!driver.truncate || driver.readOnly || this.#usedEnd >= driver.lengthBytes) return;
      await driver.truncate(this.#usedEnd);
    });
  }

  async #grow(end: number): Promise<void> {
    if (end <= this.node.lengthBytes) return;
    await this.#resizing.run(async () => {
      if (end <= this.node.lengthBytes) return;
      const { driver } = this.node;
      if (!driver.truncate)
        throw new IoError('ENOSPC', `Node '${this.node.nodeName}' cannot grow to ${end} bytes`);
      await driver.truncate(Math.ceil(end / GROW_STEP) * GROW_STEP);
    });
  }
}
