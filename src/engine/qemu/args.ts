/** QEMU's command line: what the spec passes through, and what is the engine's own. */
import { CHILD_FD } from './child.ts';
import type { DiskPort } from './disk-port.ts';
import { pathOfFd } from './hidden-socket.ts';
import { escapeOption } from './spec.ts';
import type { QemuSpec } from './spec.ts';

const FIRST_WITH_MSIX = 10;

/** NICs at the other end of a pipe; the others connect to sockets, which come behind all pipes. */
export function pipedNics({ nics }: QemuSpec): number {
  return nics.filter(({ isVirtio }) => isVirtio !== true).length;
}

/** Its pipes: where a state comes in, if `incoming`; its NICs; its serial ports; other chardevs. */
export function qemuArgs(spec: QemuSpec, disks: DiskPort, vncPath: string | null): string[] {
  let nicFd = CHILD_FD.pipes + (spec.incoming ? 1 : 0);
  const serialFd = nicFd + pipedNics(spec);
  let vhostFd = serialFd + spec.serialPorts + spec.chardevs.length;
  const args = [
    '-name',
    `guest=${escapeOption(spec.name)}`,
    '-S',
    '-no-shutdown',
    '-no-user-config',
    // What QEMU cannot migrate would fail the first checkpoint; it says which device that is.
    '-only-migratable',
    '-object',
    `memory-backend-file,id=colo-ram,size=${spec.ramBytes},mem-path=${pathOfFd(CHILD_FD.ram)},share=on`,
    '-machine',
    `${spec.machine},memory-backend=colo-ram`,
    '-m',
    `${spec.ramBytes / 2 ** 20}M`,
    '-monitor',
    'none',
    '-parallel',
    'none',
    '-display',
    'none',
  ];
  args.push(...disks.args(spec.disks));
  spec.nics.forEach(({ netdev, isVirtio }, at) => {
    const id = escapeOption(netdev);
    if (isVirtio === true) {
      const chardev = `colo-nic${at}`;
      args.push('-chardev', `socket,id=${chardev},path=${pathOfFd(vhostFd++)}`);
      args.push('-netdev', `vhost-user,id=${id},chardev=${chardev}`);
    } else args.push('-netdev', `stream,id=${id},server=off,addr.type=fd,addr.str=${nicFd++}`);
  });
  if (spec.nics.length === 0) args.push('-nic', 'none');
  if (spec.serialPorts === 0) args.push('-serial', 'none');
  for (let at = 0; at < spec.serialPorts; at++) {
    const id = `colo-serial${at}`;
    args.push('-chardev', `socket,id=${id},fd=${serialFd + at}`, '-serial', `chardev:${id}`);
  }
  spec.chardevs.forEach((id, at) => {
    args.push('-chardev', `socket,id=${escapeOption(id)},fd=${serialFd + spec.serialPorts + at}`);
  });
  if (vncPath !== null) {
    args.push(
      '-vnc',
      [`unix:${escapeOption(vncPath)}`, spec.vnc ?? ''].filter((part) => part !== '').join(','),
    );
  }
  args.push(...spec.args);
  // Without KVM's help an older QEMU dies of a vhost-user NIC that uses MSI-X (docs/qemu-behaviour.md 13): it gets the one
  // line of PCI instead. What `-device` says itself
  // has precedence, so that planQemu looks at it.
  if (pipedNics(spec) < spec.nics.length && spec.hasIrqfd !== true && spec.qemu.major < FIRST_WITH_MSIX) {
    args.push('-global', 'virtio-net-pci-base.vectors=0');
  }
  if (spec.incoming) args.push('-incoming', 'defer');
  return args;
}
