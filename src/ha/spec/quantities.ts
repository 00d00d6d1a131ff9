/** Sizes as QEMU writes them (`256M`, `1.5G`), durations with their unit (`500ms`, `2s`), and words that were meant. */

const UNITS = 'kmgtp';

/** Bytes; null when it is no size. A number without a letter counts in `unit`s. */
export function bytesOf(value: string | number, unit = 1): number | null {
  const match = /^([0-9]{1,15})(?:\.([0-9]{1,9}))?(?:([kmgtp])(?:i?b)?|b)?$/i.exec(String(value));
  if (!match) return null;
  const [text, whole = '', fraction = '', letter] = match;
  const isBare = letter === undefined && !/b$/i.test(text);
  const factor =
    letter === undefined ? (isBare ? unit : 1) : 1024 ** (UNITS.indexOf(letter.toLowerCase()) + 1);
  const bytes = Number(`${whole}.${fraction === '' ? '0' : fraction}`) * factor;
  return Number.isSafeInteger(bytes) ? bytes : null;
}

/** As bytesOf reads it. */
export function sizeText(bytes: number): string {
  for (let at = UNITS.length - 1; at >= 0; at--) {
    const factor = 1024 ** (at + 1);
    if (bytes >= factor && bytes % factor === 0) return `${bytes / factor}${UNITS.charAt(at).toUpperCase()}`;
  }
  return `${bytes} bytes`;
}

const DURATIONS: Readonly<Record<string, number>> = { ms: 1, s: 1000, min: 60_000, m: 60_000, h: 3_600_000 };

/** Milliseconds, whole; null when it is no duration. */
export function millisecondsOf(text: string): number | null {
  const match = /^([0-9]{1,9})(?:\.([0-9]{1,3}))?(ms|s|min|m|h)$/.exec(text);
  if (!match) return null;
  const [, whole = '', fraction = '0', unit = ''] = match;
  const ms = Math.round(Number(`${whole}.${fraction}`) * (DURATIONS[unit] ?? NaN));
  return Number.isSafeInteger(ms) ? ms : null;
}

/** The one of `known` that was probably meant, or null. */
export function nearest(word: string, known: readonly string[]): string | null {
  const plain = word.slice(0, 40).toLowerCase().replaceAll('_', '-');
  let best: string | null = null;
  let least = Math.max(1, Math.floor(plain.length / 3)) + 1;
  for (const candidate of known) {
    const cost = distance(plain, candidate);
    if (cost < least) [best, least] = [candidate, cost];
  }
  return best;
}

/** Letters to insert, delete, replace, or exchange with their neighbour. */
function distance(a: string, b: string): number {
  let older: number[] = [];
  let previous = [...Array(b.length + 1).keys()];
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const isSame = a[i - 1] === b[j - 1];
      let cost = Math.min(
        (previous[j] ?? 0) + 1,
        (row[j - 1] ?? 0) + 1,
        (previous[j - 1] ?? 0) + (isSame ? 0 : 1),
      );
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        cost = Math.min(cost, (older[j - 2] ?? 0) + 1);
      row.push(cost);
    }
    [older, previous] = [previous, row];
  }
  return previous[b.length] ?? 0;
}
