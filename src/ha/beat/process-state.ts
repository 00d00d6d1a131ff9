/** What the kernel says of a process (proc(5), /proc/PID/stat): the letter after its name. */
import { readFileSync } from 'node:fs';
import type { ProcessState } from './messages.ts';

const LETTERS: Readonly<Record<string, ProcessState>> = {
  R: 'running',
  S: 'running',
  I: 'running',
  T: 'stopped',
  t: 'stopped',
  D: 'waiting',
  Z: 'gone',
  X: 'gone',
};

export function processState(pid: number): ProcessState {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The name is in brackets and may hold anything, brackets too.
    return LETTERS[text.charAt(text.lastIndexOf(')') + 2)] ?? 'unknown';
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return code === 'ENOENT' || code === 'ESRCH' ? 'gone' : 'unknown';
  }
}
