/**
 * The words of `colo vm` for a VM's two kinds of process, from what a person wrote: a first primary, which boots
 * unprotected and gets its packet path when a secondary is there, and a secondary. In the words of QEMU's
 * docs/COLO-FT.txt; docs/operations.md has the same lines for one disk and one NIC.
 *
 * Left to the caller: -name, -qmp, -serial, -vnc, -S, and making the disks. A NIC on a bridge needs no more than these words:
 * the process makes the TAP device and puts it into the bridge itself (net/netdevs/tap.ts), and both go with it.
 */
import { ParameterError } from '../base/errors.ts';
import { TLS_CLIENT, TLS_SERVER, diskNames, nicNames, tapName } from './names.ts';
import type { PairLinks } from './pair-links.ts';
import type { VmDisk } from './room.ts';
import type { DiskSpec, NicSpec, VmSpec } from './spec/vm-spec.ts';

export interface CommandLineOptions {
  /** See tapName. */
  readonly tapTag?: string;
}

/** Throws ParameterError when `disks` are not those of the spec. */
export function firstPrimaryArguments(
  spec: VmSpec,
  disks: readonly VmDisk[],
  options: CommandLineOptions = {},
): string[] {
  requireDisks(spec, disks);
  return [
    ...machineArguments(spec, options),
    ...disks.flatMap(({ image }, at) => [
      '-drive',
      `${quorum(spec, at)},children.0.file.filename=${value(image)},children.0.driver=qcow2`,
      ...scsiDevice(spec, at),
    ]),
    ...spec.options,
  ];
}

/** Throws ParameterError when `disks` or `links` are not those of the spec. */
export function secondaryArguments(
  spec: VmSpec,
  disks: readonly VmDisk[],
  links: PairLinks,
  options: CommandLineOptions = {},
): string[] {
  requireDisks(spec, disks);
  requireLinks(spec, links);
  const isSecure = links.tlsFolder !== undefined;
  return [
    ...machineArguments(spec, options),
    ...(links.tlsFolder === undefined ? [] : tlsObjects(links.tlsFolder)),
    ...links.nics.flatMap((nic, at) => packetPath(links, nic, at)),
    ...disks.flatMap((disk, at) => secondaryDisk(spec, disk, at)),
    // With TLS it is told by QMP which credentials to use before it listens (procedure.ts).
    ...['-incoming', isSecure ? 'defer' : migrationUri(links)],
    ...spec.options,
  ];
}

/** Where a secondary waits for its state. */
export function migrationUri({ secondaryHost, migrationPort }: PairLinks): string {
  return `tcp:${bracketed(secondaryHost)}:${migrationPort}`;
}

/** An IPv6 address as URIs have it. */
export function bracketed(host: string): string {
  return host.includes(':') ? `[${host}]` : host;
}

/** Throws ParameterError naming the first difference. */
export function requireLinks(spec: Pick<VmSpec, 'nics'>, links: PairLinks): void {
  const given = links.nics.map(({ id }) => id).join(', ');
  const wanted = spec.nics.map(({ id }) => id).join(', ');
  if (given !== wanted) {
    throw new ParameterError(`The pair's links are for the NICs '${given}', but the VM has '${wanted}'`);
  }
}

function requireDisks(spec: VmSpec, disks: readonly VmDisk[]): void {
  const given = disks.map(({ id }) => id).join(', ');
  const wanted = spec.disks.map(({ id }) => id).join(', ');
  if (given !== wanted) {
    throw new ParameterError(`VM '${spec.name}' has the disks '${wanted}', not '${given}'`);
  }
}

/** What the guest sees, which has to be the same on both sides. */
function machineArguments(spec: VmSpec, options: CommandLineOptions): string[] {
  const { engine, qemu, cpus, memoryMiB, nics } = spec;
  return [
    ...(engine === 'v86' || qemu === undefined ? [] : ['--qemu', qemu]),
    ...['-accel', engine, '-smp', String(cpus), '-m', String(memoryMiB), '-display', 'none'],
    ...(spec.disks.some(isScsi) ? ['-device', 'virtio-scsi-pci,id=scsi0'] : []),
    ...nics.flatMap((nic, at) => {
      const { device, netdev } = nicNames(at);
      return [
        ...['-netdev', cable(spec.name, nic, at, options)],
        ...['-device', `${nic.model},id=${device},netdev=${netdev},mac=${nic.mac}`],
      ];
    }),
  ];
}

