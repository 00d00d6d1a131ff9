/** One box of the picture: a title and lines of small text, in its middle. */
import type { Rect } from '../model/layout.ts';

interface Props {
  readonly at: Rect;
  readonly kind: string;
  readonly title: string;
  readonly lines?: readonly string[];
  /** Filled that far, 0 to 1. */
  readonly share?: number | null;
}

const LINE = 15;

export function Box({ at, kind, title, lines = [], share = null }: Props) {
  const { x, y, w, h } = at;
  const middle = x + w / 2;
  const top = y + h / 2 - (lines.length * LINE) / 2;
  return (
    <g class={`box ${kind}`}>
      <rect class="face" x={x} y={y} width={w} height={h} rx={Math.min(10, h / 2)} />
      {share !== null && (
        <rect class="filled" x={x} y={y} width={w * share} height={h} rx={Math.min(10, h / 2)} />
      )}
      <text class="box-title" x={middle} y={top} dominant-baseline="central" text-anchor="middle">
        {title}
      </text>
      {lines.map((line, at) => (
        <text
          key={at}
          class="box-line"
          x={middle}
          y={top + (at + 1) * LINE + 1}
          dominant-baseline="central"
          text-anchor="middle"
        >
          {line}
        </text>
      ))}
    </g>
  );
}
