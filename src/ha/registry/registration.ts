/**
 * A host's registration kept up in a store that may go away and come back: the newest view is told when it changes, and
 * the sign of life at intervals, one request at a time, tried on for ever. What a sign of life is, is the store's.
 */
import { Deferred } from '../../base/async.ts';
import type { HostView } from '../views.ts';
import { RegistryUnreachableError } from './registry.ts';

export interface RegistrationStore {
  /** Makes or renews everything: what is told, and the sign of life. */
  register(host: HostView): Promise<void>;
  /** Only what is told has changed. */
  tell(host: HostView): Promise<void>;
  /** False: the registration is gone and has to be made anew. */
  keepUp(): Promise<boolean>;
}

/** Pause after a try that failed. */
const RETRY_MS = 500;

export class Registration {
  readonly #store: RegistrationStore;
  readonly #everyMs: number;
  #wanted: HostView;
  /** As JSON, what the store has been told; null: nothing yet, or all has to be made anew. */
  #told: string | null = null;
  #isEnded = false;
  #wake = new Deferred<void>();
  #waiters: Deferred<void>[] = [];
  #ended: Promise<void>;

  constructor(store: RegistrationStore, everyMs: number, host: HostView) {
    this.#store = store;
    this.#everyMs = everyMs;
    this.#wanted = host;
    this.#ended = this.#run();
  }

  /** Resolves when the store has been told; rejects at the first try that fails, and the next will be made all the same. */
  async tell(host: HostView): Promise<void> {
    this.#wanted = host;
    const told = new Deferred<void>();
    this.#waiters.push(told);
    this.#wake.resolve();
    await told.promise;
  }

  /** Resolves when nothing is under way any more. */
  async end(): Promise<void> {
    this.#isEnded = true;
    this.#wake.resolve();
    await this.#ended;
  }

  async #run(): Promise<void> {
    // In the turn after, so that who made this has it in hand.
    await Promise.resolve();
    while (!this.#isEnded) {
      this.#wake = new Deferred();
      const waiters = this.#waiters;
      this.#waiters = [];
      let pauseMs = this.#everyMs;
      try {
        await this.#once();
        for (const waiter of waiters) waiter.resolve();
      } catch (error) {
        this.#told = null;
        pauseMs = RETRY_MS;
        for (const waiter of waiters) waiter.reject(error);
      }
      await sleepUntil(this.#wake.promise, pauseMs);
    }
    for (const waiter of this.#waiters) waiter.reject(new RegistryUnreachableError('registry: closed'));
  }

  async #once(): Promise<void> {
    const wanted = this.#wanted;
    const json = JSON.stringify(wanted);
    if (this.#told !== null && !(await this.#store.keepUp())) this.#told = null;
    if (this.#told === null) await this.#store.register(wanted);
    else if (this.#told !== json) await this.#store.tell(wanted);
    this.#told = json;
  }
}

async function sleepUntil(wake: Promise<void>, ms: number): Promise<void> {
  const over = new Deferred<void>();
  const timer = setTimeout(() => over.resolve(), ms).unref();
  void wake.then(() => over.resolve());
  await over.promise;
  clearTimeout(timer);
}
