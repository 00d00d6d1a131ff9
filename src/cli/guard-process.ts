/** The last resort of the programs that run for months. */
import { loggerFor } from '../base/logger.ts';

/**
 * A promise that nobody awaits is a bug, but one that touches a connection or a command, not the guest: it is told, and
 * the rest goes on. After an exception that nobody caught the state is unknown: Node's default ends the process; of a pair
 * the other side takes over then, and a daemon is started anew.
 */
export function guardProcess(): void {
  const log = loggerFor('process');
  process.on('unhandledRejection', (reason) => log.error({ err: reason }, 'a failure that nobody handled'));
  // Whoever read our errors may be gone; that is no reason to end.
  process.stderr.on('error', () => undefined);
}
