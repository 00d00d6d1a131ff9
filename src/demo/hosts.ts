/**
 * What the demo's two hosts run: the command lines of QEMU's COLO procedure for a primary that boots first and is
 * protected later, and for a secondary. Disks live in one folder a host.
 */
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { BlockGraph } from '../block/graph.ts';
import { createQcow2 } from '../block/drivers/qcow2/create.ts';
import type { PairAddresses } from '../ha/procedure.ts';
import { EMBEDDED } from './platform.ts';
import type { Platform } from './platform.ts';

export interface DemoMachine {
  /** The embedded engine unless told otherwise. */
  readonly platform?: Platform | undefined;
  readonly memoryMiB: number;
  /** The switch's stream socket. */
  readonly switchPath: string;
}

/** Common to both roles: the machine that the guest sees must be the same. */
function machineArguments({ memoryMiB, switchPath, platform = EMBEDDED }: DemoMachine): string[] {
  return [
    ...[...platform.args, '-m', String(memoryMiB), '-display', 'none'],
    ...['-netdev', `stream,id=hn0,server=off,addr.type=unix,addr.path=${switchPath}`],
    ...['-device', `${platform.nic},id=e0,netdev=hn0,mac=52:54:00:12:34:56`],
  ];
}

/** The first primary: its guest boots unprotected; the packet path is added when a secondary is there. */
export function firstPrimaryArguments(machine: DemoMachine, image: string): string[] {
  return [
    ...machineArguments(machine),
    ...['-drive', `${quorum(machine)},children.0.file.filename=${image},children.0.driver=qcow2`],
  ];
}

function quorum({ platform = EMBEDDED }: DemoMachine): string {
  return `if=${platform.diskInterface},id=colo-disk0,driver=quorum,read-pattern=fifo,vote-threshold=1`;
}

export function secondaryArguments(machine: DemoMachine, disks: SecondaryDisks, at: PairAddresses): string[] {
  return [
    ...machineArguments(machine),
    ...['-chardev', `socket,id=red0,host=${at.primaryHost},port=${at.mirrorPort},reconnect=1`],
    ...['-chardev', `socket,id=red1,host=${at.primaryHost},port=${at.compareSecondaryPort},reconnect=1`],
    ...['-object', 'filter-redirector,id=f1,netdev=hn0,queue=tx,indev=red0'],
    ...['-object', 'filter-redirector,id=f2,netdev=hn0,queue=rx,outdev=red1'],
    ...['-object', 'filter-rewriter,id=rew0,netdev=hn0,queue=all'],
    ...['-drive', `if=none,id=parent0,file.filename=${disks.parent},driver=qcow2`],
    ...[
      '-drive',
      'if=none,id=childs0,driver=replication,mode=secondary,file.driver=qcow2,top-id=childs0,' +
        `file.file.filename=${disks.active},file.backing.driver=qcow2,` +
        `file.backing.file.filename=${disks.hidden},file.backing.backing=parent0`,
    ],
    ...['-drive', `${quorum(machine)},children.0=childs0`],
    ...['-incoming', `tcp:${at.secondaryHost}:${at.migrationPort}`],
  ];
}

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
