/**
 * A lock between processes: a file that holds its owner's process id.
 *
 * Advisory and for one host; a lock whose owner is gone is taken over. Within one process calls queue up as well.
 */
import { open, readFile, rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { GuestBuildError } from './errors.ts';
import { isAlive } from '../base/processes.ts';

/** What this process holds: in a container every run may get the same process id, so the id alone proves nothing. */
const held = new Set<string>();
const POLL_MS = 100;
const PATIENCE_MS = 15 * 60 * 1000;

/** Runs `body` while holding the lock file `path`. */
export async function withLock<T>(path: string, body: () => Promise<T>): Promise<T> {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const file = await open(path, 'wx').catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code === 'EEXIST') return undefined;
      throw error;
    });
    if (file !== undefined) {
      await file.writeFile(String(process.pid));
      await file.close();
      held.add(path);
      break;
    }
    const owner = Number(await readFile(path, 'utf8').catch(() => ''));
    const stale = owner === process.pid ? !held.has(path) : owner > 0 && !isAlive(owner);
    if (stale) await rm(path, { force: true });
    else if (Date.now() > deadline)
      throw new GuestBuildError(`${path} is held by process ${owner}; remove it if stale.`);
    else await sleep(POLL_MS);
  }
  try {
    return await body();
  } finally {
    held.delete(path);
    await rm(path, { force: true });
  }
}
