/**
 * Why QEMU refused to start, out of its standard error: the first line that is not a warning, without the program's
 * name. Hints on further lines (`Use -machine help …`) follow it in brackets. Pure.
 */
import { ClosedError } from '../../base/errors.ts';

/** It ended before it could be talked to; the message is its own, which begins with the option. */
export class QemuRefusedError extends ClosedError {}

/** What may stand around the reason and tells nothing; a warning may begin with the option that it is about. */
const NOISE = /^(?:(?:-.*: )?warning:|\s*$)/;

/** Nobody has typed that option: the engine gives it. */
const ONLY_MIGRATABLE = /, but --only-migratable was specified$/;

/** Null: it said nothing. */
export function refusalOf(stderr: string): string | null {
  const lines = stderr
    .split('\n')
    .map((line) => line.replace(/^(?:\S*(?:qemu-system-|setpriv)\S*|qemu): /, '').trim())
    .filter((line) => !NOISE.test(line));
  const [reason, hint] = lines;
  if (reason === undefined) return null;
  const first = reason.replace(ONLY_MIGRATABLE, ': a guest with it cannot be protected');
  return hint === undefined || lines.length > MAX_HINT_LINES ? first : `${first} (${hint})`;
}

/** More is not a hint but a dump. */
const MAX_HINT_LINES = 2;
