/**
 * What a stock QEMU could do and a protected guest must not ask of it, each with the reason and the way out. A guest is
 * protected as a whole: what its state, its memory or its files leave out would be lost at a failover. QEMU itself
 * refuses devices that it cannot migrate, as the engine gives it -only-migratable; here is what it would let pass.
 */
import { ParameterError } from '../../base/errors.ts';
import type { Options } from './keyval.ts';

const HOST_FILES = "files of the host are not part of the guest's state; put them on a disk of the guest";
const NO_WINDOW = 'a window or its connections would end with each checkpoint; use -vnc';
const OUR_RAM = 'guest RAM is memory that is shared with this process; give its size with -m, nothing else';
const OUR_DISKS = "the guest's disks are this process's; use -drive or -blockdev";
const AS_USER = 'start this process as that user, or confined, in the first place; a service manager does it';
const OTHER_MACHINE = 'the PC has none';
const ONE_ADDRESS = 'two processes cannot listen at one address, and the guest moves between processes';

const OPTIONS: ReadonlyMap<string, string> = new Map([
  ['numa', `the nodes' memory would take the place of the one that is protected; leave it out`],
  ['mem-path', OUR_RAM],
  ['mem-prealloc', OUR_RAM],
  [
    'snapshot',
    'it would hide the writes; put a qcow2 image with a backing file in front (colo img create -b)',
  ],
  ['loadvm', 'there are no snapshots of a running machine; use -incoming'],
  ['readconfig', 'give the options on the command line'],
  ['set', 'give the value in the option itself'],
  ['fsdev', HOST_FILES],
  ['virtfs', HOST_FILES],
  ['virtfs_synth', HOST_FILES],
  ['iscsi', OUR_DISKS],
  ['mtdblock', OTHER_MACHINE],
  ['sd', OTHER_MACHINE],
  ['spice', NO_WINDOW],
  ['full-screen', NO_WINDOW],
  ['portrait', NO_WINDOW],
  ['rotate', NO_WINDOW],
  ['parallel', 'use -chardev …,id=ID and -device isa-parallel,chardev=ID'],
  ['debugcon', 'use -chardev …,id=ID and -device isa-debugcon,iobase=0x402,chardev=ID'],
  ['tpmdev', 'the state of a TPM is in another process or in a chip of the host'],
  ['gdb', ONE_ADDRESS],
  ['s', ONE_ADDRESS],
  ['add-fd', 'file descriptors do not reach QEMU through this process'],
  ['chroot', AS_USER],
  ['runas', AS_USER],
  ['preconfig', 'the machine is configured by the command line alone'],
  ['dump-vmstate', 'ask the QEMU itself'],
  ['audio-help', 'ask the QEMU itself'],
  ['audiodev-help', 'ask the QEMU itself'],
  ['echr', 'there is no multiplexed console'],
  ['xen-attach', OTHER_MACHINE],
  ['xen-domid', OTHER_MACHINE],
  ['xen-domid-restrict', OTHER_MACHINE],
  ['prom-env', OTHER_MACHINE],
  ['semihosting', OTHER_MACHINE],
  ['semihosting-config', OTHER_MACHINE],
  ['old-param', OTHER_MACHINE],
  ['g', OTHER_MACHINE],
  ['qtest', 'a guest that qtest drives is no guest to protect'],
  ['qtest-log', 'a guest that qtest drives is no guest to protect'],
  ['soundhw', 'QEMU has dropped it; use -audiodev and -device'],
  ['balloon', 'QEMU has dropped it; use -device virtio-balloon'],
  ['tb-size', 'QEMU has dropped it; use -accel tcg,tb-size='],
]);

/** Why QEMU's option `name` is refused when a QEMU executes the guest; null when it has none of that name. */
export function whyQemuRefuses(name: string): string | null {
  const reason = OPTIONS.get(name);
  return reason === undefined ? null : `not supported: ${reason}`;
}

export const QEMU_REFUSED: ReadonlySet<string> = new Set(OPTIONS.keys());

