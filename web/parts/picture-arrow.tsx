/** One arrow: its line, dots that move while something flows, its name and its numbers. */
import type { Arrow } from '../model/arrows.ts';
import type { ArrowShape } from '../model/layout.ts';

interface Props {
  readonly arrow: Arrow;
  readonly shape: ArrowShape;
  readonly isNarrow: boolean;
  readonly note?: string | undefined;
}

const HEAD = 7;

export function ArrowLine({ arrow, shape, isNarrow, note = '' }: Props) {
  const [x1, y1, x2, y2] = shape.line;
  const length = Math.hypot(x2 - x1, y2 - y1);
  const ux = (x2 - x1) / length;
  const uy = (y2 - y1) / length;
  const bx = x2 - ux * HEAD;
  const by = y2 - uy * HEAD;
  const head = [
    [x2, y2],
    [bx - uy * 4, by + ux * 4],
    [bx + uy * 4, by - ux * 4],
  ];
  const lines = isNarrow
    ? arrow.lines.map((line) => line.replace(/ (frames|writes)\/s$/, '/s'))
    : joined(shape, arrow.lines);
  const all = note === '' ? lines : [...lines, note];
  return (
    <g
      class={`arrow ${arrow.isOpen ? '' : 'is-closed'} ${arrow.pace === null ? 'is-still' : 'is-flowing'}`}
      data-arrow={arrow.id}
    >
      <line class="line" x1={x1} y1={y1} x2={bx} y2={by} />
      {arrow.pace !== null && (
        <line class="flow" x1={x1} y1={y1} x2={bx} y2={by} style={{ '--pace': `${arrow.pace}s` }} />
      )}
      <polygon class="head" points={head.map((point) => point.join(',')).join(' ')} />
      {shape.label !== undefined && (
        <Label shape={shape.label} name={arrow.name} lines={all} step={isNarrow ? 13 : 16} />
      )}
    </g>
  );
}

/** In the wide picture both numbers fit into one line beside an arrow that lies. */
const joined = (shape: ArrowShape, lines: readonly string[]): readonly string[] =>
  lines.length > 1 ? [lines.join(shape.label?.anchor === 'middle' ? ' · ' : ', ')] : lines;

interface LabelProps {
  readonly shape: NonNullable<ArrowShape['label']>;
  readonly name: string | null;
  readonly lines: readonly string[];
  readonly step: number;
}

function Label({ shape, name, lines, step }: LabelProps) {
  const { x, y, anchor, above } = shape;
  const under = above === undefined && name !== null ? 1 : 0;
  return (
    <g text-anchor={anchor}>
      {name !== null && (
        <text class="arrow-name" x={x} y={above ?? y}>
          {name}
        </text>
      )}
      {lines.map((line, at) => (
        <text key={at} class="arrow-line" x={x} y={y + (at + under) * step}>
          {line}
        </text>
      ))}
    </g>
  );
}
