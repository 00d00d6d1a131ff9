/**
 * What the charts draw, as columns: seconds since 1970 first, then one column a line. The window ends at the server's
 * present, so that a chart stands still no more than the guest does.
 */
import type { CheckpointSample, PairPicture } from '../../src/dashboard/protocol.ts';

export const WINDOW_MS = 120_000;
/** Of the columns of "checkpoints by cause". */
export const BUCKET_MS = 5000;

export type Column = (number | null)[];
export type Columns = [number[], ...Column[]];

/** Why checkpoints are taken (src/checkpoint/guest.ts); others that come are drawn as the last of these. */
export const CAUSES = ['timer', 'mismatch', 'parameter', 'request'] as const;
export type Cause = (typeof CAUSES)[number];
export const CAUSE_WORDS: Readonly<Record<Cause, string>> = {
  timer: 'timer',
  mismatch: 'difference',
  parameter: 'setting changed',
  request: 'asked for',
};
export const causeOf = (word: string): Cause => CAUSES.find((cause) => cause === word) ?? 'request';

const inWindow = <T extends { readonly atMs: number }>(items: readonly T[], nowMs: number): readonly T[] => {
  const from = nowMs - WINDOW_MS;
  const first = items.findIndex((item) => item.atMs >= from);
  return first < 0 ? [] : items.slice(first);
};

/** One column of times and one a value, of the checkpoints in the window. */
export function checkpointColumns(
  samples: readonly CheckpointSample[],
  nowMs: number,
  ...values: readonly ((sample: CheckpointSample) => number)[]
): Columns {
  const shown = inWindow(samples, nowMs);
  return [shown.map((sample) => sample.atMs / 1000), ...values.map((value) => shown.map(value))];
}

/**
 * Of the pair's pictures. They are sent when something changes, so the one before the window and the newest hold to its
 * edges.
 */
export function pairColumns(
  points: readonly PairPicture[],
  nowMs: number,
  ...values: readonly ((pair: PairPicture) => number | null)[]
): Columns {
  const from = nowMs - WINDOW_MS;
  const shown = inWindow(points, nowMs);
  const before = points[points.length - shown.length - 1];
  const newest = points.at(-1);
  const all = [
    ...(before === undefined ? [] : [{ at: from, pair: before }]),
    ...shown.map((pair) => ({ at: pair.atMs, pair })),
    ...(newest === undefined || newest.atMs >= nowMs ? [] : [{ at: nowMs, pair: newest }]),
  ];
  return [all.map(({ at }) => at / 1000), ...values.map((value) => all.map(({ pair }) => value(pair)))];
}

/**
 * Checkpoints in each bucket by cause, stacked for bars that are drawn over each other: the first column is all of them, the
 * last the first cause alone.
 */
export function causeColumns(samples: readonly CheckpointSample[], nowMs: number): Columns {
  const last = Math.floor(nowMs / BUCKET_MS);
  const buckets = WINDOW_MS / BUCKET_MS;
  const counts = CAUSES.map(() => Array.from({ length: buckets }, () => 0));
  for (const { atMs, cause } of samples) {
    const at = Math.floor(atMs / BUCKET_MS) - last + buckets - 1;
    const row = counts[CAUSES.indexOf(causeOf(cause))];
    if (row !== undefined && at >= 0 && at < buckets) row[at] = (row[at] ?? 0) + 1;
  }
  const stacked = counts.map((_, upTo) =>
    Array.from({ length: buckets }, (__, at) =>
      counts.slice(0, upTo + 1).reduce((sum, row) => sum + (row[at] ?? 0), 0),
    ),
  );
  const times = Array.from(
    { length: buckets },
    (_, at) => ((last - buckets + 1 + at) * BUCKET_MS + BUCKET_MS / 2) / 1000,
  );
  return [times, ...stacked.toReversed()];
}

export interface Spread {
  readonly count: number;
  readonly last: number;
  readonly median: number;
  readonly highest: number;
}

/** Null: there is none. */
export function spread(values: readonly (number | null)[]): Spread | null {
  const known = values.filter((value) => value !== null);
  const last = known.at(-1);
  if (last === undefined) return null;
  const sorted = known.toSorted((a, b) => a - b);
  const median = sorted[Math.floor((sorted.length - 1) / 2)] ?? last;
  return { count: known.length, last, median, highest: sorted.at(-1) ?? last };
}
