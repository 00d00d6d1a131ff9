/**
 * The numbers on the arrows of the picture, out of what the primary's monitor counts (docs/qmp.md): two looks make a rate.
 * What a monitor does not tell, as an older one or QEMU's own, is null. Several NICs or disks are one arrow: their counts
 * are added up, and of waiting times the slowest comparer's are shown.
 */
import { CommandNotFoundError } from '../base/errors.ts';
import type { Flow, PairPicture } from './protocol.ts';
import { listOf, membersOf, numberIn, sumOf, within, type Members } from './replies.ts';
import type { AskPrimary } from './source.ts';

/** Checkpoints are rare: they are counted over so many looks. */
const CHANNEL_LOOKS = 20;

/** All counts at one moment. */
interface Look {
  readonly atMs: number;
  readonly mirror: Counts;
  readonly primaryOut: Counts;
  readonly secondaryOut: Counts;
  readonly released: Counts;
  readonly replication: Counts;
  /** `frames`: checkpoints. */
  readonly channel: Counts;
}
interface Counts {
  readonly frames: number | null;
  readonly bytes: number | null;
}

export function emptyPicture(vm: string, atMs: number): PairPicture {
  return {
    ...{ vm, atMs, mirror: null, primaryOut: null, secondaryOut: null, released: null },
    ...{ held: null, replication: null, channel: null },
  };
}

export class PairNumbers {
  readonly #vm: string;
  readonly #now: () => number;
  /** Oldest first. */
  #looks: Look[] = [];
  #unknown = new Set<string>();
  /** It says that it is one side of a pair, and the primary. */
  isPrimary = false;

  constructor(vm: string, now: () => number = () => performance.now()) {
    this.#vm = vm;
    this.#now = now;
  }

  /** Another process is asked next: its counts have nothing to do with these. */
  forget(): void {
    this.#looks = [];
    this.#unknown = new Set();
    this.isPrimary = false;
  }

