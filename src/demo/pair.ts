/** Makes a pair of a running primary and a started secondary: addresses, resync, COLO, and the first checkpoint. */
import { ColoError } from '../base/errors.ts';
import type { PairAddresses } from '../ha/procedure.ts';
import { exportSecondaryDisk, resumeReplication, startResync } from '../ha/procedure.ts';
import type { QmpClient } from '../qmp/client.ts';
import { freePorts } from './free-ports.ts';
import type { Teller } from './report.ts';
import type { VmProcess } from './vm-process.ts';

export const HOSTS = ['127.0.0.1', '127.0.0.2'] as const;
const CHECKPOINT_DELAY_MS = 2_000;
const RESYNC_MS = 300_000;

/** A pair's ports, fresh for every generation, so that a dying process's sockets are in nobody's way. */
export async function pairAddresses(primaryHost: string): Promise<PairAddresses> {
  const secondaryHost = primaryHost === HOSTS[0] ? HOSTS[1] : HOSTS[0];
  const ports = await freePorts(6, HOSTS);
  return {
    primaryHost,
    secondaryHost,
    mirrorPort: ports[0]!,
    compareSecondaryPort: ports[1]!,
    comparePrimaryPort: ports[2]!,
    compareOutPort: ports[3]!,
    nbdPort: ports[4]!,
    migrationPort: ports[5]!,
  };
}

/** Resync while the guest runs, then COLO; ends with both copies running. `bitmap`: as in startResync. */
export async function protect(
  primary: VmProcess,
  secondary: VmProcess,
  at: PairAddresses,
  formerSecondary: boolean,
  tell: Teller,
  bitmap?: string,
): Promise<void> {
  await exportSecondaryDisk(secondary.qmp, at);
  const ready = primary.qmp.waitFor('BLOCK_JOB_READY', () => true, RESYNC_MS);
  const failed = primary.qmp.waitFor('BLOCK_JOB_COMPLETED', () => true, RESYNC_MS);
  await startResync(primary.qmp, at, bitmap);
  const bar = tell.progress('resync');
  const poll = setInterval(() => {
    void primary.qmp.execute('query-block-jobs').then(
      (jobs) => {
        const [job] = jobs as { len: number; offset: number }[];
        if (job && job.len > 0) bar.update(job.offset / job.len);
      },
      () => undefined,
    );
  }, 100);
  try {
    await Promise.race([
      ready,
      failed.then((event) => {
        throw new ColoError(`resync failed: ${JSON.stringify(event.data)}`);
      }),
    ]);
  } finally {
    clearInterval(poll);
  }
  bar.done();
  failed.catch(() => undefined);
  const running = secondary.qmp.waitFor('RESUME', () => true, RESYNC_MS);
  const resumed = primary.qmp.waitFor('RESUME', () => true, RESYNC_MS);
  await primary.qmp.execute('migrate-set-parameters', { 'x-checkpoint-delay': CHECKPOINT_DELAY_MS });
  await resumeReplication(primary.qmp, at, formerSecondary);
  await Promise.all([running, resumed]);
  await firstCheckpoint(primary.qmp);
}

/** Protected is who has taken a checkpoint. Throws ColoError when the pair fell apart before. */
async function firstCheckpoint(qmp: QmpClient): Promise<void> {
  await qmp.execute('x-colo-checkpoint');
  for (;;) {
    const { count } = (await qmp.execute('query-colo-checkpoints')) as { count: number };
    if (count > 0) return;
    const { mode } = (await qmp.execute('query-colo-status')) as { mode: string };
    const { status, 'error-desc': why } = (await qmp.execute('query-migrate')) as Record<string, string>;
    if (mode !== 'primary' || status !== 'colo')
      throw new ColoError(`protection failed: ${why ?? status ?? mode}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
