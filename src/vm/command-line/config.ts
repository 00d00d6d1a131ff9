/** What a command line asks for: the parsed options of one VM, in the order given within each kind. No side effects. */
import type { Accelerator } from '../../engine/qemu/index.ts';
import type { DeviceOption } from '../devices.ts';
import type { Options } from './keyval.ts';

/** Where a character stream goes: QMP monitors and serial ports. */
export type StreamTarget =
  | { readonly type: 'none' }
  /** A serial port that is there, and leads nowhere. */
  | { readonly type: 'null' }
  | { readonly type: 'stdio' }
  | { readonly type: 'socket'; readonly options: Options }
  | { readonly type: 'file'; readonly path: string }
  | { readonly type: 'chardev'; readonly id: string };

/** What goes to the QEMU that executes the guest; unused on the embedded engine. */
export interface QemuConfig {
  /** --qemu: a path, or a name in PATH. */
  binary: string;
  /** The value of -machine, its type first, without accel; null: QEMU's default. */
  machine: string | null;
  /** In the order to be tried in. */
  accelerators: Accelerator[];
  /** Options passed on as they are, in order. */
  args: string[];
  /** Those of them that a guest can tell; both sides of a pair must agree on them. */
  identity: string[];
  /** Files that are passed on by path and whose content a guest can tell, with the option that names each. */
  files: { readonly option: string; readonly path: string }[];
  /** Objects that are QEMU's; they are in `args` too. */
  objects: Options[];
}

export interface VmConfig {
  name: string | null;
  /** `none`: the objects run without a guest. */
  machine: 'pc' | 'none';
  /** v86: the embedded engine; else what the stock QEMU is told, `tcg` or `kvm:tcg`. */
  accel: string;
  /** The option that chose it, as typed; empty when none did. */
  accelOption: string;
  memoryBytes: number;
  qmp: StreamTarget[];
  /** ttyS0 first, as given; `none`: no such port. */
  serials: StreamTarget[];
  nographic: boolean;
  /** No device that was not asked for: with -nographic, no serial port on standard output. */
  noDefaults: boolean;
  /** In lower case with its dashes, or null. */
  uuid: string | null;
  chardevs: Options[];
  netdevs: Options[];
  objects: Options[];
  drives: Options[];
  blockdevs: Options[];
  devices: DeviceOption[];
  incoming: string | null;
  startPaused: boolean;
  noShutdown: boolean;
  noReboot: boolean;
  /** -action panic=: what a panic of the guest's kernel does, where there is a device that tells of it. */
  panicAction: 'pause' | 'shutdown' | 'exit-failure' | 'none';
  /** Path of a firmware image, or null for SeaBIOS. */
  bios: string | null;
  pidfile: string | null;
  /** The value of -vnc; null: no display. */
  vnc: string | null;
  /** Options that were understood and change nothing here, each with the reason. */
  warnings: string[];
  qemu: QemuConfig;
}

export function emptyConfig(): VmConfig {
  return {
    name: null,
    machine: 'pc',
    accel: 'v86',
    accelOption: '',
    memoryBytes: 128 * 1024 * 1024,
    qmp: [],
    serials: [],
    nographic: false,
    noDefaults: false,
    uuid: null,
    chardevs: [],
    netdevs: [],
    objects: [],
    drives: [],
    blockdevs: [],
    devices: [],
    incoming: null,
    startPaused: false,
    noShutdown: false,
    noReboot: false,
    panicAction: 'shutdown',
    bios: null,
    pidfile: null,
    warnings: [],
    vnc: null,
    qemu: {
      binary: 'qemu-system-x86_64',
      machine: null,
      accelerators: [],
      args: [],
      identity: [],
      files: [],
      objects: [],
    },
  };
}
