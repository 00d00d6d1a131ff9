/** Numbers and times as people read them. Every text has a fixed way of rounding, so that a live number does not jump about. */

/** Decimal units, as network and disk rates are given. */
const UNITS = ['B', 'kB', 'MB', 'GB', 'TB'];

/** Three digits at most: 0.42, 4.2, 42, 420. */
export function short(value: number): string {
  const size = Math.abs(value);
  if (size >= 100 || Number.isInteger(value)) return String(Math.round(value));
  return value.toFixed(size >= 10 ? 0 : size >= 1 ? 1 : 2);
}

export function bytes(count: number): string {
  let value = count;
  let unit = 0;
  while (Math.abs(value) >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? String(Math.round(value)) : short(value)} ${UNITS[unit] ?? ''}`;
}

export const bytesPerSec = (rate: number): string => `${bytes(rate)}/s`;

export const perSec = (rate: number): string => `${short(rate)}/s`;

/** `1 204 000`, with thin spaces: columns of digits stay columns. */
export function count(value: number): string {
  return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, '\u2009');
}

export function millis(ms: number): string {
  if (ms >= 60_000) return duration(ms);
  if (ms >= 1000) return `${short(ms / 1000)} s`;
  return ms > 0 && ms < 1 ? `${Math.round(ms * 1000)} µs` : `${short(ms)} ms`;
}

export const micros = (us: number): string => millis(us / 1000);

/** The two largest units: `4 s`, `2 min 5 s`, `3 h 10 min`, `2 d 4 h`. */
export function duration(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return pair(Math.floor(seconds / 60), 'min', seconds % 60, 's');
  if (seconds < 86_400)
    return pair(Math.floor(seconds / 3600), 'h', Math.floor((seconds % 3600) / 60), 'min');
  return pair(Math.floor(seconds / 86_400), 'd', Math.floor((seconds % 86_400) / 3600), 'h');
}

function pair(large: number, largeUnit: string, small: number, smallUnit: string): string {
  return small === 0 ? `${large} ${largeUnit}` : `${large} ${largeUnit} ${small} ${smallUnit}`;
}

export const percent = (part: number): string => `${Math.floor(Math.min(1, Math.max(0, part)) * 100)} %`;

/** MiB as the guest has them: 512 MiB, 2 GiB. */
export const memory = (mib: number): string =>
  mib >= 1024 ? `${short(mib / 1024)} GiB` : `${short(mib)} MiB`;

/** Local wall clock, 24 hours. */
export function clock(atMs: number): string {
  const at = new Date(atMs);
  return [at.getHours(), at.getMinutes(), at.getSeconds()]
    .map((part) => String(part).padStart(2, '0'))
    .join(':');
}

export const plural = (number: number, one: string, many = `${one}s`): string =>
  `${count(number)} ${number === 1 ? one : many}`;
