/**
 * Which process a number means. Numbers are given again, after a reboot from the start: a process is the one that was
 * started then when the kernel's boot id, its number and its start time (field 22 of /proc/PID/stat, proc(5)) are the same.
 * Linux only.
 */
import { readFileSync, readdirSync } from 'node:fs';

export interface ProcessIdentity {
  readonly pid: number;
  /** Clock ticks after the boot, as the kernel writes them. */
  readonly startTime: string;
  readonly bootId: string;
}

/** Null when there is no such process. */
export function identityOf(pid: number): ProcessIdentity | null {
  const stat = statOf(pid);
  return stat && { pid, startTime: stat.startTime, bootId: bootId() };
}

export function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}

/** Whether it is still there and may touch files: a stopped one is, a zombie is not. */
export function isRunning({ pid, startTime, bootId: boot }: ProcessIdentity): boolean {
  if (boot !== bootId()) return false;
  const stat = statOf(pid);
  if (stat?.startTime !== startTime) return false;
  if (stat.state !== 'Z' && stat.state !== 'X') return true;
  // The first thread has ended; the others may be on their way.
  return threadsOf(pid) > 1;
}

/**
 * SIGKILL, which stopped processes obey too. False when it is not there any more. Between the look and the signal a number
 * could be given again only if all of the others were used up in those microseconds.
 */
export function killProcess(identity: ProcessIdentity): boolean {
  if (!isRunning(identity)) return false;
  try {
    process.kill(identity.pid, 'SIGKILL');
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
    throw error;
  }
}

/** Those whose arguments include `word`, this process excepted. */
export function processesWith(word: string): ProcessIdentity[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((name) => readIfThere(`/proc/${name}/cmdline`)?.split('\0').includes(word))
    .map((name) => identityOf(Number(name)))
    .filter((identity) => identity !== null);
}

function statOf(pid: number): { readonly state: string; readonly startTime: string } | null {
  const text = readIfThere(`/proc/${pid}/stat`);
  if (text === null) return null;
  // The second field is the program's name in brackets, which may hold blanks and brackets.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const [state, startTime] = [fields[0], fields[19]];
  return state === undefined || startTime === undefined ? null : { state, startTime };
}

function threadsOf(pid: number): number {
  try {
    return readdirSync(`/proc/${pid}/task`).length;
  } catch {
    return 0;
  }
}

function readIfThere(file: string): string | null {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    // It has ended, or is another user's.
    return null;
  }
}
