/**
 * A bandwidth limit in slices of 100 ms, as block jobs have it: spend what you used, then wait until the debt is paid.
 * A new speed takes effect at once, also for those who wait.
 */
import { Deferred } from '../../base/async.ts';

export class RateLimit {
  #speed: number;
  /** Monotonic time (ms) until which the bytes spent so far have to last. */
  #paidUntil = 0;
  #waiting: Deferred<void> | null = null;
  readonly #now: () => number;

  /** `speed`: bytes a second; 0 means no limit. `now`: monotonic milliseconds. */
  constructor(speed: number, now: () => number = () => performance.now()) {
    this.#speed = speed;
    this.#now = now;
  }

  get speed(): number {
    return this.#speed;
  }

  setSpeed(speed: number): void {
    this.#speed = speed;
    this.#paidUntil = 0;
    const waiting = this.#waiting;
    this.#waiting = null;
    waiting?.resolve();
  }

  /** Accounts for `bytes` that are about to be moved. */
  spend(bytes: number): void {
    if (this.#speed === 0) return;
    this.#paidUntil = Math.max(this.#paidUntil, this.#now()) + (bytes * 1000) / this.#speed;
  }

  /** True when the next piece may be moved. */
  get free(): boolean {
    return this.#speed === 0 || this.#paidUntil - this.#now() <= SLICE_MS;
  }

  /** Resolves when the next piece may be moved, or at `signal`'s abort. */
  async wait(signal: AbortSignal): Promise<void> {
    while (!this.free && !signal.aborted) {
      this.#waiting ??= new Deferred<void>();
      const waiting = this.#waiting;
      const wake = (): void => waiting.resolve();
      const timer = setTimeout(wake, Math.max(1, this.#paidUntil - this.#now() - SLICE_MS));
      signal.addEventListener('abort', wake, { once: true });
      await waiting.promise;
      clearTimeout(timer);
      signal.removeEventListener('abort', wake);
      if (this.#waiting === waiting) this.#waiting = null;
    }
  }
}

/** How far ahead of the limit a job may run. */
const SLICE_MS = 100;
