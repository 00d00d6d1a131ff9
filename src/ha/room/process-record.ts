/**
 * What a daemon writes down of a process that it starts, so that the next daemon finds it: process.json in the VM's run
 * folder. Written whole or not at all. It says what was true at the start; whether the process still is there is asked of
 * the kernel.
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { z } from 'zod';
import { loggerFor } from '../../base/logger.ts';
import { messageOf } from '../../base/errors.ts';

const log = loggerFor('room');

/** Later ones may have more members and still say these. */
export const PROCESS_RECORD_VERSION = 1;

const schema = z.object({
  version: z.int().min(1),
  name: z.string(),
  startedAs: z.enum(['primary', 'secondary']),
  /** SHA-256 of the spec that it was started from. */
  specHash: z.string(),
  pid: z.int().min(2),
  startTime: z.string().regex(/^\d+$/),
  bootId: z.string(),
  qmp: z.string(),
  /** Size of the log when it started: what it said begins there. */
  logOffset: z.int().min(0),
});
export type ProcessRecord = Readonly<z.infer<typeof schema>>;

/** Without a turn of the event loop, so that hardly anything fits between the process and its record. */
export function writeRecord(file: string, record: ProcessRecord): void {
  const next = `${file}.next`;
  writeFileSync(next, `${JSON.stringify(record, null, 2)}\n`, { mode: 0o600 });
  renameSync(next, file);
}

/** Null when there is none, or one that nobody can make sense of. */
export function readRecord(file: string): ProcessRecord | null {
  try {
    return schema.parse(JSON.parse(readFileSync(file, 'utf8')));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT')
      log.warn(
        { file },
        `a record of a process is not readable: ${error instanceof z.ZodError ? z.prettifyError(error) : messageOf(error)}`,
      );
    return null;
  }
}
