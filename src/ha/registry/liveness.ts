/** Which hosts live, as one reader sees it: by changes of what they write, timed by the reader's own monotonic clock. */

interface Seen {
  text: string;
  changedMs: number;
}

export class Liveness {
  readonly #silentMs: number;
  readonly #seen = new Map<string, Seen>();
  #lookedMs: number | null = null;

  /** A host whose text has not changed for so long is not alive. */
  constructor(silentMs: number) {
    this.#silentMs = silentMs;
  }

  /** What stands there now, of all hosts. One that is new to the reader counts as alive: it has not been seen silent. */
  look(texts: Readonly<Record<string, string>>, nowMs: number): void {
    // Nobody looked for so long: nor may they have been able to write.
    const isNewStart = this.#lookedMs === null || nowMs - this.#lookedMs > this.#silentMs;
    this.#lookedMs = nowMs;
    for (const [name, text] of Object.entries(texts)) {
      const seen = this.#seen.get(name);
      if (!seen) this.#seen.set(name, { text, changedMs: nowMs });
      else if (seen.text !== text || isNewStart) {
        seen.text = text;
        seen.changedMs = nowMs;
      }
    }
    for (const name of this.#seen.keys()) if (!Object.hasOwn(texts, name)) this.#seen.delete(name);
  }

  isAlive(name: string, nowMs: number): boolean {
    const seen = this.#seen.get(name);
    return seen !== undefined && nowMs - seen.changedMs <= this.#silentMs;
  }
}
