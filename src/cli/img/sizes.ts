/**
 * Sizes as qemu-img reads and prints them: `1.5G`, `0x200`, `196 KiB` (QEMU util/cutils.c's rules, asked of QEMU 7.2).
 * Read as big integers, because qemu-img takes up to 2^63-1 and says so.
 */
import { ParameterError } from '../../base/errors.ts';

const SUFFIXES = 'bkmgtpe';
const UNITS = ['', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei'];
const MAX_INT64 = 2n ** 63n - 1n;
const MAX_UINT64 = 2n ** 64n - 1n;

/** The bytes that a text stands for: hexadecimal, or decimal with a suffix and then perhaps a fraction. Null: none. */
export function sizeOf(text: string): bigint | null {
  const match = /^\s*\+?(?:(0x[0-9a-f]+)|([0-9]+)(?:\.([0-9]*))?)([bkmgtpe]?)$/i.exec(text);
  if (!match) return null;
  const [, hex, whole = '', fraction, suffix = ''] = match;
  const unit = 1n << (10n * BigInt(Math.max(0, SUFFIXES.indexOf(suffix.toLowerCase()))));
  // A `b` behind hexadecimal digits is one of them.
  if (hex !== undefined) return BigInt(hex) * unit;
  const digits = (fraction ?? '').slice(0, 18);
  const scale = 10n ** BigInt(digits.length);
  const part = digits === '' ? 0n : (2n * BigInt(digits) * unit + scale) / (2n * scale);
  if (unit === 1n && Number(digits) > 0) return null;
  return BigInt(whole) * unit + part;
}

/** A size of the command line; `what` is QEMU's name for it (`image size`). Throws ParameterError with QEMU's text. */
export function takeSize(what: string, text: string): bigint {
  const bytes = sizeOf(text);
  if (bytes === null) {
    throw new ParameterError(
      `Invalid ${what} specified. You may use k, M, G, T, P or E suffixes for ` +
        'kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.',
    );
  }
  if (bytes > MAX_INT64)
    throw new ParameterError(`Invalid ${what} specified. Must be between 0 and ${MAX_INT64}.`);
  return bytes;
}

/** A size among the options of `-o`, and of resize. Throws ParameterError with QEMU's text. */
export function takeOptionSize(name: string, text: string): bigint {
  const bytes = sizeOf(text);
  if (bytes === null || bytes > MAX_UINT64) {
    throw new ParameterError(
      `Parameter '${name}' expects a non-negative number below 2^64. Optional suffix k, M, G, T, P or E means ` +
        'kilo-, mega-, giga-, tera-, peta- and exabytes, respectively.',
    );
  }
  return bytes;
}

/** `196 KiB`, as qemu-img prints sizes: three significant digits. */
export function humanSize(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${threeDigits(value)} ${UNITS[unit] ?? ''}B`;
}

/** printf's `%0.3g`: ties go to the even digit, 999.6 becomes 1e+03. */
function threeDigits(value: number): string {
  const scale = value >= 100 ? 1 : value >= 10 ? 10 : value >= 1 ? 100 : 1000;
  const scaled = value * scale;
  const below = Math.floor(scaled);
  const rounded = scaled - below === 0.5 ? below + (below % 2) : Math.round(scaled);
  return rounded === 1000 && scale === 1 ? '1e+03' : String(rounded / scale);
}
