/**
 * Locks on ranges of guest clusters: readers and in-place writers share, whoever changes the mapping is alone. First
 * come, first served among those that overlap, so nobody starves. The lists are short (requests in flight), so a
 * linear scan is the fast way.
 */

export interface HeldRange {
  readonly first: number;
  /** Inclusive. */
  readonly last: number;
  readonly exclusive: boolean;
}

interface Waiter {
  readonly range: HeldRange;
  readonly grant: (range: HeldRange) => void;
}

export class RangeLock {
  readonly #held = new Set<HeldRange>();
  #waiting: Waiter[] = [];

  /** The range at once when nothing is in the way, else null: then `acquire`. */
  tryAcquire(first: number, last: number, exclusive: boolean): HeldRange | null {
    const range: HeldRange = { first, last, exclusive };
    for (const other of this.#held) if (conflicts(range, other)) return null;
    for (const { range: other } of this.#waiting) if (conflicts(range, other)) return null;
    this.#held.add(range);
    return range;
  }

  acquire(first: number, last: number, exclusive: boolean): Promise<HeldRange> {
    const range = this.tryAcquire(first, last, exclusive);
    if (range) return Promise.resolve(range);
    return new Promise((grant) => this.#waiting.push({ range: { first, last, exclusive }, grant }));
  }

  release(range: HeldRange): void {
    this.#held.delete(range);
    if (this.#waiting.length === 0) return;
    const still: Waiter[] = [];
    for (const waiter of this.#waiting) {
      const blocked =
        [...this.#held].some((other) => conflicts(waiter.range, other)) ||
        still.some((other) => conflicts(waiter.range, other.range));
      if (blocked) {
        still.push(waiter);
        continue;
      }
      this.#held.add(waiter.range);
      waiter.grant(waiter.range);
    }
    this.#waiting = still;
  }
}

function conflicts(a: HeldRange, b: HeldRange): boolean {
  return (a.exclusive || b.exclusive) && a.first <= b.last && b.first <= a.last;
}
