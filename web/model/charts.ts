/** The five charts: their columns, lines and words. The words say the same as the lines, for who does not see them. */
import { bytesPerSec, count, micros, millis, plural } from './format.ts';
import {
  CAUSES,
  CAUSE_WORDS,
  causeColumns,
  causeOf,
  checkpointColumns,
  pairColumns,
  spread,
  WINDOW_MS,
} from './series.ts';
import type { Columns } from './series.ts';
import type { PageState } from './state.ts';

export interface ChartLine {
  readonly label: string;
  /** Custom property of the colour. */
  readonly colour: string;
  readonly kind: 'dots' | 'steps' | 'bars' | 'area';
  /** Drawn against the axis on the right. */
  readonly isRight?: boolean;
}

export interface ChartDefinition {
  readonly id: string;
  readonly title: string;
  readonly lines: readonly ChartLine[];
  readonly left: (value: number) => string;
  readonly right?: (value: number) => string;
  readonly columns: (state: PageState, nowMs: number) => Columns;
  /** The newest value, large, and a sentence about the window. */
  readonly words: (columns: Columns, state: PageState) => { readonly now: string; readonly sentence: string };
}

const over = `in the last ${WINDOW_MS / 60_000} minutes`;
const NOTHING = { now: '–', sentence: `Nothing ${over}.` };

const spreadWords = (columns: Columns, at: number, text: (value: number) => string, what: string) => {
  const found = spread(columns[at] ?? []);
  if (found === null) return NOTHING;
  return {
    now: text(found.last),
    sentence: `Median ${text(found.median)}, highest ${text(found.highest)}, ${plural(found.count, what)} ${over}.`,
  };
};

export const CHARTS: readonly ChartDefinition[] = [
  {
    id: 'pause',
    title: 'Pause of a checkpoint',
    lines: [
      { label: 'held until', colour: '--chart-2', kind: 'dots' },
      { label: 'guest stood still', colour: '--chart-1', kind: 'area' },
    ],
    left: millis,
    columns: ({ samples }, nowMs) =>
      checkpointColumns(
        samples,
        nowMs,
        (sample) => sample.heldMs,
        (sample) => sample.pauseMs,
      ),
    words: (columns) => spreadWords(columns, 2, millis, 'checkpoint'),
  },
  {
    id: 'pages',
    title: 'Dirty pages sent',
    lines: [{ label: 'pages of 4 KiB', colour: '--chart-1', kind: 'area' }],
    left: count,
    columns: ({ samples }, nowMs) => checkpointColumns(samples, nowMs, (sample) => sample.pages),
    words: (columns) => spreadWords(columns, 1, count, 'checkpoint'),
  },
  {
    id: 'latency',
    title: 'Wait of a held packet',
    lines: [
      { label: 'p99', colour: '--chart-2', kind: 'steps' },
      { label: 'median', colour: '--chart-1', kind: 'steps' },
    ],
    left: micros,
    columns: ({ points }, nowMs) =>
      pairColumns(
        points,
        nowMs,
        (pair) => pair.held?.p99Us ?? null,
        (pair) => pair.held?.p50Us ?? null,
      ),
    words: (columns) => {
      const median = spread(columns[2] ?? []);
      const most = spread(columns[1] ?? []);
      if (median === null) return NOTHING;
      const p99 =
        most === null ? '' : `, p99 now ${micros(most.last)}, highest ${micros(most.highest)} ${over}`;
      return { now: micros(median.last), sentence: `Median now ${micros(median.last)}${p99}.` };
    },
  },
  {
    id: 'causes',
    title: 'Checkpoints by cause',
    lines: CAUSES.map((cause, at) => ({
      label: CAUSE_WORDS[cause],
      colour: `--chart-${at + 1}`,
      kind: 'bars' as const,
    })).toReversed(),
    left: count,
    columns: ({ samples }, nowMs) => causeColumns(samples, nowMs),
    words: (_columns, { samples }) => {
      const newest = samples.at(-1);
      if (newest === undefined) return NOTHING;
      const counts = CAUSES.map((cause) => ({
        cause,
        times: samples.filter((sample) => causeOf(sample.cause) === cause).length,
      })).filter(({ times }) => times > 0);
      const parts = counts.map(({ cause, times }) => `${count(times)} ${CAUSE_WORDS[cause]}`);
      return { now: CAUSE_WORDS[causeOf(newest.cause)], sentence: `Of those known: ${parts.join(', ')}.` };
    },
  },
  {
    id: 'replication',
    title: 'Block replication',
    lines: [
      { label: 'written', colour: '--chart-1', kind: 'steps' },
      { label: 'writes in flight', colour: '--chart-2', kind: 'steps', isRight: true },
    ],
    left: bytesPerSec,
    right: count,
    columns: ({ points }, nowMs) =>
      pairColumns(
        points,
        nowMs,
        (pair) => pair.replication?.bytesPerSec ?? null,
        (pair) => pair.replication?.inFlight ?? null,
      ),
    words: (columns) => {
      const written = spread(columns[1] ?? []);
      const waiting = spread(columns[2] ?? []);
      if (written === null) return NOTHING;
      return {
        now: bytesPerSec(written.last),
        sentence: `Highest ${bytesPerSec(written.highest)} ${over}; ${plural(waiting?.last ?? 0, 'write')} in flight now, at most ${count(waiting?.highest ?? 0)}.`,
      };
    },
  },
];
