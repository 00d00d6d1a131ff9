/**
 * Time in which this process ran. A process that was stopped (SIGSTOP, a frozen host, a long collection of garbage) has
 * heard nobody meanwhile, and may blame nobody for that: silence is measured by this clock, which stands still with it.
 * Whoever owns it calls `look` often; a gap between two looks counts for one step at most.
 */
export class AwakeClock {
  readonly #now: () => number;
  readonly #stepMs: number;
  #lastLook: number;
  #awakeMs = 0;

  /** `now`: monotonic milliseconds. `stepMs`: the longest gap between two looks in which nothing can have stood still. */
  constructor(now: () => number, stepMs: number) {
    this.#now = now;
    this.#stepMs = stepMs;
    this.#lastLook = now();
  }

  /** Milliseconds, of no meaning but their difference. */
  now(): number {
    return this.#awakeMs + Math.min(this.#now() - this.#lastLook, this.#stepMs);
  }

  /** Returns how long the process stood still since the last look, 0 if it did not. */
  look(): number {
    const now = this.#now();
    const gap = now - this.#lastLook;
    this.#lastLook = now;
    this.#awakeMs += Math.min(gap, this.#stepMs);
    return gap > this.#stepMs ? gap : 0;
  }
}
