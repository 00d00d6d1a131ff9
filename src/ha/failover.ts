/**
 * How a pair ends on the side that goes on alone. Whoever was interrupted calls it again: each step asks what there is
 * before it takes it away. The guest is heard first, the rest is tidying up. Nothing here decides anything; callers know
 * which side died, and that this one may go on.
 */
import { ColoError, TimeoutError, messageOf } from '../base/errors.ts';
import { diskNames, nicNames } from './names.ts';
import {
  chardevs,
  coloStatus,
  exportIds,
  hmp,
  migrationStatus,
  nodeNames,
  objectIds,
  pause,
  runState,
} from './qmp-queries.ts';
import type { Qmp } from './qmp-queries.ts';
import { forgetResync } from './resync.ts';
import type { VmSpec } from './spec/vm-spec.ts';

/** An outgoing migration that was told to end. */
const CANCEL_MS = 10_000;
/** A guest that is on its way out of a pair. */
const LEAVE_MS = 30_000;
const LOOK_MS = 10;

type Parts = Pick<VmSpec, 'disks' | 'nics'>;

/**
 * Primary, there is no secondary any more, or there shall be none: go on alone. Also for a pair that was never whole.
 * First the writes that wait for the other host, then what the guest has said: it is heard when the second line has
 * been answered. A guest that stands because it was stopped for the end of a resync runs again.
 */
export async function failoverPrimary(qmp: Qmp, spec: Parts): Promise<void> {
  await Promise.all([...spec.disks.keys()].map((at) => detach(qmp, diskNames(at).disk)));
  const wasPair = await leaveColo(qmp);
  await removeObjects(
    qmp,
    [...spec.nics.keys()].map(nicNames).flatMap((names) => [
      // The comparer first: what it holds goes out while the filter behind it is there.
      ...[names.comparer, names.iothread, names.mirror],
      ...[names.fromComparerFilter, names.toComparerFilter],
    ]),
  );
  await forgetResync(qmp, spec);
  const nodes = await nodeNames(qmp);
  for (const at of spec.disks.keys()) {
    const { replication } = diskNames(at);
    if (nodes.has(replication)) await hmp(qmp, `drive_del ${replication}`);
  }
  if (!wasPair && (await runState(qmp)) === 'paused') await qmp.execute('cont');
}

/**
 * Secondary, the primary is no more: take over. The guest is heard when the second line has been answered. Throws
 * ColoError when this is no copy of a running guest.
 */
export async function failoverSecondary(qmp: Qmp, spec: Parts): Promise<void> {
  const [{ mode, lastMode, isLeaving }, exported] = await Promise.all([coloStatus(qmp), exportIds(qmp)]);
  if (mode !== 'secondary' && lastMode !== 'secondary')
    throw new ColoError('This process has no state of the guest: it cannot take over');
  if (exported.size > 0) await qmp.execute('nbd-server-stop');
  if (mode === 'secondary') await goAlone(qmp, isLeaving);
  const names = [...spec.nics.keys()].map(nicNames);
  await removeObjects(
    qmp,
    names.flatMap(({ toCompareFilter, fromMirrorFilter }) => [toCompareFilter, fromMirrorFilter]),
  );
  const present = await chardevs(qmp);
  for (const id of names.flatMap(({ toCompare, fromMirror }) => [toCompare, fromMirror])) {
    if (present.has(id)) await qmp.execute('chardev-remove', { id });
  }
}

/** Secondary: what a half-dead primary still sends must not reach the disks. May be done before it is known who goes on. */
export async function cutExports(qmp: Qmp): Promise<void> {
  if ((await exportIds(qmp)).size > 0) await qmp.execute('nbd-server-stop');
}

/** Takes the forwarding node out of a disk, if it is in it. */
async function detach(qmp: Qmp, disk: string): Promise<void> {
  try {
    await qmp.execute('x-blockdev-change', { parent: disk, child: 'children.1' });
  } catch (error) {
    // To ask first would cost time, and no command tells a quorum's children.
    if (!/does not have child/.test(messageOf(error))) throw error;
  }
}

/** Ends COLO, or the way into it. Returns whether there was a pair. */
async function leaveColo(qmp: Qmp): Promise<boolean> {
  const deadline = performance.now() + CANCEL_MS;
  for (;;) {
    const { mode, isLeaving } = await coloStatus(qmp);
    if (mode === 'secondary')
      throw new ColoError('This process is a secondary: it has nothing to go on with');
    if (mode === 'primary') {
      await goAlone(qmp, isLeaving);
      return true;
    }
    const status = await migrationStatus(qmp);
    if (!['setup', 'active', 'cancelling'].includes(status)) return false;
    if (performance.now() > deadline) throw new TimeoutError('The migration to the other host does not end');
    await qmp.execute('migrate_cancel');
    await pause(LOOK_MS);
  }
}

/** `isLeaving`: somebody has typed the line already, and was gone before it was answered. */
async function goAlone(qmp: Qmp, isLeaving: boolean): Promise<void> {
  if (!isLeaving) {
    await qmp.execute('x-colo-lost-heartbeat');
    return;
  }
  const deadline = performance.now() + LEAVE_MS;
  while ((await coloStatus(qmp)).mode !== 'none') {
    if (performance.now() > deadline) throw new TimeoutError('This side does not get out of COLO');
    await pause(LOOK_MS);
  }
}

async function removeObjects(qmp: Qmp, ids: readonly string[]): Promise<void> {
  const present = await objectIds(qmp);
  for (const id of ids) if (present.has(id)) await qmp.execute('object-del', { id });
}
