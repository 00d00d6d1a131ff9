/**
 * A table that fits its terminal: columns that matter least are left out, one by one, until the rest fits. Its title stands
 * in the upper rule, as patronictl's. Colours go around whole cells, and change no width.
 */
import { unpainted, type Painter, type Style } from '../style.ts';
import { printable } from './text.ts';

export interface Column {
  readonly head: string;
  readonly isRight?: boolean;
  /** Left out first: the highest. Without: never. */
  readonly rank?: number;
}

export interface TableOptions {
  readonly title?: string;
  /** Of the terminal; without: as wide as it takes. */
  readonly width?: number | undefined;
  readonly paint?: Painter;
  readonly styleOf?: (head: string, text: string) => Style | null;
}

export function fittedTable(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  { title = '', width = Infinity, paint = unpainted, styleOf = () => null }: TableOptions = {},
): string[] {
  const clean = rows.map((row) => row.map(printable));
  const widths = columns.map(({ head }, at) =>
    clean.reduce((most, row) => Math.max(most, (row[at] ?? '').length), head.length),
  );
  const kept = chosen(columns, widths, width);
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  const padded = (text: string, at: number): string =>
    columns[at]?.isRight === true ? text.padStart(widths[at] ?? 0) : text.padEnd(widths[at] ?? 0);
  const rule = `+${kept.map((at) => '-'.repeat((widths[at] ?? 0) + 2)).join('+')}+`;
  const heads = kept.map((at) => paint('bold', (columns[at]?.head ?? '').padEnd(widths[at] ?? 0)));
  const body = clean.map((row) =>
    line(
      kept.map((at) => {
        const text = row[at] ?? '';
        const style = styleOf(columns[at]?.head ?? '', text);
        const cell = padded(text, at);
        return style === null ? cell : paint(style, cell);
      }),
    ),
  );
  return [titled(rule, printable(title)), line(heads), rule, ...body, ...(body.length > 0 ? [rule] : [])];
}

/** Places of the columns that fit. */
function chosen(columns: readonly Column[], widths: readonly number[], width: number): number[] {
  const kept = columns.map((_, at) => at);
  const needed = (): number => kept.reduce((sum, at) => sum + (widths[at] ?? 0) + 3, 1);
  while (needed() > width) {
    const rankOf = (at: number): number => columns[at]?.rank ?? 0;
    const least = kept.reduce((worst, at) => (rankOf(at) > rankOf(worst) ? at : worst), kept[0] ?? 0);
    if (rankOf(least) === 0) break;
    kept.splice(kept.indexOf(least), 1);
  }
  return kept;
}

/** `+ 3 VMs -------+----+` */
function titled(rule: string, title: string): string {
  const room = rule.length - 5;
  if (title === '' || room < 1) return rule;
  const shown = title.length > room ? `${title.slice(0, Math.max(0, room - 1))}…` : title;
  return `+ ${shown} ${rule.slice(shown.length + 3)}`;
}
