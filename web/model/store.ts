/** Holds the one state and tells who asked to be told. */
import { reduce } from './reduce.ts';
import { EMPTY } from './state.ts';
import type { Input, PageState } from './state.ts';

export class Store {
  #state: PageState;
  readonly #now: () => number;
  readonly #listeners = new Set<(state: PageState, before: PageState) => void>();

  constructor(now: () => number, first: PageState = EMPTY) {
    this.#now = now;
    this.#state = first;
  }

  get state(): PageState {
    return this.#state;
  }

  /** The server's clock, as well as it is known. */
  serverNow(): number {
    return this.#now() + this.#state.skewMs;
  }

  dispatch(input: Input): void {
    const before = this.#state;
    this.#state = reduce(before, input, this.#now());
    if (this.#state === before) return;
    for (const listener of this.#listeners) listener(this.#state, before);
  }

  subscribe(listener: (state: PageState, before: PageState) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
