/**
 * The pauses of each VM's newest checkpoints as seen by a live view, and a sparkline of them: the tallest is the longest of
 * what is shown. Only VMs that are there are remembered.
 */
import type { VmView } from '../../ha/views.ts';

/** Pauses kept, and shown, of one VM. */
export const KEPT_PAUSES = 12;

const LEVELS = Array.from('▁▂▃▄▅▆▇█');
/** Where the terminal has no more than ASCII. */
const PLAIN_LEVELS = Array.from('_.-=+*%#');

interface Seen {
  count: number;
  readonly pausesMs: number[];
}

export class PauseHistory {
  #seen = new Map<string, Seen>();

  /** One look: at most one pause a VM, that of its newest checkpoint. */
  note(vms: readonly VmView[]): void {
    const next = new Map<string, Seen>();
    for (const { name, checkpoints } of vms) {
      if (!checkpoints) continue;
      const before = this.#seen.get(name);
      const seen = before ?? { count: -1, pausesMs: [] };
      const { count, lastPauseMs } = checkpoints;
      if (lastPauseMs !== null && count !== seen.count) {
        seen.pausesMs.push(lastPauseMs);
        if (seen.pausesMs.length > KEPT_PAUSES) seen.pausesMs.shift();
      }
      seen.count = count;
      next.set(name, seen);
    }
    this.#seen = next;
  }

  /** Oldest first. */
  of(name: string): readonly number[] {
    return this.#seen.get(name)?.pausesMs ?? [];
  }
}

export function sparkline(values: readonly number[], isUnicode = true): string {
  const levels = isUnicode ? LEVELS : PLAIN_LEVELS;
  const most = Math.max(0, ...values);
  const levelOf = (value: number): number =>
    most === 0 ? 0 : Math.min(levels.length - 1, Math.floor((value / most) * levels.length));
  return values.map((value) => levels[levelOf(value)] ?? '').join('');
}

/** By the locale (locale(7): LC_ALL, then LC_CTYPE, then LANG). */
export function isUnicodeTerminal(env: Readonly<Record<string, string | undefined>> = process.env): boolean {
  const locale = env['LC_ALL'] || env['LC_CTYPE'] || env['LANG'] || '';
  return /utf-?8/i.test(locale);
}
