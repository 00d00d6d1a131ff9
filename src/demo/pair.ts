/** Makes a pair of a running primary and a started secondary: addresses, resync, COLO, and the first checkpoint. */
import { ColoError } from '../base/errors.ts';
import type { PairLinks } from '../ha/pair-links.ts';
import { awaitResync, exportSecondaryDisks, resumeReplication, startResync } from '../ha/procedure.ts';
import type { PairSpec, Qmp, ResyncProgress } from '../ha/procedure.ts';
import { freePorts } from './free-ports.ts';
import type { QmpClient } from '../qmp/client.ts';
import type { Teller } from './report.ts';

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

export interface PairMember {
  readonly qmp: Pick<QmpClient, 'execute' | 'waitFor'>;
}

export interface ProtectOptions {
  /** As in startResync. */
  readonly bitmap?: string;
  /** What the secondary takes the links for, if there is a relay in between; it is `links` else. */
  readonly seenBySecondary?: PairLinks;
  /** Breaks the resync off. */
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: ResyncProgress) => void;
  /** The disks are equal: the guest's state is next. */
  readonly onSynced?: () => void;
}

/** Resync while the guest runs, then COLO; ends with both copies running. */
export async function protect(
  primary: PairMember,
  secondary: PairMember,
  spec: PairSpec,
  links: PairLinks,
  tell: Pick<Teller, 'progress'>,
  { bitmap, seenBySecondary = links, signal, onProgress, onSynced }: ProtectOptions = {},
): Promise<void> {
  await exportSecondaryDisks(secondary.qmp, spec, seenBySecondary);
  await startResync(primary.qmp, spec, links, bitmap);
  const bar = tell.progress('resync');
  try {
    await awaitResync(primary.qmp, spec, {
      onProgress: (progress) => {
        const { doneBytes, totalBytes } = progress;
        if (totalBytes > 0) bar.update(doneBytes / totalBytes);
        onProgress?.(progress);
      },
      ...(signal ? { signal } : {}),
    });
  } finally {
    bar.done();
  }
  onSynced?.();
  const bothRun = Promise.all([running(secondary, signal), running(primary, signal)]);
  // When the next line fails nobody waits for it.
  bothRun.catch(() => undefined);
  await resumeReplication(primary.qmp, spec, links);
  await bothRun;
  await firstCheckpoint(primary.qmp);
}

function running({ qmp }: PairMember, signal?: AbortSignal): Promise<unknown> {
  return qmp.waitFor('RESUME', () => true, STEP_MS, signal);
}

/** Protected is who has taken a checkpoint. Throws ColoError when the pair fell apart before. */
async function firstCheckpoint(qmp: Qmp): Promise<void> {
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
