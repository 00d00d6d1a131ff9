/** What all QEMU processes of an engine share: the guest's RAM, its disks, and the sockets that do not change with them. */
import { RamFile } from '../ram/index.ts';
import { DiskPort } from './disk-port.ts';
import { HiddenListener } from './hidden-socket.ts';
import type { QemuSpec } from './spec.ts';

export interface Surroundings {
  readonly spec: QemuSpec;
  readonly ram: RamFile;
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
    const disks = await DiskPort.open(spec.disks);
    opened.push(disks);
    const control = await HiddenListener.open();
    opened.push(control);
    return { spec, ram, disks, control, outlet: await HiddenListener.open() };
  } catch (error) {
    for (const one of opened.reverse()) await one.close();
    throw error;
  }
}

/** When no process is left that uses them. */
export async function closeSurroundings({ ram, disks, control, outlet }: Surroundings): Promise<void> {
  await disks.close();
  control.close();
  outlet.close();
  ram.close();
}
