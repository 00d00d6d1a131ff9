/** What of a VM's description cannot be on any host: its parts contradict each other or its engine. Pure. */
import { V86_NIC_MODELS } from './vm-limits.ts';
import { isVnc } from './vm-spec.ts';
import type { VmSpec } from './vm-spec.ts';

export interface Contradiction {
  /** `disks[0].interface` */
  readonly path: string;
  readonly message: string;
}

/** Options of `colo vm` that the node gives itself → the key to use, if there is one. */
const OWN_OPTIONS: ReadonlyMap<string, string | null> = new Map([
  ...['name', 'qmp', 'qmp-pretty', 'mon', 'monitor', 'chardev', 'incoming', 'S', 'serial', 'pidfile'].map(
    (option) => [option, null] as const,
  ),
  ...['daemonize', 'no-shutdown', 'display', 'nographic', 'object'].map((option) => [option, null] as const),
  ...(['accel', 'enable-kvm'] as const).map((option) => [option, 'engine'] as const),
  ...(['drive', 'blockdev', 'hda', 'hdb', 'hdc', 'hdd'] as const).map((option) => [option, 'disks'] as const),
  ...(['netdev', 'nic', 'net'] as const).map((option) => [option, 'network'] as const),
  ['m', 'memory'],
  ['smp', 'cpus'],
  ['qemu', 'qemu'],
]);

export function contradictionsOf(spec: VmSpec): Contradiction[] {
  return [...ofEngine(spec), ...ofNames(spec), ...ofHeartbeat(spec), ...ofOptions(spec)];
}

function ofEngine({ engine, qemu, display, cpus, memoryMiB, disks, nics }: VmSpec): Contradiction[] {
  if (engine !== 'v86') return [];
  const found: Contradiction[] = [];
  const add = (path: string, message: string): void => void found.push({ path, message });
  const way = 'or engine tcg or kvm';
  if (qemu !== undefined) add('qemu', 'engine v86 runs no QEMU; leave it out, or set engine to tcg or kvm');
  if (display === 'vnc') add('display', `engine v86 shows its console only; leave it out, ${way}`);
  if (cpus !== 1) add('cpus', `engine v86 has one CPU; use 1, ${way}`);
  if (memoryMiB > 2047) add('memory', `engine v86 has at most 2047M; use less, ${way}`);
  if (disks.length > 2)
    add('disks', `engine v86 has two disks at most, not ${disks.length}; use fewer, ${way}`);
  for (const [at, disk] of disks.entries()) {
    if (disk.interface === 'ide') continue;
    add(`disks[${at}].interface`, `engine v86 has IDE disks only; use ide, ${way}`);
  }
  const models = nics.map(({ model }, at) => {
    const exact = V86_NIC_MODELS.get(model);
    if (exact === undefined)
      add(
        `network[${at}].model`,
        `engine v86 has no '${model}'; use ${[...V86_NIC_MODELS.keys()].join(' or ')}`,
      );
    return exact;
  });
  if (models.includes('virtio') && nics.length > 1)
    add('network', 'engine v86 has one virtio NIC alone, or up to three ne2k_pci; use the latter');
  if (nics.length > 3) add('network', `engine v86 has three NICs at most, not ${nics.length}`);
  return found;
}

function ofNames({ disks, nics, hosts }: VmSpec): Contradiction[] {
  const repeats = (path: (at: number) => string, what: string, all: readonly string[]): Contradiction[] =>
    all.flatMap((one, at) => {
      const first = all.indexOf(one);
      return first === at
        ? []
        : [{ path: path(at), message: `${what} '${one}' is that of ${path(first)} too` }];
    });
  const images = disks.map(({ image }, at) => image ?? `\0${at}`);
  return [
    ...repeats((at) => `hosts[${at}]`, 'host', hosts),
    ...repeats(
      (at) => `network[${at}].mac`,
      'address',
      nics.map(({ mac }) => mac),
    ),
    ...repeats(
      (at) => `network[${at}]`,
      'device',
      nics.map(({ edge }, at) => (edge.kind === 'tap' ? edge.ifname : `\0${at}`)),
    ),
    ...repeats((at) => `disks[${at}].image`, 'image', images),
    ...disks.flatMap(({ image, sizeBytes }, at) =>
      image === undefined && sizeBytes === undefined
        ? [
            {
              path: `disks[${at}]`,
              message: 'needs an image to be filled from, or a size for an empty disk',
            },
          ]
        : [],
    ),
  ];
}

function ofHeartbeat({ heartbeat: { intervalMs, patienceMs } }: VmSpec): Contradiction[] {
  if (patienceMs >= 2 * intervalMs) return [];
  return [
    {
      path: 'heartbeat.patience',
      message: `${patienceMs} ms are less than two intervals of ${intervalMs} ms: one late beat would count as a death`,
    },
  ];
}

function ofOptions({ options, display }: VmSpec): Contradiction[] {
  return options.flatMap((word, at) => {
    if (display === 'vnc' && isVnc(word)) {
      return [
        { path: `options[${at}]`, message: `'${word}' is given by display: vnc; leave one of them out` },
      ];
    }
    const name = /^--?([A-Za-z][A-Za-z0-9-]*)$/.exec(word)?.[1];
    const key = name === undefined ? undefined : OWN_OPTIONS.get(name);
    if (key === undefined) return [];
    const way = key === null ? 'leave it out' : `use the key '${key}'`;
    return [{ path: `options[${at}]`, message: `'${word}' is given by the node itself; ${way}` }];
  });
}
