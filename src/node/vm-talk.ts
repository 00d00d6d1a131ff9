/** Small dialogues with a VM's monitor that end by themselves. */
import type { RunningVm } from '../ha/index.ts';

const QUIT_MS = 10_000;
/** Jobs that merge a secondary's overlays after a take-over are called so. */
const MERGE_JOB = 'failover-';
const MERGE_LOOK_MS = 250;
const CHECKPOINT_LOOK_MS = 20;

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Whether its guest was a secondary's, and still is or was last. */
export async function isFollower({ qmp }: RunningVm): Promise<boolean> {
  const said = (await qmp.execute('query-colo-status')) as { mode: string; 'last-mode': string };
  return said.mode === 'secondary' || (said.mode === 'none' && said['last-mode'] === 'secondary');
}

/** A process whose guest waits for its first `cont`. */
export async function hasNeverRun({ qmp }: RunningVm): Promise<boolean> {
  const { status } = (await qmp.execute('query-status')) as { readonly status: string };
  return status === 'prelaunch';
}

/** With its images flushed; whoever does not answer is killed by the caller. */
export async function quit(vm: RunningVm): Promise<void> {
  try {
    await vm.qmp.execute('quit', {}, { timeoutMs: QUIT_MS });
  } catch {
    return;
  }
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, QUIT_MS)));
  await Promise.race([vm.exited, late]);
  clearTimeout(timer);
}

/** Resolves when the overlays of a take-over are in the disks. */
export async function merged({ qmp }: RunningVm): Promise<void> {
  for (;;) {
    const jobs = (await qmp.execute('query-block-jobs')) as readonly { readonly device: string }[];
    if (!jobs.some(({ device }) => device.startsWith(MERGE_JOB))) return;
    await pause(MERGE_LOOK_MS);
  }
}

/** Asks for one and waits until it is the secondary's. False: protection ended first. */
export async function takeCheckpoint(
  { qmp }: { readonly qmp: Pick<RunningVm['qmp'], 'execute'> },
  isProtected: () => boolean,
): Promise<boolean> {
  const count = async (): Promise<number> =>
    ((await qmp.execute('query-colo-checkpoints')) as { readonly count: number }).count;
  const before = await count();
  await qmp.execute('x-colo-checkpoint');
  while (isProtected()) {
    if ((await count()) !== before) return true;
    await pause(CHECKPOINT_LOOK_MS);
  }
  return false;
}
