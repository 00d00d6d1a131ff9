/** What a VM's description may say, in numbers and patterns: the same for files, for JSON and for `colo check`. */
import { hashOf } from '../names.ts';
import type { VmEngine } from './vm-spec.ts';

export const MAX_DISKS = 8;
export const MAX_NICS = 8;
export const MAX_HOSTS = 64;
export const MAX_OPTIONS = 256;
export const MAX_MEMORY_MIB = 1024 * 1024;
export const MAX_CPUS = 255;
export const MIN_DISK_BYTES = 1024 * 1024;
export const MAX_DISK_BYTES = 2 ** 50;
export const SECTOR_BYTES = 512;
export const MAX_RATE = 2 ** 40;
export const MAX_DURATION_MS = 3_600_000;
/** As the checkpoint channel's heartbeat takes them. */
export const MIN_HEARTBEAT_MS = 10;
export const MAX_INTERVAL_MS = 60_000;
export const MAX_PATIENCE_MS = 600_000;

export const VM_NAME = {
  pattern: /^[a-z][a-z0-9-]{0,62}$/,
  is: "1 to 63 of a-z, 0-9 and '-', beginning with a letter",
};
export const HOST_NAME = {
  pattern: /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/,
  is: "the name of a host: 1 to 63 letters, digits, '.', '_' and '-'",
};
/** A device of QEMU's. */
export const NIC_MODEL = {
  pattern: /^[A-Za-z][A-Za-z0-9._-]{0,39}$/,
  is: 'the name of a NIC of QEMU’s, such as virtio-net-pci',
};
/** IFNAMSIZ; '/' and blanks are not for names of devices. */
export const IFNAME = {
  pattern: /^(?!\.{1,2}$)[^\s/:,%]{1,15}$/,
  is: 'the name of a network device: 1 to 15 letters',
};
export const SWITCH_ADDRESS = {
  pattern: /^(?:unix:\/[^\0]{0,106}|tcp:(?:\[[0-9A-Fa-f:.%]+\]|[^:[\]\s,]+):[0-9]{1,5})$/,
  is: 'unix:/PATH or tcp:HOST:PORT, as in colo switch --listen',
};
/** Six bytes, not a group's, not nobody's. */
export const MAC = {
  pattern: /^(?!00(?::00){5}$)[0-9a-fA-F][02468aceACE](?::[0-9a-fA-F]{2}){5}$/,
  is: 'an address such as 52:54:00:12:34:56, and no group’s',
};
export const ABSOLUTE_PATH = { pattern: /^\/[^\0\n]*$/, is: 'an absolute path' };

/** What the embedded engine shows a guest for a model. */
export const V86_NIC_MODELS: ReadonlyMap<string, 'ne2k' | 'virtio'> = new Map([
  ['ne2k_pci', 'ne2k'],
  ['virtio-net-pci', 'virtio'],
  ['virtio-net', 'virtio'],
]);

export function defaultModel(engine: VmEngine): string {
  return engine === 'v86' ? 'ne2k_pci' : 'virtio-net-pci';
}

export function defaultInterface(engine: VmEngine): 'ide' | 'virtio' {
  return engine === 'v86' ? 'ide' : 'virtio';
}

/** QEMU's prefix and a hash: the same on every host and at every start. */
export function defaultMac(vm: string, nic: number): string {
  const hash = hashOf(`${vm}/${nic}`);
  const bytes = [hash & 0xff, (hash >>> 8) & 0xff, (hash >>> 16) & 0xff];
  return ['52', '54', '00', ...bytes.map((byte) => byte.toString(16).padStart(2, '0'))].join(':');
}

export const DEFAULT_MEMORY_MIB = 256;
export const DEFAULT_CHECKPOINT_DELAY_MS = 2_000;
export const DEFAULT_HEARTBEAT = { intervalMs: 100, patienceMs: 400, linkPatienceMs: 2_000 } as const;
