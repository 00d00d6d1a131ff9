/**
 * The log of one VM's processes: what they write to standard output and error, appended by the processes themselves, so
 * that it needs no daemon. Moved aside when it has grown, at a start as well as while a process has it open: an
 * appending writer goes on at the beginning of a file that was emptied. What is written between the copy and the emptying
 * is lost. A disk that is full loses lines, and nothing else.
 */
import { closeSync, mkdirSync, openSync, readSync, renameSync, statSync, writeSync } from 'node:fs';
import { copyFile, stat, truncate } from 'node:fs/promises';
import path from 'node:path';

/** Above it the log is moved to `vm.log.1`. */
export const MAX_LOG_BYTES = 4 * 1024 * 1024;
const LAST_WORDS_BYTES = 16 * 1024;

/** Opens it for a process that starts, with a headline. Throws a system error when it cannot be opened. */
export function openLog(file: string, headline: string): { readonly fd: number; readonly offset: number } {
  mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 });
  if (sizeOf(file) > MAX_LOG_BYTES) renameSync(file, `${file}.1`);
  const fd = openSync(file, 'a', 0o600);
  try {
    writeSync(fd, `${new Date().toISOString()} ${headline}\n`);
  } catch {
    // No room. The guest matters more.
  }
  return { fd, offset: sizeOf(file) };
}

/** Moves a log that has grown aside while it is being written. */
export async function trimLog(file: string): Promise<void> {
  const { size } = await stat(file);
  if (size <= MAX_LOG_BYTES) return;
  try {
    await copyFile(file, `${file}.1`);
  } finally {
    // On a full disk the copy fails, and this makes room.
    await truncate(file);
  }
}

/** The last line that was written after `offset`; empty when there is none. */
export function lastWords(file: string, offset: number): string {
  const size = sizeOf(file);
  const from = Math.max(size < offset ? 0 : offset, size - LAST_WORDS_BYTES);
  const text = Buffer.alloc(Math.max(0, size - from));
  try {
    const fd = openSync(file, 'r');
    try {
      const bytes = readSync(fd, text, 0, text.length, from);
      return text.toString('utf8', 0, bytes).trim().split('\n').at(-1) ?? '';
    } finally {
      closeSync(fd);
    }
  } catch {
    return '';
  }
}

function sizeOf(file: string): number {
  return statSync(file, { throwIfNoEntry: false })?.size ?? 0;
}
