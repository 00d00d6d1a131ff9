/**
 * What all pages see, asked for once for all of them and only while there are any: the cluster every second, the VMs that
 * are watched every half second (pair-watch.ts), the events as they come (events-feed.ts). What has not changed is not sent
 * again. A source that fails or hangs is told of, and asked again.
 */
import type { HaEvent } from '../ha/views.ts';
import { EventsFeed } from './events-feed.ts';
import { PairWatch } from './pair-watch.ts';
import { ANSWER_MS, Bell, isOver, pause, Questions, toldOf } from './questions.ts';
import type { DashboardSource } from './source.ts';
import { encode } from './wire.ts';
import type { Watcher } from './watcher.ts';

/** Between two looks at the cluster. */
export const CLUSTER_MS = 1_000;
/** When something has happened it is looked at once, but not more often than this. */
export const SOON_MS = 100;
/** VMs that are watched at a time. */
export const MAX_WATCHED_VMS = 16;

/** From the first watcher's coming to the last one's leaving. */
interface Session {
  readonly stop: AbortController;
  readonly events: EventsFeed;
  cluster: Buffer | null;
}

export class Feed {
  readonly #source: DashboardSource;
  /** By VM. */
  readonly #pairs = new Map<string, PairWatch>();
  readonly #watchers = new Map<Watcher, PairWatch | null>();
  readonly #questions: Questions;
  readonly #bell = new Bell();
  #session: Session | null = null;
  #clusterTrouble: string | null = null;
  #eventsTrouble: string | null = null;
  #told: string | null = null;

  constructor(source: DashboardSource, answerMs = ANSWER_MS) {
    this.#source = source;
    this.#questions = new Questions('the cluster', answerMs);
  }

  add(watcher: Watcher): void {
    this.#watchers.set(watcher, null);
    const { cluster, events } = (this.#session ??= this.#begin());
    if (this.#told !== null) watcher.picture('trouble', encode({ type: 'trouble', message: this.#told }));
    if (cluster) watcher.picture('cluster', cluster);
    if (events.told.length > 0) watcher.tell(encode({ type: 'events', events: events.told }));
  }

  remove(watcher: Watcher): void {
    this.#unwatch(watcher);
    this.#watchers.delete(watcher);
    if (this.#watchers.size === 0) this.close();
  }

  watch(watcher: Watcher, vm: string | null): void {
    if (!this.#watchers.has(watcher) || this.#watchers.get(watcher)?.vm === vm) return;
    this.#unwatch(watcher);
    if (vm === null) return;
    let pair = this.#pairs.get(vm);
    if (!pair) {
      if (this.#pairs.size >= MAX_WATCHED_VMS) {
        const message = `${MAX_WATCHED_VMS} VMs are watched on other pages already: '${vm}' cannot be shown as well`;
        watcher.picture('trouble', encode({ type: 'trouble', message }));
        return;
      }
      pair = new PairWatch(vm, this.#source);
      this.#pairs.set(vm, pair);
    }
    pair.add(watcher);
    this.#watchers.set(watcher, pair);
  }

  /** Nothing is asked any more. */
  close(): void {
    for (const pair of this.#pairs.values()) pair.stop();
    this.#pairs.clear();
    this.#session?.stop.abort();
    this.#session = null;
    this.#clusterTrouble = this.#eventsTrouble = this.#told = null;
  }

  #unwatch(watcher: Watcher): void {
    const pair = this.#watchers.get(watcher);
    if (!pair) return;
    this.#watchers.set(watcher, null);
    pair.remove(watcher);
    if (pair.isWatched) return;
    pair.stop();
    this.#pairs.delete(pair.vm);
  }

  #begin(): Session {
    const stop = new AbortController();
    const hooks = {
      onEvents: (events: readonly HaEvent[]) => {
        this.#eventsTrouble = null;
        this.#tellTrouble();
        const message = encode({ type: 'events', events });
        for (const watcher of this.#watchers.keys()) watcher.tell(message);
        // Whatever it was, the lists will show it.
        this.#bell.ring();
      },
      onTrouble: (error: unknown) => {
        this.#eventsTrouble = error === null ? null : `events: ${toldOf(error)}`;
        this.#tellTrouble();
      },
    };
    const session = { stop, events: new EventsFeed(this.#source, hooks, stop.signal), cluster: null };
    void this.#follow(session);
    return session;
  }

  async #follow(session: Session): Promise<void> {
    const { signal } = session.stop;
    while (!signal.aborted) {
      const began = performance.now();
      try {
        const message = await this.#questions.ask(async () => {
          const [hosts, vms] = await Promise.all([this.#source.hosts(), this.#source.vms()]);
          return encode({ type: 'cluster', hosts, vms });
        }, signal);
        if (isOver(signal)) return;
        this.#clusterTrouble = null;
        this.#tellTrouble();
        if (!session.cluster?.equals(message)) {
          session.cluster = message;
          for (const watcher of this.#watchers.keys()) watcher.picture('cluster', message);
        }
      } catch (error) {
        if (isOver(signal)) return;
        this.#clusterTrouble = toldOf(error);
        this.#tellTrouble();
      }
      await pause(SOON_MS, signal);
      await this.#bell.pause(Math.max(0, CLUSTER_MS - (performance.now() - began)), signal);
    }
  }

  #tellTrouble(): void {
    const trouble = this.#clusterTrouble ?? this.#eventsTrouble;
    if (trouble === this.#told) return;
    this.#told = trouble;
    const message = encode({ type: 'trouble', message: trouble });
    for (const watcher of this.#watchers.keys()) watcher.picture('trouble', message);
  }
}
