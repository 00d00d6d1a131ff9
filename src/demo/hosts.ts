/**
 * What the demo's two hosts run: its VM, the command lines for a primary that boots first and is protected later, and
 * for a secondary. Disks live in one folder a host.
 */
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { BlockGraph } from '../block/graph.ts';
import { createQcow2 } from '../block/drivers/qcow2/create.ts';
import {
  firstPrimaryArguments as wordsOfFirstPrimary,
  secondaryArguments as wordsOfSecondary,
} from '../ha/command-line.ts';
import type { PairLinks } from '../ha/pair-links.ts';
import { VM_SPEC_VERSION } from '../ha/spec/vm-spec.ts';
import type { VmSpec } from '../ha/spec/vm-spec.ts';
import { EMBEDDED } from './platform.ts';
import type { Platform } from './platform.ts';

export interface DemoMachine {
  /** The embedded engine unless told otherwise. */
  readonly platform?: Platform | undefined;
  readonly memoryMiB: number;
  /** The switch's stream socket. */
  readonly switchPath: string;
}

/** The demo's VM as `colo node` would be told of it: one disk, one NIC at the switch. */
export function demoSpec({ memoryMiB, switchPath, platform = EMBEDDED }: DemoMachine): VmSpec {
  return {
    version: VM_SPEC_VERSION,
    name: 'demo',
    engine: platform.accelerator,
    ...(platform.qemu === undefined ? {} : { qemu: platform.qemu }),
    cpus: platform.vcpus,
    memoryMiB,
    disks: [{ id: 'disk0', interface: platform.diskInterface }],
    nics: [
      {
        id: 'nic0',
        mac: '52:54:00:12:34:56',
        model: platform.nic,
        edge: { kind: 'switch', address: `unix:${switchPath}` },
      },
    ],
    hosts: [],
    checkpoint: { maxDelayMs: 2_000 },
    heartbeat: { intervalMs: 100, patienceMs: 500, linkPatienceMs: 5_000 },
    resync: { bytesPerSecond: 0 },
    options: [],
  };
}

/** The first primary: its guest boots unprotected; the packet path is added when a secondary is there. */
export function firstPrimaryArguments(machine: DemoMachine, image: string): string[] {
  return wordsOfFirstPrimary(demoSpec(machine), [{ ...DISK, image, active: '', hidden: '' }]);
}

export function secondaryArguments(machine: DemoMachine, disks: SecondaryDisks, links: PairLinks): string[] {
  const { parent: image, active, hidden } = disks;
  return wordsOfSecondary(demoSpec(machine), [{ ...DISK, image, active, hidden }], links);
}

/** The images' own size counts. */
const DISK = { id: 'disk0', sizeBytes: 0 };

export interface SecondaryDisks {
  readonly parent: string;
  readonly active: string;
  readonly hidden: string;
}

/** Empty disks of the guest's size in `folder`, as `colo img create` makes them. */
export async function createSecondaryDisks(folder: string, sizeBytes: number): Promise<SecondaryDisks> {
  await mkdir(folder, { recursive: true });
  const disks = {
    parent: path.join(folder, 'parent.qcow2'),
    active: path.join(folder, 'active.qcow2'),
    hidden: path.join(folder, 'hidden.qcow2'),
  };
  for (const file of Object.values(disks)) await createQcow2(file, { sizeBytes });
  return disks;
}

/** The guest-visible size of an image. */
export async function imageSize(file: string): Promise<number> {
  const graph = new BlockGraph();
  const node = await graph.openImage(file, { readOnly: true });
  try {
    return node.lengthBytes;
  } finally {
    await graph.closeImage(node);
  }
}
