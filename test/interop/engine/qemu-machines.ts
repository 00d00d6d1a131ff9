/** Machines for the tests: the mini guest in a QemuEngine, without a BIOS that waits for anything. */
import { QemuEngine, QemuUnusableError, probeQemu } from '../../../src/engine/qemu/index.ts';
import type { QemuSpec } from '../../../src/engine/qemu/index.ts';
import { memoryDisk } from '../../unit/engine/mini-guest.ts';
import type { MemoryDisk } from '../../unit/engine/mini-guest.ts';
import { Console, MAC } from '../../unit/engine/mini-machine.ts';

const MIB = 1024 * 1024;
export const QEMU = 'qemu-system-x86_64';

export const skipReason = await probeQemu(QEMU).then(
  () => false as const,
  (error: unknown) => {
    if (error instanceof QemuUnusableError) return error.message;
    throw error;
  },
);

export interface QemuMini extends AsyncDisposable {
  readonly engine: QemuEngine;
  readonly console: Console;
  readonly disk: MemoryDisk;
}

export async function specOf(disk: MemoryDisk, changes: Partial<QemuSpec> = {}): Promise<QemuSpec> {
  return {
    qemu: await probeQemu(QEMU),
    name: 'mini',
    ramBytes: 16 * MIB,
    machine: 'pc,accel=tcg',
    args: ['-vga', 'none', '-boot', 'c', '-device', 'e1000,netdev=hn0,id=nic0,romfile='],
    identity: [],
    disks: [{ disk, how: 'drive', options: ['if=ide'] }],
    nics: [{ id: 'nic0', netdev: 'hn0', mac: MAC }],
    serialPorts: 1,
    chardevs: [],
    incoming: false,
    ...changes,
  };
}

export async function unstarted(changes: Partial<QemuSpec> = {}): Promise<QemuMini> {
  const disk = memoryDisk();
  const engine = new QemuEngine(await specOf(disk, changes));
  return { engine, console: new Console(engine), disk, [Symbol.asyncDispose]: () => engine.stop() };
}

/** Started, and stands still. */
export async function miniQemu(changes: Partial<QemuSpec> = {}): Promise<QemuMini> {
  const machine = await unstarted(changes);
  await machine.engine.start();
  return machine;
}

/** Waits for a state. */
export function waitingQemu(changes: Partial<QemuSpec> = {}): Promise<QemuMini> {
  return miniQemu({ incoming: true, ...changes });
}

/** The guest runs and has said that it is there. */
export async function bootedQemu(changes: Partial<QemuSpec> = {}): Promise<QemuMini> {
  const machine = await miniQemu(changes);
  await machine.engine.resume();
  await machine.console.waitFor(/R/);
  return machine;
}
