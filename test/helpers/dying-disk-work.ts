/** The other end of a process that works on a disk, and kills itself as it tells how far it is for the n-th time. */
import { doDiskWork, type DiskWork } from '../../src/ha/disks/work.ts';

const place = Number(process.argv[2]);
let told = 0;
process.once('message', (work: DiskWork) => {
  void doDiskWork(work, () => {
    if (++told === place) process.kill(process.pid, 'SIGKILL');
  }).finally(() => process.disconnect());
});
