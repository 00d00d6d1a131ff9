/**
 * The lines typed at earlier QMP shells: `$XDG_STATE_HOME/colo/qmp_history`, for its owner alone, the newest last. What may
 * hold a secret and what begins with a blank is not kept. A history that cannot be read or written is none: it is a comfort.
 */
import { chmod, mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';

/** Lines that are kept. */
export const KEPT_LINES = 1000;
/** Longer lines are not kept. */
const KEPT_LINE_CHARACTERS = 4096;
/** A longer file is not ours, and is not read. */
const HISTORY_BYTES = 16 * 1024 * 1024;

export function historyFile(env: Readonly<Record<string, string | undefined>> = process.env): string {
  const given = env['XDG_STATE_HOME'];
  // A relative path is to be ignored (XDG Base Directory Specification, Basics).
  const base =
    given !== undefined && path.isAbsolute(given) ? given : path.join(os.homedir(), '.local/state');
  return path.join(base, 'colo', 'qmp_history');
}

/** Oldest first. */
export async function readHistory(file: string): Promise<string[]> {
  try {
    const { size } = await stat(file);
    if (size > HISTORY_BYTES) return [];
    const lines = (await readFile(file, 'utf8')).split('\n');
    return lines.filter((line) => line !== '' && line.length <= KEPT_LINE_CHARACTERS).slice(-KEPT_LINES);
  } catch {
    return [];
  }
}

/** Adds to what is there now: another shell may have ended meanwhile. */
export async function addToHistory(file: string, typed: readonly string[]): Promise<void> {
  const lines = typed.filter(isKept);
  if (lines.length === 0) return;
  try {
    await mkdir(path.dirname(file), { recursive: true, mode: 0o700 });
    const all = [...(await readHistory(file)), ...lines];
    const kept = all.filter((line, at) => line !== all[at - 1]).slice(-KEPT_LINES);
    const whole = `${file}.${process.pid}`;
    await writeFile(whole, `${kept.join('\n')}\n`, { mode: 0o600 });
    await chmod(whole, 0o600);
    await rename(whole, file);
  } catch {
    // The next shell starts without these lines.
  }
}

/** Passwords are typed in the clear: `set_password`, `expire_password`, secrets among the objects and encrypted nodes. */
export function isKept(line: string): boolean {
  if (line.trim() === '' || line.startsWith(' ') || line.length > KEPT_LINE_CHARACTERS) return false;
  if (/[\u0000-\u001f\u007f]/.test(line)) return false;
  return !/password|passwd|secret/i.test(line);
}
