/**
 * One logger for the process: pino, to standard error, so that standard output stays for QMP and for results.
 * `COLO_LOG` sets the level (trace, debug, info, warn, error; default warn).
 */
import { pino } from 'pino';
import type { Logger } from 'pino';

export type { Logger } from 'pino';

let root: Logger | null = null;

/** A child logger that names its component, e.g. `loggerFor('nbd-server')`. */
export function loggerFor(component: string): Logger {
  root ??= pino(
    { level: process.env['COLO_LOG'] ?? 'warn', base: { pid: process.pid } },
    pino.destination({ dest: 2, sync: true }),
  );
  return root.child({ component });
}
