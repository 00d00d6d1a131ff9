/**
 * The arrows of the picture: what each is, whether anything may pass over it now, and its numbers. The names are those of
 * COLO's documents (filter-mirror, filter-redirector, filter-rewriter, colo-compare, block replication).
 */
import type { Flow, PairPicture } from '../../src/dashboard/protocol.ts';
import { bytes, bytesPerSec, count, micros, millis, perSec, plural, short } from './format.ts';
import type { PairHealth } from './health.ts';

export const ARROWS = [
  'in',
  'to-primary',
  'mirror',
  'to-secondary',
  'primary-out',
  'secondary-said',
  'secondary-out',
  'released',
  'channel',
  'primary-writes',
  'replication',
  'secondary-writes',
] as const;
export type ArrowId = (typeof ARROWS)[number];

export interface Arrow {
  readonly id: ArrowId;
  /** From and to, in words; of the table. */
  readonly title: string;
  /** Short, beside the arrow; those without one repeat another's number. */
  readonly name: string | null;
  /** One or two lines beside it; empty: nothing is measured. */
  readonly lines: readonly string[];
  /** There is somebody at both ends. */
  readonly isOpen: boolean;
  /** Seconds that a dot needs for one step along the arrow; null: nothing moves. */
  readonly pace: number | null;
}

/** The more, the faster, by the logarithm: one a second crawls, ten thousand run. */
export function paceOf(rate: number): number | null {
  if (rate <= 0.005) return null;
  const decades = Math.min(4, Math.max(0, Math.log10(Math.max(rate, 1))));
  return Number((2.4 - decades * 0.5).toFixed(2));
}

const frames = (flow: Flow | null): string[] =>
  flow === null ? [] : [`${short(flow.framesPerSec)} frames/s`, bytesPerSec(flow.bytesPerSec)];

export function arrowsOf(health: PairHealth, pair: PairPicture | null): readonly Arrow[] {
  const isPrimaryUp = health.primary.mood === 'running';
  const isWhole = health.between === 'all';
  const hasDisks = isWhole || health.between === 'disks';
  const rate = (flow: Flow | null | undefined): number => flow?.framesPerSec ?? 0;
  const arrow = (
    id: ArrowId,
    title: string,
    name: string | null,
    isOpen: boolean,
    lines: string[],
    rate: number,
  ): Arrow => ({ id, title, name, isOpen, lines: isOpen ? lines : [], pace: isOpen ? paceOf(rate) : null });
  const mirror = pair?.mirror ?? null;
  const primaryOut = pair?.primaryOut ?? null;
  const secondaryOut = pair?.secondaryOut ?? null;
  const channel = pair?.channel ?? null;
  const replication = pair?.replication ?? null;
  const released = pair?.released ?? (isWhole ? null : primaryOut);
  return [
    arrow('in', 'the world to filter-mirror', 'in', isPrimaryUp, frames(mirror), rate(mirror)),
    arrow(
      'to-primary',
      'filter-mirror to the primary guest',
      null,
      isPrimaryUp,
      frames(mirror),
      rate(mirror),
    ),
    arrow('mirror', 'filter-mirror to the secondary', 'mirror', isWhole, frames(mirror), rate(mirror)),
    arrow(
      'to-secondary',
      'filter-rewriter to the secondary guest',
      null,
      isWhole,
      frames(mirror),
      rate(mirror),
    ),
    arrow(
      'primary-out',
      'the primary guest to colo-compare',
      'output',
      isPrimaryUp,
      frames(primaryOut),
      rate(primaryOut),
    ),
    arrow(
      'secondary-said',
      'the secondary guest to filter-rewriter',
      null,
      isWhole,
      frames(secondaryOut),
      rate(secondaryOut),
    ),
    arrow(
      'secondary-out',
      'filter-redirector to colo-compare',
      'output',
      isWhole,
      frames(secondaryOut),
      rate(secondaryOut),
    ),
    arrow('released', 'colo-compare to the world', 'released', isPrimaryUp, frames(released), rate(released)),
    arrow(
      'channel',
      'checkpoint channel, primary to secondary',
      'checkpoints',
      isWhole,
      channel === null ? [] : [perSec(channel.checkpointsPerSec), bytesPerSec(channel.bytesPerSec)],
      channel === null ? 0 : channel.bytesPerSec / 1000,
    ),
    arrow(
      'primary-writes',
      'the primary guest to its disk',
      null,
      isPrimaryUp,
      [],
      replication?.writesPerSec ?? 0,
    ),
    arrow(
      'replication',
      "block replication, to the secondary's disk",
      'replication',
      hasDisks,
      replication === null
        ? []
        : [`${short(replication.writesPerSec)} writes/s`, bytesPerSec(replication.bytesPerSec)],
      replication?.writesPerSec ?? 0,
    ),
    arrow(
      'secondary-writes',
      'the secondary guest to its active disk',
      null,
      isWhole,
      [],
      replication?.writesPerSec ?? 0,
    ),
  ];
}

/** What colo-compare holds at this moment: two lines in its box. */
export function heldLines(pair: PairPicture | null, isNarrow: boolean): readonly string[] {
  const held = pair?.held ?? null;
  if (held === null) return [];
  const many = isNarrow
    ? `holds ${count(held.packets)}`
    : `holds ${plural(held.packets, 'packet')}, ${bytes(held.bytes)}`;
  const now = held.packets === 0 ? 'holds nothing' : many;
  if (held.p50Us === null) return [now];
  const median = micros(held.p50Us);
  if (held.p99Us === null) return [now, `${median} held`];
  const most = micros(held.p99Us);
  return isNarrow ? [now, median, `p99 ${most}`] : [now, `held for ${median}, p99 ${most}`];
}

/** Shown once the silence is longer than heartbeats explain. */
const SILENCE_MS = 1000;

export function channelNote(pair: PairPicture | null): string {
  const silent = pair?.channel?.silentMs ?? null;
  return silent !== null && silent >= SILENCE_MS ? `silent for ${millis(silent)}` : '';
}

export function inFlightNote(pair: PairPicture | null): string {
  const inFlight = pair?.replication?.inFlight ?? 0;
  return inFlight > 0 ? `${count(inFlight)} in flight` : '';
}
