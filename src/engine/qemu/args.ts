/** QEMU's command line: what the spec passes through, and what is the engine's own. */
import { CHILD_FD } from './child.ts';
import type { DiskPort } from './disk-port.ts';
import { pathOfFd } from './hidden-socket.ts';
import { escapeOption } from './spec.ts';
import type { QemuSpec } from './spec.ts';

/** Its pipes: where a state comes in, if `incoming`; its NICs; its serial ports; other chardevs. */
export function qemuArgs(spec: QemuSpec, disks: DiskPort, vncPath: string | null): string[] {
  const nicFd = CHILD_FD.pipes + (spec.incoming ? 1 : 0);
  const serialFd = nicFd + spec.nics.length;
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
  spec.nics.forEach(({ netdev }, at) => {
    args.push('-netdev', `stream,id=${escapeOption(netdev)},server=off,addr.type=fd,addr.str=${nicFd + at}`);
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
  if (spec.incoming) args.push('-incoming', 'defer');
  return args;
}
