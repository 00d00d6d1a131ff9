/** Makes a pair of a running primary and a started secondary: addresses, resync, COLO, and the first checkpoint. */
import { ColoError } from '../base/errors.ts';
import type { PairLinks } from '../ha/pair-links.ts';
import { awaitResync, exportSecondaryDisks, resumeReplication, startResync } from '../ha/procedure.ts';
import type { PairSpec } from '../ha/procedure.ts';
import type { QmpClient } from '../qmp/client.ts';
import { freePorts } from './free-ports.ts';
import type { Teller } from './report.ts';
import type { VmProcess } from './vm-process.ts';

export const HOSTS = ['127.0.0.1', '127.0.0.2'] as const;
const STEP_MS = 300_000;

/** A pair's ports, fresh for every generation, so that a dying process's sockets are in nobody's way. */
export async function pairLinks(primaryHost: string): Promise<PairLinks> {
  const secondaryHost = primaryHost === HOSTS[0] ? HOSTS[1] : HOSTS[0];
  const [mirrorPort, comparePort, nbdPort, migrationPort] = (await freePorts(4, HOSTS)) as [
    number,
    number,
    number,
    number,
  ];
  return {
    primaryHost,
    secondaryHost,
    nics: [{ id: 'nic0', mirrorPort, comparePort }],
    nbdPort,
    migrationPort,
  };
}

/** Resync while the guest runs, then COLO; ends with both copies running. `bitmap`: as in startResync. */
export async function protect(
  primary: VmProcess,
  secondary: VmProcess,
  spec: PairSpec,
  links: PairLinks,
  tell: Teller,
  bitmap?: string,
): Promise<void> {
  await exportSecondaryDisks(secondary.qmp, spec, links);
  await startResync(primary.qmp, spec, links, bitmap);
  const bar = tell.progress('resync');
  await awaitResync(primary.qmp, spec, {
    onProgress: ({ doneBytes, totalBytes }) => {
      if (totalBytes > 0) bar.update(doneBytes / totalBytes);
    },
  });
  bar.done();
  const running = secondary.qmp.waitFor('RESUME', () => true, STEP_MS);
  const resumed = primary.qmp.waitFor('RESUME', () => true, STEP_MS);
  await resumeReplication(primary.qmp, spec, links);
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
