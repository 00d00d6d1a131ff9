/**
 * The copies of a VM's disks to a new secondary, one drive-mirror a disk, while the guest runs. A job stays in the list
 * when it has ended (auto-dismiss off), so that how it ended can be asked for, also by a daemon that has just started.
 */
import { ColoError, TimeoutError } from '../base/errors.ts';
import { QmpCommandError } from '../qmp/client.ts';
import { bracketed } from './command-line.ts';
import { diskNames } from './names.ts';
import type { PairLinks } from './pair-links.ts';
import { blockJobs, pause } from './qmp-queries.ts';
import type { BlockJob, Qmp } from './qmp-queries.ts';
import type { VmSpec } from './spec/vm-spec.ts';

const LOOK_MS = 100;
/** Of mirrors that were cut: a last flush of the other host's disk. */
const CUT_LOOK_MS = 5;
const CUT_MS = 30_000;

type Disks = Pick<VmSpec, 'disks'>;

export interface ResyncProgress {
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** Every disk has been copied, and what is written is copied as it comes. */
  readonly isReady: boolean;
  /** Why it will not get ready, or null. */
  readonly error: string | null;
}

/**
 * Primary: begins to copy. `bitmap`: only what it holds, to the very disks that it was kept for (docs/procedure.md says
 * when `parted` may be used); else whole disks. Jobs that run already are left alone. The spec's rate is for all disks
 * together.
 */
export async function startResync(
  qmp: Qmp,
  spec: Disks & Pick<VmSpec, 'resync'>,
  links: PairLinks,
  bitmap?: string,
): Promise<void> {
  const jobs = await blockJobs(qmp);
  const { bytesPerSecond } = spec.resync;
  const speed = bytesPerSecond === 0 ? 0 : Math.max(1, Math.floor(bytesPerSecond / spec.disks.length));
  const what =
    bitmap === undefined ? { sync: 'full' } : { sync: 'bitmap', bitmap, 'bitmap-mode': 'on-success' };
  for (const at of spec.disks.keys()) {
    const { disk, parent, resyncJob } = diskNames(at);
    const old = jobs.get(resyncJob);
    if (old && !old.isOver) continue;
    if (old) await qmp.execute('job-dismiss', { id: resyncJob });
    await qmp.execute('drive-mirror', {
      ...{ device: disk, 'job-id': resyncJob, target: exportUri(links, parent), mode: 'existing' },
      ...{ format: 'raw', ...what, 'auto-dismiss': false },
      ...(speed === 0 ? {} : { speed }),
    });
  }
}

export async function resyncProgress(qmp: Qmp, spec: Disks): Promise<ResyncProgress> {
  const jobs = await blockJobs(qmp);
  let doneBytes = 0;
  let totalBytes = 0;
  let isReady = true;
  let error: string | null = null;
  for (const at of spec.disks.keys()) {
    const { disk, resyncJob } = diskNames(at);
    const job = jobs.get(resyncJob);
    doneBytes += job?.doneBytes ?? 0;
    totalBytes += job?.totalBytes ?? 0;
    isReady &&= job?.isReady === true && !job.isOver;
    error ??= troubleOf(disk, job);
  }
  return { doneBytes, totalBytes, isReady, error };
}

/** Resolves when every disk is ready. Throws ColoError when one will not be, and what `signal` was aborted with. */
export async function awaitResync(
  qmp: Qmp,
  spec: Disks,
  { onProgress, signal }: { onProgress?: (progress: ResyncProgress) => void; signal?: AbortSignal } = {},
): Promise<void> {
  for (;;) {
    signal?.throwIfAborted();
    const progress = await resyncProgress(qmp, spec);
    onProgress?.(progress);
    if (progress.error !== null) throw new ColoError(progress.error);
    if (progress.isReady) return;
    await pause(LOOK_MS);
  }
}

/**
 * Primary, guest stopped: ends the copies, so that the other disks are equal to these. Throws ColoError when one could not
 * be ended well; its disk is no copy then.
 */
export async function cutMirrors(qmp: Qmp, spec: Disks): Promise<void> {
  const names = [...spec.disks.keys()].map(diskNames);
  // Of a mirror that is ready this is the good end.
  await Promise.all(names.map(({ resyncJob }) => qmp.execute('block-job-cancel', { device: resyncJob })));
  const deadline = performance.now() + CUT_MS;
  for (;;) {
    const jobs = await blockJobs(qmp);
    const ours = names.map(({ disk, resyncJob }) => ({ disk, job: jobs.get(resyncJob) }));
    if (ours.every(({ job }) => job === undefined || job.isOver)) {
      await dismiss(qmp, jobs, spec);
      for (const { disk, job } of ours) {
        if (job === undefined || job.error !== null) throw new ColoError(troubleOf(disk, job) ?? '');
      }
      return;
    }
    if (performance.now() > deadline) throw new TimeoutError('The copies to the other host do not end');
    await pause(CUT_LOOK_MS);
  }
}

/** Breaks off what runs, and forgets all of it. */
export async function forgetResync(qmp: Qmp, spec: Disks): Promise<void> {
  const deadline = performance.now() + CUT_MS;
  let refusal: QmpCommandError | undefined;
  for (let isFirst = true; ; isFirst = false) {
    const jobs = await blockJobs(qmp);
    const running = [...spec.disks.keys()].flatMap((at) => {
      const job = jobs.get(diskNames(at).resyncJob);
      return job && !job.isOver ? [job] : [];
    });
    if (running.length === 0) {
      await dismiss(qmp, jobs, spec);
      return;
    }
    if (isFirst) {
      for (const { id } of running) {
        await qmp.execute('block-job-cancel', { device: id, force: true }).catch((error: unknown) => {
          // One that was ending already may have ended since it was looked at: the next look tells.
          if (!(error instanceof QmpCommandError)) throw error;
          refusal = error;
        });
      }
    }
    if (performance.now() > deadline) {
      throw new TimeoutError('The copies to the other host do not end', { cause: refusal });
    }
    await pause(CUT_LOOK_MS);
  }
}

async function dismiss(qmp: Qmp, jobs: ReadonlyMap<string, BlockJob>, { disks }: Disks): Promise<void> {
  for (const at of disks.keys()) {
    const { resyncJob } = diskNames(at);
    if (jobs.get(resyncJob)?.isOver) await qmp.execute('job-dismiss', { id: resyncJob });
  }
}

function troubleOf(disk: string, job: BlockJob | undefined): string | null {
  if (!job) return `The copy of ${disk} is not there any more`;
  if (!job.isOver) return null;
  return `The copy of ${disk} has ended: ${job.error ?? 'it was cut'}`;
}

function exportUri({ secondaryHost, nbdPort, tlsFolder }: PairLinks, name: string): string {
  const where = `${bracketed(secondaryHost)}:${nbdPort}/${name}`;
  if (tlsFolder === undefined) return `nbd://${where}`;
  return `nbds://${where}?tls-certificates=${encodeURIComponent(tlsFolder)}`;
}
