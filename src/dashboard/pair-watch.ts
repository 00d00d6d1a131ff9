/** One VM that somebody watches: its numbers are asked for once, however many watch it. */
import { CheckpointLog } from './checkpoint-log.ts';
import { emptyPicture, PairNumbers } from './pair-numbers.ts';
import type { CheckpointSample, PairPicture } from './protocol.ts';
import { isOver, pause, Questions } from './questions.ts';
import type { AskPrimary, DashboardSource } from './source.ts';
import { encode } from './wire.ts';
import type { Watcher } from './watcher.ts';

/** Between two looks. */
export const PAIR_MS = 500;
/** How long the monitor that was found is taken for the primary's, while it says that it is. */
const SAME_PRIMARY_MS = 5_000;

export class PairWatch {
  readonly vm: string;
  readonly #source: DashboardSource;
  readonly #watchers = new Set<Watcher>();
  readonly #stop = new AbortController();
  readonly #questions: Questions;
  readonly #numbers: PairNumbers;
  readonly #checkpoints: CheckpointLog;
  #ask: AskPrimary | null = null;
  #askedMs = 0;
  #isFirst = true;
  #picture: Buffer;
  /** What of the picture a reader would see. */
  #seen = '';

  constructor(vm: string, source: DashboardSource) {
    this.vm = vm;
    this.#source = source;
    this.#questions = new Questions(`the primary of '${vm}'`);
    this.#numbers = new PairNumbers(vm);
    this.#checkpoints = new CheckpointLog();
    this.#picture = encode({ type: 'pair', pair: emptyPicture(vm, Date.now()) });
    void this.#run();
  }

  get isWatched(): boolean {
    return this.#watchers.size > 0;
  }

  add(watcher: Watcher): void {
    this.#watchers.add(watcher);
    // The first look is on its way: it goes to all.
    if (this.#isFirst) return;
    watcher.tell(
      encode({ type: 'checkpoints', vm: this.vm, isAll: true, samples: this.#checkpoints.samples }),
    );
    watcher.picture('pair', this.#picture);
  }

  remove(watcher: Watcher): void {
    this.#watchers.delete(watcher);
    watcher.forget('pair');
  }

  stop(): void {
    this.#stop.abort();
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      const began = performance.now();
      try {
        await this.#look(signal);
      } catch {
        // There is no primary to be asked, or no more: the list of VMs says what is the matter with it.
        this.#ask = null;
        this.#numbers.forget();
        if (!isOver(signal)) this.#show(emptyPicture(this.vm, Date.now()), []);
      }
      await pause(Math.max(0, PAIR_MS - (performance.now() - began)), signal);
    }
  }

  async #look(signal: AbortSignal): Promise<void> {
    if (this.#ask === null || performance.now() - this.#askedMs > SAME_PRIMARY_MS) {
      this.#ask = await this.#questions.ask(() => this.#source.primary(this.vm), signal);
      this.#askedMs = performance.now();
    }
    const ask = this.#ask;
    const [news, picture] = await this.#questions.ask(async () => {
      const news = await this.#checkpoints.look(ask);
      return [news, await this.#numbers.look(ask, this.#checkpoints.count)] as const;
    }, signal);
    if (signal.aborted) return;
    if (!this.#numbers.isPrimary) this.#ask = null;
    this.#show(picture, news);
  }

  /** `news`: checkpoints that are new, or null: all that are kept, the old ones are of another primary. */
  #show(picture: PairPicture, news: readonly CheckpointSample[] | null): void {
    const isAll = this.#isFirst || news === null;
    this.#isFirst = false;
    const samples = isAll ? this.#checkpoints.samples : news;
    if (isAll || samples.length > 0) {
      const message = encode({ type: 'checkpoints', vm: this.vm, isAll, samples });
      for (const watcher of this.#watchers) watcher.tell(message);
    }
    const seen = visibleOf(picture);
    if (seen === this.#seen) return;
    this.#seen = seen;
    this.#picture = encode({ type: 'pair', pair: picture });
    for (const watcher of this.#watchers) watcher.picture('pair', this.#picture);
  }
}

/** Time alone is no change, and neither are the beats between which a peer is always silent. */
function visibleOf(picture: PairPicture): string {
  const { channel } = picture;
  const silentMs = channel?.silentMs ?? null;
  const shown = silentMs === null ? null : Math.floor(silentMs / PAIR_MS);
  return JSON.stringify({ ...picture, atMs: 0, channel: channel && { ...channel, silentMs: shown } });
}
