/**
 * A lock between processes: a file that holds its owner's process id.
 *
 * Advisory and for one host; a lock whose owner is gone is taken over. Within one process calls queue up as well.
 */
import { open, readFile, rename, rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { GuestBuildError } from './errors.ts';
import { Mutex } from '../base/async.ts';
import { isAlive } from '../base/processes.ts';

/** Where this process's own calls queue up. */
const queues = new Map<string, Mutex>();
const POLL_MS = 100;
const PATIENCE_MS = 15 * 60 * 1000;

/** Runs `body` while holding the lock file `path`. */
export async function withLock<T>(path: string, body: () => Promise<T>): Promise<T> {
  const queue = queues.get(path) ?? new Mutex();
  queues.set(path, queue);
  return queue.run(async () => {
    await take(path);
    try {
      return await body();
    } finally {
      await rm(path, { force: true });
    }
  });
}

async function take(path: string): Promise<void> {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const file = await open(path, 'wx').catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code === 'EEXIST') return undefined;
      throw error;
    });
    if (file !== undefined) {
      await file.writeFile(String(process.pid)).finally(() => file.close());
      return;
    }
    const owner = await ownerOf(path);
    // Our own id is that of an earlier process: in a container every run may get the same.
    const isStale = owner === process.pid || (owner > 0 && !isAlive(owner));
    if (isStale) await takeAway(path, owner);
    else if (Date.now() > deadline)
      throw new GuestBuildError(`${path} is held by process ${owner}; remove it if stale.`);
    else await sleep(POLL_MS);
  }
}

/** 0: there is none, or it is just being written. */
async function ownerOf(path: string): Promise<number> {
  return Number(await readFile(path, 'utf8').catch(() => ''));
}

/** Of several who find it stale one moves it away; whoever comes after that and moves a new one puts it back. */
async function takeAway(path: string, owner: number): Promise<void> {
  const aside = `${path}.${process.pid}`;
  try {
    await rename(path, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  if ((await ownerOf(aside)) === owner) await rm(aside, { force: true });
  else await rename(aside, path);
}
