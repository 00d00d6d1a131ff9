/**
 * What `-device` and `-drive if=` become on the embedded engine. Its machine is fixed (PIIX IDE, one NIC, VGA, one
 * serial port): a device that it lacks is mapped to the nearest one with a warning, a passive one is left out with a
 * warning, and what would change the guest's meaning is an error that names it.
 */
import { ParameterError, messageOf } from '../base/errors.ts';
import type { NicModel } from '../engine/v86/index.ts';
import { originOf } from './command-line/origin.ts';
import type { NicPlug } from './netdevs.ts';

/** `-device NAME,…` and `-drive if=` as the command line gives them. */
export interface DeviceOption {
  readonly driver: string;
  readonly options: Readonly<Record<string, string>>;
  /** As given, when it was given as JSON. */
  readonly json?: Readonly<Record<string, unknown>>;
}

export interface NicDevice extends NicPlug {
  readonly model: NicModel;
  /** As given with mac=, or null. */
  readonly mac: Uint8Array | null;
}

export interface DiskDevice {
  /** The device's own id, or null. */
  readonly id: string | null;
  readonly drive: string;
  readonly origin: string;
}

export interface DevicePlan {
  readonly nics: readonly NicDevice[];
  /** In the order of the IDE channel, from `-device ide-hd,drive=`. */
  readonly disks: readonly DiskDevice[];
  readonly warnings: readonly string[];
}

/** NIC models of QEMU → what the engine has. */
const NIC_MODELS: ReadonlyMap<string, { model: NicModel; exact: boolean }> = new Map([
  ['ne2k_pci', { model: 'ne2k', exact: true }],
  ['virtio-net-pci', { model: 'virtio', exact: true }],
  ['virtio-net', { model: 'virtio', exact: true }],
  ['rtl8139', { model: 'ne2k', exact: false }],
  ['e1000', { model: 'ne2k', exact: false }],
  ['e1000e', { model: 'ne2k', exact: false }],
  ['pcnet', { model: 'ne2k', exact: false }],
]);

/** Block devices that the guest sees as an IDE disk here. */
const DISKS = new Set([
  'ide-hd',
  'ide-drive',
  'scsi-hd',
  'virtio-blk-pci',
  'virtio-blk',
  'virtio-blk-device',
]);

/** Devices without which a guest boots and runs the same. */
const PASSIVE = [
  /^piix[34]-usb-/,
  /^(usb|ich9-usb|qemu-xhci|nec-usb-xhci|ehci|uhci)/,
  /^usb-/,
  /^(VGA|cirrus-vga|qxl|qxl-vga|virtio-vga|vmware-svga|bochs-display)$/,
  /^virtio-(balloon|rng|serial|keyboard|tablet|mouse|gpu)(-pci)?$/,
  /^(i6300esb|pvpanic|isa-debugcon|isa-serial|intel-hda|hda-duplex|AC97|ES1370)$/,
  /^(pci-bridge|pcie-root-port|ioh3420)$/,
];

/** Properties that say where a device sits or what it is called there: taken, the machine's places are fixed. */
const PLACE = ['id', 'bus', 'addr', 'bootindex', 'multifunction', 'rombar', 'romfile'];
const NIC_PROPERTIES = new Set([...PLACE, 'netdev', 'mac']);
const DISK_PROPERTIES = new Set([
  ...PLACE,
  'drive',
  'unit',
  'scsi-id',
  'lun',
  'channel',
  'share-rw',
  'serial',
  'model',
  'ver',
  'wwn',
]);

/** The plan while it is being made. */
interface Draft {
  readonly nics: NicDevice[];
  readonly disks: DiskDevice[];
  readonly warnings: string[];
}

/**
 * `machine` none has no bus that a device could sit on. Throws ParameterError naming the option, with QEMU's text for an
 * unknown device.
 */
export function planDevices(devices: readonly DeviceOption[], machine: 'pc' | 'none' = 'pc'): DevicePlan {
  const plan: Draft = { nics: [], disks: [], warnings: [] };
  for (const device of devices) {
    const origin = originOf(device, `-device ${device.driver}`);
    try {
      planDevice(plan, device, machine, origin);
    } catch (cause) {
      throw new ParameterError(`${origin}: ${messageOf(cause)}`, { cause });
    }
  }
  return plan;
}

function planDevice(plan: Draft, device: DeviceOption, machine: 'pc' | 'none', origin: string): void {
  const { driver } = device;
  const isDisk = DISKS.has(driver);
  const nic = NIC_MODELS.get(driver);
  const isPassive = PASSIVE.some((pattern) => pattern.test(driver));
  if (!isDisk && !nic && !isPassive) throw new ParameterError(`'${driver}' is not a valid device model name`);
  if (machine === 'none') {
    const bus = isDisk && driver.startsWith('ide') ? 'IDE' : 'PCI';
    throw new ParameterError(`No '${bus}' bus found for device '${driver}'`);
  }
  if (nic) planNic(plan, device, nic, origin);
  else if (isDisk) planDisk(plan, device, origin);
  else plan.warnings.push(`-device ${driver}: the v86 engine has no ${driver}, the guest runs without it`);
}

function planNic(
  plan: Draft,
  device: DeviceOption,
  nic: { model: NicModel; exact: boolean },
  origin: string,
): void {
  const { driver, options } = device;
  refuseProperties(device, NIC_PROPERTIES);
  const { netdev, mac, id } = options;
  if (netdev === undefined) throw new ParameterError("Parameter 'netdev' is missing");
  plan.nics.push({
    id: id ?? `nic${plan.nics.length}`,
    netdev,
    model: nic.model,
    mac: mac === undefined ? null : parseMac(mac),
    origin,
  });
  if (nic.exact) return;
  const instead = nic.model === 'ne2k' ? 'ne2k_pci' : 'virtio-net-pci';
  plan.warnings.push(
    `-device ${driver}: the v86 engine has no ${driver}, the guest sees an ${instead} instead`,
  );
}

function planDisk(plan: Draft, device: DeviceOption, origin: string): void {
  const { driver, options } = device;
  refuseProperties(device, DISK_PROPERTIES);
  const { drive } = options;
  if (drive === undefined) throw new ParameterError('drive property not set');
  plan.disks.push({ id: options['id'] ?? null, drive, origin });
  if (driver.startsWith('ide')) return;
  plan.warnings.push(
    `-device ${driver}: the v86 engine has no ${driver}, the guest sees an IDE disk instead`,
  );
}

function refuseProperties({ driver, options }: DeviceOption, known: ReadonlySet<string>): void {
  for (const name of Object.keys(options)) {
    if (!known.has(name)) throw new ParameterError(`Property '${driver}.${name}' not found`);
  }
}

/** `52:54:00:12:34:56` → six bytes. Throws ParameterError. */
export function parseMac(text: string): Uint8Array {
  if (!/^([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}$/.test(text)) {
    throw new ParameterError(`Parameter 'mac' expects a MAC address, not '${text}'`);
  }
  return Uint8Array.from(text.split(/[:-]/), (byte) => parseInt(byte, 16));
}
