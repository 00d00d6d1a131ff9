/** Whole steps of QEMU's procedure (ha/procedure.ts), each waited for until it is done. */
import { ColoError, TimeoutError } from '../base/errors.ts';
import type { RunningVm } from '../ha/index.ts';
import { cutExports } from '../ha/failover.ts';
import {
  addPrimaryChardevs,
  awaitResync,
  exportSecondaryDisks,
  failoverPrimary,
  failoverSecondary,
  removePrimaryChardevs,
  resumeReplication,
  startResync,
} from '../ha/procedure.ts';
import type { Steps } from './parts.ts';

/** The state of a large guest takes its time; a peer that dies ends the wait sooner. */
const ENTER_MS = 600_000;
const LOOK_MS = 20;
/** What the primary's bitmap since the end of the last pair is called. */
const BITMAP = 'parted';

export const QMP_STEPS: Steps = {
  exportDisks: (vm, spec, links) => exportSecondaryDisks(vm.qmp, spec, links),
  openPacketSockets: (vm, spec, links) => addPrimaryChardevs(vm.qmp, spec, links),
  resync: async (vm, spec, links, { isBitmapEnough, signal, onProgress }) => {
    await startResync(vm.qmp, spec, links, isBitmapEnough ? BITMAP : undefined);
    await awaitResync(vm.qmp, spec, {
      signal,
      onProgress: ({ doneBytes, totalBytes }) => onProgress(doneBytes, totalBytes),
    });
  },
  enterColo: async (vm, spec, links) => {
    await resumeReplication(vm.qmp, spec, links);
    await inColo(vm);
  },
  primaryAlone: async (vm, spec) => {
    await failoverPrimary(vm.qmp, spec);
    await removePrimaryChardevs(vm.qmp, spec);
  },
  cutExports: (vm) => cutExports(vm.qmp),
  secondaryAlone: (vm, spec) => failoverSecondary(vm.qmp, spec),
};

/** Both guests run, or it has come to nothing. */
async function inColo({ qmp }: RunningVm): Promise<void> {
  const deadline = performance.now() + ENTER_MS;
  for (;;) {
    const [{ mode }, { status, 'error-desc': why }, { running }] = (await Promise.all([
      qmp.execute('query-colo-status'),
      qmp.execute('query-migrate'),
      qmp.execute('query-status'),
    ])) as [{ mode: string }, { status?: string; 'error-desc'?: string }, { running: boolean }];
    if (mode === 'primary' && status === 'colo' && running) return;
    if (status === 'failed' || status === 'cancelled') {
      throw new ColoError(`the guest could not be handed over: ${why ?? status}`);
    }
    if (performance.now() > deadline) throw new TimeoutError('the guest was not handed over in time');
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}
