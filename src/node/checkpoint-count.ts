/** How a primary's checkpoints go, asked of its monitor now and then, for people. */
import type { CheckpointView, RunningVm } from '../ha/index.ts';
import { QmpCommandError } from '../qmp/client.ts';

/** A monitor that does not answer is the heartbeat's business, not this one's. */
const ANSWER_MS = 2_000;

export class CheckpointCount {
  readonly #now: () => number;
  #view: CheckpointView | undefined;
  #lookedAt = 0;
  /** A process of an earlier version gives all its records or none. */
  #takesAfter = true;

  /** `now`: monotonic milliseconds. */
  constructor(now: () => number) {
    this.#now = now;
  }

  /** As of the last look. */
  get view(): CheckpointView | undefined {
    return this.#view;
  }

  /** Never rejects. */
  async look(qmp: Pick<RunningVm['qmp'], 'execute'>): Promise<void> {
    try {
      // No more than the last one, of up to a thousand.
      const args = this.#takesAfter && this.#view ? { after: Math.max(0, this.#view.count - 1) } : {};
      const said = (await qmp.execute('query-colo-checkpoints', args, { timeoutMs: ANSWER_MS })) as {
        readonly count: number;
        readonly 'by-cause'?: Readonly<Record<string, number>>;
        readonly records: readonly { readonly pauseMs: number }[];
      };
      this.#take(said.count, said['by-cause'] ?? {}, said.records.at(-1)?.pauseMs ?? null);
    } catch (error) {
      // As of the last look, then.
      if (error instanceof QmpCommandError) this.#takesAfter = false;
    }
  }

  #take(count: number, byCause: Readonly<Record<string, number>>, lastPauseMs: number | null): void {
    const now = this.#now();
    const before = this.#view;
    // A process that took over counts from none.
    const more = before && count >= before.count ? count - before.count : count;
    const seconds = (now - this.#lookedAt) / 1000;
    this.#lookedAt = now;
    this.#view = {
      count,
      perSecond: before && seconds > 0 ? Math.round((more / seconds) * 100) / 100 : 0,
      byCause,
      lastPauseMs,
      lastAtMs: more > 0 ? Date.now() : (before?.lastAtMs ?? null),
    };
  }
}