const NOT_OURS = 'its state is in the host, not in the guest, and would be lost at a failover';
const BY_PACKETS = 'its packets or requests would pass by the filters and disks of this process';
const PLUGGED_RAM = 'its memory would travel whole in each checkpoint; give all memory with -m';

const DEVICES: readonly (readonly [RegExp, string])[] = [
  [/^vfio-/, NOT_OURS],
  [/^vhost-|^vdpa-/, BY_PACKETS],
  [/^ivshmem/, 'memory shared with other programs is not part of a checkpoint'],
  [/^virtio-(9p|pmem|mem)/, HOST_FILES],
  [/^(pc-dimm|nvdimm)$/, PLUGGED_RAM],
  [/^usb-(host|mtp|storage-host)$/, NOT_OURS],
  [/^(u2f-passthru|ccid-card-passthru|scsi-block|scsi-generic|pci-assign)$/, NOT_OURS],
  [/^tpm-/, 'the state of a TPM is in another process or in a chip of the host'],
];

/** Throws ParameterError for a device that would break a pair, though QEMU can migrate it. */
export function checkDevice(driver: string): void {
  const reason = DEVICES.find(([pattern]) => pattern.test(driver))?.[1];
  if (reason !== undefined) throw new ParameterError(`a ${driver} cannot be protected: ${reason}`);
}

/** Objects that this process makes: the packet path, and what disks and sockets of ours need. */
export function isOurObject(type: string): boolean {
  return /^(filter-|colo-compare$|iothread$|tls-creds-|throttle-group$)/.test(type);
}

/** Throws ParameterError for an object that would break a pair. */
export function checkObject(options: Options): void {
  const type = options['qom-type'] ?? '';
  if (/^(sev-|tdx-|s390-pv|pef-)/.test(type)) {
    throw new ParameterError('encrypted memory cannot be compared or copied; leave it out');
  }
  if (/^(x-remote|x-vfio-user|vfio-user|pr-manager|input-linux|iommufd|cryptodev-vhost)/.test(type)) {
    throw new ParameterError(`a ${type} cannot be protected: ${NOT_OURS}`);
  }
  if (!type.startsWith('memory-backend-')) return;
  const isShared = options['share'] ?? (/-(memfd|shm|epc)$/.test(type) ? 'on' : 'off');
  if (isShared !== 'off') {
    throw new ParameterError('shared memory is not part of a checkpoint; give share=off');
  }
}

const MACHINES: ReadonlyMap<string, string> = new Map([
  ['none', 'machine type none runs without an accelerator; leave -accel out'],
  ['microvm', 'QEMU cannot migrate a microvm; use pc or q35'],
  ['x-remote', 'x-remote is part of another machine; use pc or q35'],
  ['xenfv', 'Xen is not served; use pc or q35'],
  ['xenpv', 'Xen is not served; use pc or q35'],
  ['nitro-enclave', 'an enclave cannot be migrated; use pc or q35'],
]);

/** Throws ParameterError for a machine type or a property that would break a pair. */
export function checkMachine(options: Options): void {
  const type = options['type'] ?? '';
  const reason = MACHINES.get(type.replace(/^(xen[fp]v)-.*/, '$1'));
  if (reason !== undefined) throw new ParameterError(reason);
  for (const key of Object.keys(options)) {
    if (key === 'memory-backend') throw new ParameterError(`${key}: ${OUR_RAM}`);
    if (key === 'memory-encryption' || key === 'confidential-guest-support') {
      throw new ParameterError(`${key}: encrypted memory cannot be compared or copied; leave it out`);
    }
    if (/^(sgx-epc|cxl-fmw)\./.test(key)) throw new ParameterError(`${key}: its memory is not protected`);
  }
}

/** Throws ParameterError: a display of QEMU's own, other than none. */
export function checkDisplay(text: string): void {
  const type = text.split(',', 1)[0] ?? '';
  if (type !== 'none' && type !== 'default') throw new ParameterError(`not supported: ${NO_WINDOW}`);
}

/** Throws ParameterError: -run-with that changes who the process is. */
export function checkRunWith(options: Options): void {
  for (const key of Object.keys(options)) {
    if (key === 'user' || key === 'chroot') throw new ParameterError(`${key}: ${AS_USER}`);
  }
}
