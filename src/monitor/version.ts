import type { QmpVersion } from '../qmp/types.ts';
import type { VirtualMachine } from '../vm/machine.ts';

/**
 * The version that the greeting and query-version tell. Managers choose their spellings by it; ours takes the old and
 * the new ones, so it names the newest QEMU whose COLO commands are all understood.
 */
export const QEMU_VERSION = {
  qemu: { major: 7, minor: 2, micro: 0 },
  package: 'colo-ft',
} as const;

/** With a QEMU below, its version: what is passed on to it is spelt as it spells it. */
export function versionOf(vm: VirtualMachine): QmpVersion {
  const { qemu } = vm.engine?.monitor?.version ?? QEMU_VERSION;
  return { qemu, package: QEMU_VERSION.package };
}
