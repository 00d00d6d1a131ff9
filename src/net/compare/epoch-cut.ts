/**
 * Where a stream of frames is cut by a checkpoint: a frame that ends at or before `upTo` belongs to the closed epoch.
 * The position is exact because it is the sender's own count of bytes at the moment its guest stood still; so nobody
 * has to wait for those bytes, and none can slip into the wrong epoch however late it comes.
 */
import type { StreamMark } from '../../base/participant.ts';

export class EpochCut {
  /** Bytes of the current connection that belong to closed epochs. Infinity: all that comes until `settle`. */
  #upTo = 0;
  /**
   * A frame behind the cut has come, so all that follow it are. It spares asking for each: a count of bytes that has grown
   * past 2^31 is an object when it is handed on.
   */
  isPassed = false;
  /** Marks for connections that are not there (yet). */
  #elsewhere: readonly StreamMark[] = [];

  get upTo(): number {
    return this.#upTo;
  }

  covers(position: number): boolean {
    this.isPassed = position > this.#upTo;
    return !this.isPassed;
  }

  at(bytes: number): void {
    this.#upTo = Math.max(this.#upTo === Infinity ? 0 : this.#upTo, bytes);
    this.isPassed = false;
    this.#elsewhere = [];
  }

  /** The position is not known: all is of the closed epoch until `at` or `settle`. */
  open(): void {
    this.#upTo = Infinity;
    this.isPassed = false;
    this.#elsewhere = [];
  }

  /** Keeps marks in case the connection of one of them comes. */
  expect(marks: readonly StreamMark[]): void {
    this.#elsewhere = marks;
  }

  /** Whatever comes after `position` is of the new epoch, if nothing better has become known. */
  settle(position: number): void {
    if (this.#upTo === Infinity) this.#upTo = position;
  }

  /** Another connection: counts begin again. While the position is unknown it stays so. */
  reconnected(stream: string | null): void {
    const mark = this.#elsewhere.find((candidate) => candidate.stream === stream);
    if (mark) this.#upTo = mark.bytes;
    else if (this.#upTo !== Infinity) this.#upTo = 0;
    this.isPassed = false;
    this.#elsewhere = [];
  }
}
