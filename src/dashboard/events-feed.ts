/** The events, followed once for all watchers: a bounded tail for those that come, and each new one for those that are there. */
import { ClosedError } from '../base/errors.ts';
import type { HaEvent } from '../ha/views.ts';
import { isOver, pause } from './questions.ts';
import type { DashboardSource } from './source.ts';

/** The newest, for a new watcher. */
export const KEPT_EVENTS = 256;
/** Events that come at once are told together. */
const GATHER_MS = 20;
const RETRY_MS = 1_000;
/** A stream that has been open for so long is one, though nothing came on it. */
const SETTLED_MS = 2_000;

export interface EventHooks {
  onEvents(events: readonly HaEvent[]): void;
  /** Null: it goes again. */
  onTrouble(error: unknown): void;
}

export class EventsFeed {
  readonly #source: DashboardSource;
  readonly #hooks: EventHooks;
  readonly #signal: AbortSignal;
  #tail: HaEvent[] = [];
  /** Of the tail, those that have not been told. */
  #untold = 0;
  #last: number | undefined;
  #timer: NodeJS.Timeout | null = null;

  /** Goes on until `signal`. */
  constructor(source: DashboardSource, hooks: EventHooks, signal: AbortSignal) {
    this.#source = source;
    this.#hooks = hooks;
    this.#signal = signal;
    void this.#run();
  }

  /** What a new watcher has to be told: the rest comes to all. */
  get told(): readonly HaEvent[] {
    return this.#tail.slice(0, this.#tail.length - this.#untold);
  }

  async #run(): Promise<void> {
    const signal = this.#signal;
    const aborted = new Promise<null>((resolve) => {
      signal.addEventListener('abort', () => resolve(null), { once: true });
    });
    while (!signal.aborted) {
      const settled = setTimeout(() => this.#hooks.onTrouble(null), SETTLED_MS);
      try {
        await this.#follow(aborted);
        if (!isOver(signal)) throw new ClosedError('the events have come to an end');
      } catch (error) {
        if (!isOver(signal)) this.#hooks.onTrouble(error);
      } finally {
        clearTimeout(settled);
      }
      await pause(RETRY_MS, signal);
    }
    if (this.#timer) clearTimeout(this.#timer);
  }

  /** A stream that does not heed the signal is left to itself. */
  async #follow(aborted: Promise<null>): Promise<void> {
    const after = this.#last === undefined ? {} : { after: this.#last };
    const events = this.#source.events({ follow: true, signal: this.#signal, ...after });
    const reading = (async () => {
      for await (const event of events) {
        if (this.#signal.aborted) return;
        this.#take(event);
      }
    })();
    reading.catch(() => undefined);
    await Promise.race([reading, aborted]);
  }

  #take(event: HaEvent): void {
    this.#last = event.sequence;
    this.#tail.push(event);
    this.#untold++;
    if (this.#tail.length > 2 * KEPT_EVENTS) this.#tail = this.#tail.slice(-KEPT_EVENTS);
    this.#untold = Math.min(this.#untold, this.#tail.length);
    this.#timer ??= setTimeout(() => this.#tell(), GATHER_MS);
  }

  #tell(): void {
    this.#timer = null;
    if (this.#signal.aborted) return;
    this.#tail = this.#tail.slice(-KEPT_EVENTS);
    const untold = this.#tail.slice(-Math.min(this.#untold, this.#tail.length));
    this.#untold = 0;
    this.#hooks.onEvents(untold);
  }
}
