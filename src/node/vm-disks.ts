/** A VM's disks on this host as its controller needs them, over the folder that keeps them (ha/disks). */
import { DiskFolder, settleBeforeTakeOver } from '../ha/disks/index.ts';
import type { VmDisks } from './parts.ts';

/** Throws DisksError for a record that cannot be read. */
export async function openDisks(path: string, vm: string): Promise<VmDisks> {
  const folder = await DiskFolder.open(path, vm);
  return {
    get kind() {
      return folder.record.kind;
    },
    forStart: (spec, of) => (folder.record.kind === 'none' ? folder.makeFirst(spec, of) : folder.start(of)),
    forJoin: async (sizes, pairing) => {
      const { kind } = folder.record;
      // Whoever invites holds the arbiter's record: what is here has been gone on without.
      if (kind === 'whole' || kind === 'merging') await folder.note({ type: 'left' });
      const isBitmapEnough = await folder.isBitmapEnough(pairing, sizes);
      return { disks: await folder.makeTarget(sizes, isBitmapEnough), isBitmapEnough };
    },
    current: () => folder.disks(),
    settle: (qmp) => settleBeforeTakeOver(qmp, folder),
    note: (event) => folder.note(event),
    remove: () => folder.remove(),
  };
}