  /** `checkpoints`: how many there have been, if that is known. Throws what asking throws. */
  async look(ask: AskPrimary, checkpoints: number | null): Promise<PairPicture> {
    const [status, comparers, traffic] = await Promise.all([
      this.#ask(ask, 'query-colo-status'),
      this.#ask(ask, 'query-colo-compare'),
      this.#ask(ask, 'query-colo-traffic'),
    ]);
    this.isPrimary = membersOf(status)['mode'] === 'primary';
    const all = listOf(comparers);
    const now = lookAt(this.#now(), all, membersOf(traffic), checkpoints);
    const before = this.#looks.at(-1) ?? null;
    // Another process, or another pair's objects: the counts began anew.
    if (before && hasRestarted(before, now)) this.#looks = [];
    const last = this.#looks.at(-1) ?? null;
    const first = this.#looks[0] ?? null;
    this.#looks.push(now);
    if (this.#looks.length > CHANNEL_LOOKS) this.#looks.shift();
    return {
      vm: this.#vm,
      atMs: Date.now(),
      mirror: flow(last, now, 'mirror'),
      primaryOut: flow(last, now, 'primaryOut'),
      secondaryOut: flow(last, now, 'secondaryOut'),
      released: flow(last, now, 'released'),
      held: heldOf(all),
      replication: replicationOf(last, now, listOf(membersOf(traffic)['replication'])),
      channel: this.isPrimary ? channelOf(first, now, within(status, 'x-heartbeat')) : null,
    };
  }

  /** Null: there is no such command. */
  async #ask(ask: AskPrimary, command: string): Promise<unknown> {
    if (this.#unknown.has(command)) return null;
    try {
      return await ask(command);
    } catch (error) {
      if (!(error instanceof CommandNotFoundError)) throw error;
      this.#unknown.add(command);
      return null;
    }
  }
}

function lookAt(
  atMs: number,
  comparers: readonly Members[],
  traffic: Members,
  checkpoints: number | null,
): Look {
  const frames = comparers.map((comparer) => within(comparer, 'frames'));
  const bytes = comparers.map((comparer) => within(comparer, 'bytes'));
  const mirrors = listOf(traffic['filters']).filter((filter) => filter['qom-type'] === 'filter-mirror');
  const replication = listOf(traffic['replication']);
  return {
    atMs,
    mirror: { frames: sumOf(mirrors, 'frames-out'), bytes: sumOf(mirrors, 'bytes-out') },
    primaryOut: { frames: sumOf(frames, 'primary-in'), bytes: sumOf(bytes, 'primary-in') },
    secondaryOut: { frames: sumOf(frames, 'secondary-in'), bytes: sumOf(bytes, 'secondary-in') },
    released: {
      frames: sumOf(frames, 'released', 'released-by-checkpoint', 'forwarded'),
      bytes: sumOf(bytes, 'released'),
    },
    replication: { frames: sumOf(replication, 'writes'), bytes: sumOf(replication, 'bytes') },
    channel: {
      frames: checkpoints,
      bytes: numberIn(within(traffic, 'channel'), 'bytes-sent'),
    },
  };
}

const ARROWS = ['mirror', 'primaryOut', 'secondaryOut', 'released', 'replication', 'channel'] as const;
type Arrow = (typeof ARROWS)[number];

function hasRestarted(before: Look, now: Look): boolean {
  return ARROWS.some((arrow) => {
    const [old, young] = [before[arrow], now[arrow]];
    return (young.frames ?? 0) < (old.frames ?? 0) || (young.bytes ?? 0) < (old.bytes ?? 0);
  });
}

/** Each second; null: not counted on both looks. */
function rate(before: Look | null, now: Look, arrow: Arrow, what: keyof Counts): number | null {
  const [old, young] = [before?.[arrow][what] ?? null, now[arrow][what]];
  if (before === null || old === null || young === null) return null;
  const seconds = (now.atMs - before.atMs) / 1000;
  return seconds > 0 ? Math.round(((young - old) / seconds) * 10) / 10 : null;
}

function flow(before: Look | null, now: Look, arrow: Arrow): Flow | null {
  const framesPerSec = rate(before, now, arrow, 'frames');
  const bytesPerSec = rate(before, now, arrow, 'bytes');
  return framesPerSec === null || bytesPerSec === null ? null : { framesPerSec, bytesPerSec };
}

function heldOf(comparers: readonly Members[]): PairPicture['held'] {
  const held = comparers.map((comparer) => within(comparer, 'held'));
  const packets = sumOf(held, 'primary-packets');
  const bytes = sumOf(held, 'primary-bytes');
  if (packets === null || bytes === null) return null;
  const recent = comparers.map((comparer) => within(within(comparer, 'held-us'), 'recent'));
  const slowest = (name: string): number | null =>
    recent.reduce<number | null>((most, one) => {
      const us = (numberIn(one, 'count') ?? 0) > 0 ? numberIn(one, name) : null;
      return us === null ? most : Math.max(most ?? 0, us);
    }, null);
  return { packets, bytes, p50Us: slowest('p50'), p99Us: slowest('p99') };
}

function replicationOf(
  before: Look | null,
  now: Look,
  nodes: readonly Members[],
): PairPicture['replication'] {
  const inFlight = sumOf(nodes, 'in-flight');
  const writes = flow(before, now, 'replication');
  if (inFlight === null || writes === null) return null;
  return { bytesPerSec: writes.bytesPerSec, writesPerSec: writes.framesPerSec, inFlight };
}

function channelOf(first: Look | null, now: Look, heartbeat: Members): PairPicture['channel'] {
  const checkpointsPerSec = rate(first, now, 'channel', 'frames');
  const bytesPerSec = rate(first, now, 'channel', 'bytes');
  if (checkpointsPerSec === null || bytesPerSec === null) return null;
  return { checkpointsPerSec, bytesPerSec, silentMs: numberIn(heartbeat, 'last-heard-ms') };
}
