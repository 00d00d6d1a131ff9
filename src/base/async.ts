/**
 * Small pieces for asynchronous code: a promise resolved from outside, a deadline, a mutex, a latch.
 * Deadlines use the monotonic clock of Node's timers. Nothing here knows what it is used for.
 */
import { ClosedError, TimeoutError } from './errors.ts';

/**
 * What an operation returns that ended well before it returned: whoever tells this promise from others by identity need
 * not wait for a turn of the event loop.
 */
export const ENDED: Promise<void> = Promise.resolve();

/** A promise with its two ends outside. */
export class Deferred<T> {
  readonly promise: Promise<T>;
  resolve!: (value: T) => void;
  reject!: (reason: unknown) => void;
  /** True once either end was used. */
  settled = false;

  constructor() {
    this.promise = new Promise<T>((resolve, reject) => {
      this.resolve = (value) => {
        this.settled = true;
        resolve(value);
      };
      this.reject = (reason: unknown) => {
        this.settled = true;
        // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- the reason is passed through
        reject(reason);
      };
    });
    // A deferred that nobody waits on any more must not end the process.
    this.promise.catch(() => undefined);
  }
}

/**
 * `promise`, or a TimeoutError after `ms` milliseconds, or `signal`'s abort. The work behind `promise` goes on; the
 * caller cancels it if it can.
 */
export async function withDeadline<T>(
  promise: Promise<T>,
  ms: number,
  what: string,
  signal?: AbortSignal,
): Promise<T> {
  const out = new Deferred<T>();
  const timer = setTimeout(() => out.reject(new TimeoutError(`${what}: no answer within ${ms} ms`)), ms);
  const onAbort = (): void => out.reject(new ClosedError(`${what}: broken off`, { cause: signal?.reason }));
  if (signal?.aborted) onAbort();
  signal?.addEventListener('abort', onAbort, { once: true });
  promise.then(out.resolve, out.reject);
  try {
    return await out.promise;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  }
}

/** Runs one asynchronous section at a time, in order of arrival. */
export class Mutex {
  #tail: Promise<void> = Promise.resolve();

  async run<T>(section: () => Promise<T>): Promise<T> {
    const before = this.#tail;
    const done = new Deferred<void>();
    this.#tail = done.promise;
    await before;
    try {
      return await section();
    } finally {
      done.resolve();
    }
  }
}

/** Counts what is in flight; `idle()` resolves when nothing is. */
export class InFlight {
  #count = 0;
  #waiters: (() => void)[] = [];

  get count(): number {
    return this.#count;
  }

  enter(): void {
    this.#count++;
  }

  leave(): void {
    this.#count--;
    if (this.#count === 0 && this.#waiters.length > 0) {
      const waiters = this.#waiters;
      this.#waiters = [];
      for (const wake of waiters) wake();
    }
  }

  idle(): Promise<void> {
    if (this.#count === 0) return Promise.resolve();
    return new Promise((resolve) => this.#waiters.push(resolve));
  }
}

/** A gate that requests wait at while it is closed. */
export class Gate {
  #closed: Deferred<void> | null = null;

  get isOpen(): boolean {
    return this.#closed === null;
  }

  close(): void {
    this.#closed ??= new Deferred<void>();
  }

  open(): void {
    const closed = this.#closed;
    this.#closed = null;
    closed?.resolve();
  }

  /** Resolves at once while open, else when it opens. */
  async pass(): Promise<void> {
    while (this.#closed) await this.#closed.promise;
  }
}

/**
 * A signal that is aborted after `ms` milliseconds or with any of `signals`; `end` when it is no longer needed. In place of
 * AbortSignal.any() over AbortSignal.timeout(): of that, Node 20's garbage collector may take the timer before it has fired,
 * and then there is no deadline.
 */
export function abortAfter(
  ms: number,
  signals: readonly AbortSignal[],
): { readonly signal: AbortSignal; end(): void } {
  const controller = new AbortController();
  const abort = (): void => controller.abort();
  const timer = ms === Infinity ? null : setTimeout(abort, Math.ceil(ms));
  for (const signal of signals) {
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort, { once: true });
  }
  return {
    signal: controller.signal,
    end: () => {
      if (timer) clearTimeout(timer);
      for (const signal of signals) signal.removeEventListener('abort', abort);
    },
  };
}
