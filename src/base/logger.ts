/**
 * One logger for the process: pino, to standard error, so that standard output stays for QMP and for results.
 * `COLO_LOG` sets the level (trace, debug, info, warn, error; default warn). A line that cannot be written (the disk is
 * full, nobody reads any more) is lost, and nothing else: pino's own destination ends the process then.
 */
import { writeSync } from 'node:fs';
import { pino } from 'pino';
import type { Logger } from 'pino';

export type { Logger } from 'pino';

let root: Logger | null = null;

/** A child logger that names its component, e.g. `loggerFor('nbd-server')`. */
export function loggerFor(component: string): Logger {
  root ??= pino(
    { level: process.env['COLO_LOG'] ?? 'warn', base: { pid: process.pid } },
    { write: writeToStandardError },
  );
  return root.child({ component });
}

function writeToStandardError(line: string): void {
  try {
    const bytes = Buffer.from(line);
    for (let at = 0; at < bytes.length;) at += writeSync(2, bytes, at);
  } catch {
    // Told to nobody: this was the place.
  }
}
