/** What all QEMU processes of an engine share: the guest's RAM, its disks, and the sockets that do not change with them. */
import { fstatSync } from 'node:fs';
import { RamFile, RamSnapshots } from '../ram/index.ts';
import { DiskPort } from './disk-port.ts';
import { HiddenListener } from './hidden-socket.ts';
import type { QemuSpec } from './spec.ts';
import { GuestMemory } from './vhost/guest-memory.ts';

export interface Surroundings {
  readonly spec: QemuSpec;
  readonly ram: RamFile;
  readonly snapshots: RamSnapshots;
  /** RAM as the NICs that are served here write to it. */
  readonly memory: GuestMemory;
  readonly ramIdentity: { readonly ino: number; readonly dev: number };
  readonly disks: DiskPort;
  /** QMP connections of processes that start. */
  readonly control: HiddenListener;
  /** Where device states come out. */
  readonly outlet: HiddenListener;
}

/** Throws ColoError or a system error; nothing is left open then. */
export async function openSurroundings(spec: QemuSpec): Promise<Surroundings> {
  const ram = RamFile.create(`guest ${spec.name}`, spec.ramBytes);
  const opened: { close(): unknown }[] = [ram];
  try {
    const snapshots = await RamSnapshots.open(ram);
    opened.push(snapshots);
    const memory = new GuestMemory(ram.windows, (offset, byteLength) => snapshots.wrote(offset, byteLength));
    const disks = await DiskPort.open(spec.disks);
    opened.push(disks);
    const control = await HiddenListener.open();
    opened.push(control);
    const outlet = await HiddenListener.open();
    return { spec, ram, snapshots, memory, ramIdentity: fstatSync(ram.fd), disks, control, outlet };
  } catch (error) {
    for (const one of opened.reverse()) await one.close();
    throw error;
  }
}

/** When no process is left that uses them. */
export async function closeSurroundings(around: Surroundings): Promise<void> {
  const { ram, snapshots, disks, control, outlet } = around;
  await snapshots.close();
  await disks.close();
  control.close();
  outlet.close();
  ram.close();
}
