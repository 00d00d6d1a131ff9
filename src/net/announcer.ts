/**
 * How often a machine that moved says where it is: `rounds` announcements, the first at once, the others after `initial`,
 * `initial + step`, `initial + 2 step` … milliseconds, none later than `max` after the one before (QEMU net/announce.c,
 * and asked of QEMU 7.2). Several series may be under way, each under its id; a new one takes the place of the one with
 * its id. What one announcement is, the caller says.
 */
import { ColoError } from '../base/errors.ts';

export interface AnnounceTimes {
  readonly initial: number;
  readonly max: number;
  readonly rounds: number;
  readonly step: number;
}

/** QEMU's defaults of the migration parameters. */
export const DEFAULT_ANNOUNCE_TIMES: AnnounceTimes = { initial: 50, max: 550, rounds: 5, step: 100 };

/** Of the migration parameters, as QEMU bounds them; milliseconds but for the rounds. */
export const ANNOUNCE_LIMITS: AnnounceTimes = { initial: 100_000, max: 100_000, rounds: 1000, step: 10_000 };

export const MAX_ANNOUNCE_SERIES = 64;

export class Announcer {
  readonly #send: (interfaces: readonly string[] | null) => void;
  readonly #series = new Map<string | null, NodeJS.Timeout>();

  /** `send` announces the NICs of these names, or all. */
  constructor(send: (interfaces: readonly string[] | null) => void) {
    this.#send = send;
  }

  /** Ids of the series that are under way; null is a migration's. */
  get underWay(): (string | null)[] {
    return [...this.#series.keys()];
  }

  /** The first one has been sent when this returns. Throws ColoError when there are too many series. */
  start(times: AnnounceTimes, id: string | null, interfaces: readonly string[] | null): void {
    this.#end(id);
    if (id !== null && this.#series.size >= MAX_ANNOUNCE_SERIES) {
      throw new ColoError(
        `${MAX_ANNOUNCE_SERIES} announcements are under way: wait for the end of one or give its id`,
      );
    }
    if (times.rounds > 0) this.#round(times, id, interfaces, 1);
  }

  /** Nothing more is sent. Idempotent. */
  close(): void {
    for (const id of this.underWay) this.#end(id);
  }

  #round(times: AnnounceTimes, id: string | null, interfaces: readonly string[] | null, round: number): void {
    this.#series.delete(id);
    if (round < times.rounds) {
      const wait = Math.min(times.initial + (round - 1) * times.step, times.max);
      const timer = setTimeout(() => this.#round(times, id, interfaces, round + 1), wait);
      this.#series.set(id, timer.unref());
    }
    this.#send(interfaces);
  }

  #end(id: string | null): void {
    clearTimeout(this.#series.get(id));
    this.#series.delete(id);
  }
}
