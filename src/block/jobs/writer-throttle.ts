/** Slows a guest down that writes faster than a job's target takes: each of its writes waits, but never for long. */

const MAX_THROTTLE_MS = 1000;

export interface ThrottleOptions {
  /** The target is too far behind. */
  readonly isDue: () => boolean;
  /** Resolves at the next change that `isDue` may depend on. */
  readonly changed: () => Promise<void>;
  /** Makes `changed` resolve. */
  readonly wake: () => void;
}

export class WriterThrottle {
  readonly #options: ThrottleOptions;

  constructor(options: ThrottleOptions) {
    this.#options = options;
  }

  /** To be called before a write; without a promise when there is no need to wait. */
  pass(): Promise<void> | void {
    if (this.#options.isDue()) return this.#slowDown();
  }

  async #slowDown(): Promise<void> {
    const { isDue, changed, wake } = this.#options;
    const until = performance.now() + MAX_THROTTLE_MS;
    const timer = setTimeout(wake, MAX_THROTTLE_MS + 1);
    do await changed();
    while (isDue() && performance.now() < until);
    clearTimeout(timer);
  }
}
