/** Watches are hints: many changes at once are told once, and now and then it is told that there may have been one. */

/** So soon after a change. */
const GATHER_MS = 20;

export class HintTimer {
  readonly #tell: () => void;
  readonly #anyway: NodeJS.Timeout;
  #soon: NodeJS.Timeout | null = null;

  constructor(tell: () => void, anywayMs: number) {
    this.#tell = tell;
    this.#anyway = setInterval(() => this.hint(), anywayMs).unref();
  }

  hint(): void {
    this.#soon ??= setTimeout(() => {
      this.#soon = null;
      this.#tell();
    }, GATHER_MS).unref();
  }

  end(): void {
    clearInterval(this.#anyway);
    if (this.#soon) clearTimeout(this.#soon);
    this.#soon = null;
  }
}
