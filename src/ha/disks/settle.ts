/**
 * Before a secondary takes over, while the arbiter is being asked: what its guest sees is put on stable storage, so that
 * the record may say `merging` before the guest is heard. Until then overlays are written without regard to power
 * failures, so it is the process that writes them which has to do it.
 *
 * Assumes that the export has been cut (nbd-server-stop): the images and the hidden disks are not written to any more.
 */
import type { DiskFolder } from './disk-folder.ts';
import type { Qmp } from '../procedure.ts';

/** Throws what the connection throws, or DisksError. */
export async function settleBeforeTakeOver(qmp: Qmp, folder: Pick<DiskFolder, 'settle'>): Promise<void> {
  await qmp.execute('x-colo-prepare-failover');
  // The same once more for the files, whoever wrote them: it costs nothing where there is nothing left to do.
  await folder.settle();
}
