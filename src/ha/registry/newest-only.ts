/**
 * Calls about one thing, one at a time and in order, where only the newest matters: what waits is replaced by what comes
 * after it, and has that one's result.
 */
interface Busy<T, R> {
  readonly now: Promise<R>;
  next: { value: T; readonly result: Promise<R> } | null;
}

export class NewestOnly<T, R> {
  readonly #run: (value: T) => Promise<R>;
  readonly #busy = new Map<string, Busy<T, R>>();

  constructor(run: (value: T) => Promise<R>) {
    this.#run = run;
  }

  call(name: string, value: T): Promise<R> {
    const busy = this.#busy.get(name);
    if (!busy) return this.#begin(name, value);
    if (busy.next) {
      busy.next.value = value;
      return busy.next.result;
    }
    const begin = (): Promise<R> => this.#begin(name, busy.next?.value ?? value);
    const result = busy.now.then(begin, begin);
    busy.next = { value, result };
    return result;
  }

  #begin(name: string, value: T): Promise<R> {
    const now = this.#run(value);
    const mine: Busy<T, R> = { now, next: null };
    this.#busy.set(name, mine);
    const end = (): void => {
      if (!mine.next) this.#busy.delete(name);
    };
    now.then(end, end);
    return now;
  }
}
