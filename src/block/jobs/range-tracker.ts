/**
 * The requests that are in flight on something, by byte range, so that another activity can wait for exactly those
 * that overlap its own range and had begun before it asked. Nobody is kept from beginning: a waiter waits for a
 * snapshot, so it ends even under an unbroken stream of new requests.
 */
import { Deferred } from '../../base/async.ts';

/** One request in flight; given back to `leave`. */
export interface RangeToken {
  readonly offset: number;
  readonly end: number;
  done: Deferred<void> | null;
}

export class RangeTracker {
  readonly #tokens = new Set<RangeToken>();

  get count(): number {
    return this.#tokens.size;
  }

  enter(offset: number, length: number): RangeToken {
    const token: RangeToken = { offset, end: offset + length, done: null };
    this.#tokens.add(token);
    return token;
  }

  leave(token: RangeToken): void {
    if (this.#tokens.delete(token)) token.done?.resolve();
  }

  /** Leaves one request of exactly this range (the oldest); false when there is none. */
  leaveRange(offset: number, length: number): boolean {
    for (const token of this.#tokens) {
      if (token.offset !== offset || token.end !== offset + length) continue;
      this.leave(token);
      return true;
    }
    return false;
  }

  /** Resolves when all requests that overlap [offset, offset+length) and are in flight now have ended. */
  async settled(offset: number, length: number): Promise<void> {
    const waits: Promise<void>[] = [];
    for (const token of this.#tokens) {
      if (token.offset < offset + length && offset < token.end) waits.push(this.#end(token));
    }
    if (waits.length > 0) await Promise.all(waits);
  }

  /** Resolves when all requests that are in flight now have ended. */
  async idle(): Promise<void> {
    await Promise.all([...this.#tokens].map((token) => this.#end(token)));
  }

  #end(token: RangeToken): Promise<void> {
    token.done ??= new Deferred<void>();
    return token.done.promise;
  }
}
