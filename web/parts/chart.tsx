/** One chart: uPlot draws the columns; the newest value and a sentence beside it say the same in words. */
import { useEffect, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import type { ChartDefinition, ChartLine } from '../model/charts.ts';
import { clock, count } from '../model/format.ts';
import type { PageState } from '../model/state.ts';
import { WINDOW_MS } from '../model/series.ts';
import { colour } from './theme.ts';

const HEIGHT = 128;

interface Props {
  readonly chart: ChartDefinition;
  readonly state: PageState;
  readonly nowMs: number;
}

export function Chart({ chart, state, nowMs }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const columns = chart.columns(state, nowMs);
  const { now, sentence } = chart.words(columns, state);

  useEffect(() => {
    const parent = place.current;
    if (parent === null) return undefined;
    const drawn = new uPlot(
      options(chart, parent.clientWidth || 300),
      [[], ...chart.lines.map(() => [])],
      parent,
    );
    plot.current = drawn;
    const observer = new ResizeObserver(() => {
      if (parent.clientWidth > 0) drawn.setSize({ width: parent.clientWidth, height: HEIGHT });
    });
    observer.observe(parent);
    return () => {
      observer.disconnect();
      drawn.destroy();
      plot.current = null;
    };
  }, [chart]);

  useEffect(() => {
    const drawn = plot.current;
    if (drawn === null) return;
    drawn.batch(() => {
      drawn.setData(columns, false);
      drawn.setScale('x', { min: (nowMs - WINDOW_MS) / 1000, max: nowMs / 1000 });
    });
  });

  return (
    <figure class="card chart" data-chart={chart.id} data-points={columns[0].length}>
      <figcaption>
        <h2>{chart.title}</h2>
        <p class="chart-now">{now}</p>
      </figcaption>
      <div class="plot" ref={place} aria-hidden="true" />
      <p class="legend" aria-hidden="true">
        {chart.lines.length > 1 &&
          chart.lines.toReversed().map((line) => (
            <span key={line.label}>
              <i style={{ background: `var(${line.colour})` }} />
              {line.label}
            </span>
          ))}
      </p>
      <p class="chart-words muted">{sentence}</p>
    </figure>
  );
}

/** uPlot's own name for it is a const enum, which is not there when it runs. */
// eslint-disable-next-line @typescript-eslint/no-unsafe-enum-assignment
const RIGHT: uPlot.Axis.Side = 1;

/** Of axes that count: half a checkpoint there is not. */
const WHOLE_STEPS = [1, 2, 5]
  .flatMap((step) => [0, 1, 2, 3, 4, 5, 6].map((zeros) => step * 10 ** zeros))
  .toSorted((a, b) => a - b);

function options(chart: ChartDefinition, width: number): uPlot.Options {
  const axis = {
    stroke: colour('--muted'),
    grid: { stroke: colour('--grid'), width: 1 },
    ticks: { show: false },
    font: `11px ${colour('--sans')}`,
  };
  const scale = (text: (value: number) => string): uPlot.Axis => ({
    ...axis,
    space: 32,
    values: (_, splits) => splits.map(text),
    ...(text === count ? { incrs: WHOLE_STEPS } : {}),
  });
  const range =
    (text: ((value: number) => string) | undefined) =>
    (_: uPlot, __: number, max: number | null): [number, number] => [
      0,
      Math.max(max ?? 0, text === count ? 2 : 1e-6) * 1.15,
    ];
  return {
    width,
    height: HEIGHT,
    padding: [8, chart.right === undefined ? 6 : 0, 0, 0],
    legend: { show: false },
    cursor: { show: false },
    scales: {
      x: { time: true, auto: false },
      y: { range: range(chart.left) },
      right: { range: range(chart.right) },
    },
    axes: [
      { ...axis, size: 24, space: 70, values: (_, splits) => splits.map(clockAt), grid: { show: false } },
      { ...scale(chart.left), size: 62 },
      ...(chart.right === undefined
        ? []
        : [{ ...scale(chart.right), scale: 'right', side: RIGHT, size: 40, grid: { show: false } }]),
    ],
    series: [{}, ...chart.lines.map((line) => series(line))],
  };
}

const clockAt = (atSeconds: number): string => clock(atSeconds * 1000);

function series(line: ChartLine): uPlot.Series {
  const stroke = colour(line.colour);
  const scale = line.isRight === true ? 'right' : 'y';
  const common = { label: line.label, scale, stroke, width: 1.5, points: { show: false } };
  switch (line.kind) {
    case 'dots':
      return {
        ...common,
        width: 0,
        paths: () => null,
        points: { show: true, size: 5, fill: stroke, stroke },
      };
    case 'steps':
      return { ...common, ...stepped() };
    case 'bars':
      return { ...common, width: 0, fill: stroke, ...barred() };
    case 'area':
      return { ...common, fill: `${stroke}22`, points: { show: true, size: 4, fill: stroke, stroke } };
  }
}

const stepped = () => (uPlot.paths.stepped === undefined ? {} : { paths: uPlot.paths.stepped({ align: 1 }) });
const barred = () => (uPlot.paths.bars === undefined ? {} : { paths: uPlot.paths.bars({ size: [0.7, 14] }) });