function cable(vm: string, { id, edge }: NicSpec, at: number, options: CommandLineOptions): string {
  const { netdev } = nicNames(at);
  switch (edge.kind) {
    case 'bridge':
      return `tap,id=${netdev},ifname=${tapName(vm, at, options.tapTag)},br=${value(edge.bridge)}`;
    case 'tap':
      return `tap,id=${netdev},ifname=${value(edge.ifname)},script=no,downscript=no`;
    case 'switch':
      return `stream,id=${netdev},server=off,${switchAddress(id, edge.address)}`;
  }
}

function switchAddress(nic: string, address: string): string {
  const unix = /^unix:(?<path>.+)$/s.exec(address)?.groups?.['path'];
  if (unix !== undefined) return `addr.type=unix,addr.path=${value(unix)}`;
  const inet = /^tcp:(?:\[(?<six>[^\]]+)\]|(?<host>[^:]+)):(?<port>\d+)$/.exec(address)?.groups;
  if (!inet) {
    throw new ParameterError(`NIC '${nic}': '${address}' is no switch; use unix:PATH or tcp:HOST:PORT`);
  }
  const host = inet['six'] ?? inet['host'] ?? '';
  return `addr.type=inet,addr.host=${value(host)},addr.port=${inet['port'] ?? ''}`;
}

function quorum({ disks }: VmSpec, at: number): string {
  const bus = disks[at] && !isScsi(disks[at]) ? disks[at].interface : 'none';
  return `if=${bus},id=${diskNames(at).disk},driver=quorum,read-pattern=fifo,vote-threshold=1`;
}

/** QEMU's PC has no SCSI controller of its own: `if=scsi` is refused by it, asked of QEMU 7.2. */
function scsiDevice({ disks }: VmSpec, at: number): string[] {
  const disk = disks[at];
  if (!disk || !isScsi(disk)) return [];
  const boot = at === 0 ? ',bootindex=0' : '';
  return ['-device', `scsi-hd,bus=scsi0.0,drive=${diskNames(at).disk}${boot}`];
}

function isScsi(disk: DiskSpec): boolean {
  return disk.interface === 'scsi';
}

function secondaryDisk(spec: VmSpec, { image, active, hidden }: VmDisk, at: number): string[] {
  const { disk, parent, child } = diskNames(at);
  return [
    ...['-drive', `if=none,id=${parent},file.filename=${value(image)},driver=qcow2`],
    '-drive',
    `if=none,id=${child},driver=replication,mode=secondary,file.driver=qcow2,top-id=${disk},` +
      `file.file.filename=${value(active)},file.backing.driver=qcow2,` +
      `file.backing.file.filename=${value(hidden)},file.backing.backing=${parent}`,
    ...['-drive', `${quorum(spec, at)},children.0=${child}`],
    ...scsiDevice(spec, at),
  ];
}

function packetPath(links: PairLinks, nic: PairLinks['nics'][number], at: number): string[] {
  const names = nicNames(at);
  const tls = links.tlsFolder === undefined ? '' : `,tls-creds=${TLS_CLIENT}`;
  const chardev = (id: string, port: number): string[] => [
    '-chardev',
    `socket,id=${id},host=${links.primaryHost},port=${port},reconnect=1${tls}`,
  ];
  const on = `netdev=${names.netdev}`;
  return [
    ...chardev(names.fromMirror, nic.mirrorPort),
    ...chardev(names.toCompare, nic.comparePort),
    ...['-object', `filter-redirector,id=${names.fromMirrorFilter},${on},queue=tx,indev=${names.fromMirror}`],
    ...['-object', `filter-redirector,id=${names.toCompareFilter},${on},queue=rx,outdev=${names.toCompare}`],
    ...['-object', `filter-rewriter,id=${names.rewriter},${on},queue=all`],
  ];
}

/** A survivor will need both: it connects to the next secondary's disks, and its packet sockets listen. */
function tlsObjects(folder: string): string[] {
  const object = (id: string, endpoint: string): string[] => [
    '-object',
    `tls-creds-x509,id=${id},dir=${value(folder)},endpoint=${endpoint}`,
  ];
  return [...object(TLS_SERVER, 'server'), ...object(TLS_CLIENT, 'client')];
}

/** Inside an option string a comma is written twice. */
function value(text: string): string {
  return text.replaceAll(',', ',,');
}
