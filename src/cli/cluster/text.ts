/** Tables, ages and sizes for a terminal. What comes from elsewhere is stripped of what a terminal would obey. */

const CONTROL = /[\u0000-\u001f\u007f-\u009f]/g;

/** Control characters become spaces (a tab, a newline) or question marks. */
export function printable(text: string): string {
  return text.replace(CONTROL, (character) => (/\s/.test(character) ? ' ' : '?'));
}

/**
 * ```
 * +------+-----------+
 * | VM   | State     |
 * +------+-----------+
 * | web1 | protected |
 * +------+-----------+
 * ```
 * as patronictl's. The last column is not padded to the width of its longest text: it may be a sentence.
 */
export function table(
  heads: readonly string[],
  rows: readonly (readonly string[])[],
  rightAligned: ReadonlySet<number> = new Set(),
): string {
  const clean = [heads, ...rows].map((row) => row.map(printable));
  const widths = heads.map((_, at) => Math.max(...clean.map((row) => (row[at] ?? '').length)));
  const rule = `+${widths.map((width) => '-'.repeat(width + 2)).join('+')}+`;
  const lines = clean.map((row) => {
    const cells = widths.map((width, at) => {
      const text = row[at] ?? '';
      return rightAligned.has(at) && row !== clean[0] ? text.padStart(width) : text.padEnd(width);
    });
    return `| ${cells.join(' | ')} |`;
  });
  return [rule, lines[0], rule, ...lines.slice(1), ...(rows.length > 0 ? [rule] : [])].join('\n');
}

/** `12 s`, `5 min`, `3 h`, `2 d`. Negative (another host's clock): `0 s`. */
export function age(fromMs: number, nowMs: number): string {
  const seconds = Math.max(0, Math.floor((nowMs - fromMs) / 1000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

/** Of bytes, in the units of 1024. */
export function size(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit] ?? ''}`;
}
