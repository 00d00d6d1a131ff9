/**
 * Waits between tries that double up to a bound and begin anew after a success. Monotonic; random by up to a quarter, so
 * that hosts which failed together do not try together.
 */
export interface BackOffTimes {
  readonly firstMs: number;
  readonly longestMs: number;
}

export class BackOff {
  readonly #times: BackOffTimes;
  readonly #random: () => number;
  #failures = 0;

  constructor(times: BackOffTimes, random: () => number = Math.random) {
    this.#times = times;
    this.#random = random;
  }

  get failures(): number {
    return this.#failures;
  }

  /** How long to wait after one more failure, milliseconds. */
  next(): number {
    const { firstMs, longestMs } = this.#times;
    const waitMs = Math.min(longestMs, firstMs * 2 ** Math.min(this.#failures, 30));
    this.#failures++;
    return Math.round(waitMs * (1 - this.#random() / 4));
  }

  reset(): void {
    this.#failures = 0;
  }
}
