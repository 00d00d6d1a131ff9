/** A VM, its disks and its links, as many as a test asks for. */
import type { PairLinks } from '../../../src/ha/pair-links.ts';
import type { VmDisk } from '../../../src/ha/room.ts';
import { VM_SPEC_VERSION } from '../../../src/ha/spec/vm-spec.ts';
import type { VmSpec } from '../../../src/ha/spec/vm-spec.ts';

const upTo = (count: number): number[] => [...Array(count).keys()];

export function spec({ disks = 1, nics = 1 } = {}): VmSpec {
  return {
    version: VM_SPEC_VERSION,
    name: 'web',
    engine: 'v86',
    cpus: 1,
    memoryMiB: 128,
    disks: upTo(disks).map((at) => ({ id: `disk${at}`, interface: 'ide' })),
    nics: upTo(nics).map((at) => ({
      id: `nic${at}`,
      mac: `52:54:00:00:00:0${at}`,
      model: 'ne2k_pci',
      edge: { kind: 'switch', address: `unix:/run/switch${at}.sock` },
    })),
    hosts: [],
    checkpoint: { maxDelayMs: 2_000 },
    heartbeat: { intervalMs: 100, patienceMs: 500, linkPatienceMs: 5_000 },
    resync: { bytesPerSecond: 0 },
    options: [],
  };
}

export function disk(at: number): VmDisk {
  const file = (kind: string): string => `/vm/disk${at}${kind}.qcow2`;
  return {
    id: `disk${at}`,
    sizeBytes: 1024 * 1024,
    image: file(''),
    active: file('-active'),
    hidden: file('-hidden'),
  };
}

export function links(nics: number): PairLinks {
  return {
    primaryHost: '127.0.0.1',
    secondaryHost: '127.0.0.2',
    nics: upTo(nics).map((at) => ({
      id: `nic${at}`,
      mirrorPort: 9100 + 2 * at,
      comparePort: 9101 + 2 * at,
    })),
    nbdPort: 9999,
    migrationPort: 9998,
  };
}
