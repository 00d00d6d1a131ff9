/**
 * The events of all hosts as one stream, for a page that shows the cluster: first what each has kept, by time, then each
 * new one as it comes. A host that cannot be asked is asked again when it lives; what it told before is not told twice.
 */
import type { EventQuery } from '../api/service.ts';
import { abortAfter, Deferred } from '../base/async.ts';
import { messageOf } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import type { HaEvent } from '../ha/views.ts';

/** Hosts that are followed at a time; in a larger cluster these are the first by name, and always one's own. */
export const MAX_FOLLOWED_HOSTS = 32;
/** Events that a slow reader has not taken; the oldest are dropped beyond. */
export const MAX_UNREAD_EVENTS = 4096;
/** Of one host, at the beginning. */
export const MAX_OLD_EVENTS = 256;
/** For a host to tell what it has kept, milliseconds. */
const OLD_MS = 2_000;
/** Between two looks at which hosts there are. */
const LOOK_MS = 5_000;
const log = loggerFor('events');

export interface EventHost {
  readonly name: string;
  readonly events: (query: EventQuery) => AsyncIterable<HaEvent>;
}

/** Ends with `signal`. `hosts`: those that live, one's own first. */
export async function* allEvents(
  hosts: () => Promise<readonly EventHost[]>,
  signal: AbortSignal,
): AsyncGenerator<HaEvent> {
  const stream = new Merged(hosts, signal);
  try {
    yield* stream.read();
  } finally {
    stream.end();
  }
}

class Merged {
  readonly #hosts: () => Promise<readonly EventHost[]>;
  readonly #ended = new AbortController();
  readonly #signal: AbortSignal;
  readonly #following = new Set<string>();
  /** By host: the newest that has been told. */
  readonly #last = new Map<string, number>();
  #unread: HaEvent[] = [];
  #news = new Deferred<void>();

  constructor(hosts: () => Promise<readonly EventHost[]>, signal: AbortSignal) {
    this.#hosts = hosts;
    this.#signal = this.#ended.signal;
    const end = (): void => this.end();
    if (signal.aborted) end();
    signal.addEventListener('abort', end, { once: true });
    this.#signal.addEventListener('abort', () => signal.removeEventListener('abort', end), { once: true });
  }

  end(): void {
    this.#ended.abort();
    this.#news.resolve();
  }

  async *read(): AsyncGenerator<HaEvent> {
    this.#take(await this.#old());
    const looking = this.#look();
    looking.catch(() => undefined); // it ends with the signal only
    while (!this.#signal.aborted) {
      const news = (this.#news = new Deferred());
      const unread = this.#unread;
      this.#unread = [];
      for (const event of unread) yield event;
      if (unread.length === 0) await news.promise;
    }
  }

  /** By time. */
  async #old(): Promise<HaEvent[]> {
    const hosts = await this.#hosts().catch(() => []);
    const told = await Promise.all(hosts.slice(0, MAX_FOLLOWED_HOSTS).map((host) => this.#oldOf(host)));
    return told.flat().sort((one, other) => (one.time < other.time ? -1 : one.time > other.time ? 1 : 0));
  }

  async #oldOf({ name, events }: EventHost): Promise<HaEvent[]> {
    const deadline = abortAfter(OLD_MS, [this.#signal]);
    let kept: HaEvent[] = [];
    try {
      for await (const event of events({ follow: false, signal: deadline.signal })) {
        kept.push(event);
        this.#last.set(name, event.sequence);
        if (kept.length > 2 * MAX_OLD_EVENTS) kept = kept.slice(-MAX_OLD_EVENTS);
      }
    } catch (error) {
      log.debug({ host: name, reason: messageOf(error) }, 'a host does not tell its events');
    } finally {
      deadline.end();
    }
    return kept.slice(-MAX_OLD_EVENTS);
  }

  async #look(): Promise<void> {
    while (!this.#signal.aborted) {
      const hosts = await this.#hosts().catch(() => []);
      for (const host of hosts.slice(0, MAX_FOLLOWED_HOSTS)) {
        if (!this.#following.has(host.name)) void this.#follow(host);
      }
      const pause = abortAfter(LOOK_MS, [this.#signal]);
      await new Promise<void>((resolve) => {
        if (pause.signal.aborted) resolve();
        pause.signal.addEventListener('abort', () => resolve(), { once: true });
      });
      pause.end();
    }
  }

  /** Never rejects. */
  async #follow({ name, events }: EventHost): Promise<void> {
    this.#following.add(name);
    const after = this.#last.get(name);
    try {
      for await (const event of events({
        ...{ follow: true, signal: this.#signal },
        ...(after === undefined ? {} : { after }),
      })) {
        if (this.#signal.aborted) return;
        this.#last.set(name, event.sequence);
        this.#take([event]);
      }
    } catch (error) {
      log.debug({ host: name, reason: messageOf(error) }, 'a host’s events have come to an end');
    } finally {
      this.#following.delete(name);
    }
  }

  #take(events: readonly HaEvent[]): void {
    this.#unread.push(...events);
    if (this.#unread.length > MAX_UNREAD_EVENTS) this.#unread = this.#unread.slice(-MAX_UNREAD_EVENTS);
    this.#news.resolve();
  }
}
