/** The process in which disk images are worked on: one piece of work, then it ends (worker.ts starts it). */
import { messageOf } from '../../base/errors.ts';
import { doDiskWork, type DiskResult, type DiskWork } from './work.ts';

export type WorkMessage =
  | { readonly kind: 'bytes'; readonly doneBytes: number; readonly totalBytes: number }
  | { readonly kind: 'done'; readonly result: DiskResult }
  | { readonly kind: 'failed'; readonly message: string };

function tell(message: WorkMessage): Promise<void> {
  return new Promise((resolve) => {
    if (process.connected) process.send?.(message, () => resolve());
    else resolve();
  });
}

process.once('message', (work: DiskWork) => {
  void doDiskWork(work, (doneBytes, totalBytes) => void tell({ kind: 'bytes', doneBytes, totalBytes }))
    .then(
      (result) => tell({ kind: 'done', result }),
      (error: unknown) => tell({ kind: 'failed', message: messageOf(error) }),
    )
    .finally(() => process.disconnect());
});
// Signals meant for the daemon's group are the daemon's to act on; when it is gone, nobody waits for this any more.
process.on('SIGINT', () => undefined);
process.on('disconnect', () => process.exit(0));
