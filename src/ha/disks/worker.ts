/**
 * Runs work on disk images in a process of its own, so that copying gigabytes delays no heartbeat of the daemon's, and
 * so that it can be ended at any time. What is ended in the middle can be done again (work.ts).
 */
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Deferred } from '../../base/async.ts';
import { ClosedError } from '../../base/errors.ts';
import { DisksError } from './record.ts';
import type { WorkMessage } from './work-child.ts';
import type { DiskResult, DiskWork, OnBytes } from './work.ts';

export interface WorkOptions {
  readonly onBytes?: OnBytes;
  readonly signal?: AbortSignal;
}

/** Throws DisksError, or ClosedError when `signal` is aborted. Returns when the process has ended. */
export async function runDiskWork(work: DiskWork, options: WorkOptions = {}): Promise<DiskResult> {
  const { onBytes, signal } = options;
  if (signal?.aborted) throw new ClosedError(`${work.id}: broken off`);
  const isSource = import.meta.url.endsWith('.ts');
  const file = fileURLToPath(new URL(isSource ? './work-child.ts' : './work-child.js', import.meta.url));
  const execArgv = isSource ? ['--import', import.meta.resolve('tsx')] : [];
  const child = fork(file, { execArgv, stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  const ended = new Deferred<void>();
  let last: WorkMessage | null = null;
  child.on('message', (message: WorkMessage) => {
    if (message.kind === 'bytes') onBytes?.(message.doneBytes, message.totalBytes);
    else last = message;
  });
  child.once('error', (error) =>
    ended.reject(new DisksError(`${work.id}: ${error.message}`, { cause: error })),
  );
  // Gone, and all that it said has been heard.
  const heard = new Promise((resolve) => child.once('disconnect', resolve));
  child.once('exit', () => void heard.then(() => ended.resolve()));
  const onAbort = (): void => void child.kill('SIGKILL');
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    child.send(work, (error) => {
      if (error) child.kill('SIGKILL');
    });
    await ended.promise;
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
  return outcome(work, last, signal);
}

function outcome(work: DiskWork, last: WorkMessage | null, signal: AbortSignal | undefined): DiskResult {
  if (last?.kind === 'done') return last.result;
  if (last?.kind === 'failed') throw new DisksError(last.message);
  if (signal?.aborted) throw new ClosedError(`${work.id}: broken off`, { cause: signal.reason });
  throw new DisksError(`${work.id}: the process that worked on ${work.image} has ended before it was done`);
}
