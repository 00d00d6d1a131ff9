/**
 * What `-device` and `-drive if=` become on the embedded engine. Its machine is fixed (PIIX IDE, one NIC, VGA, one
 * serial port): a device that it lacks is mapped to the nearest one with a warning, a passive one is left out with a
 * warning, and what would change the guest's meaning is an error that names it.
 */
import { ParameterError } from '../base/errors.ts';
import type { NicModel } from '../engine/v86/index.ts';

/** `-device NAME,…` and `-drive if=` as the command line gives them. */
export interface DeviceOption {
  readonly driver: string;
  readonly options: Readonly<Record<string, string>>;
}

export interface NicDevice {
  readonly id: string;
  readonly netdev: string;
  readonly model: NicModel;
  /** As given with mac=, or null. */
  readonly mac: Uint8Array | null;
}

export interface DevicePlan {
  readonly nics: readonly NicDevice[];
  /** Drive ids in the order of the IDE channel, from `-device ide-hd,drive=`. */
  readonly disks: readonly string[];
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

/** Throws ParameterError with QEMU's text for an unknown device. */
export function planDevices(devices: readonly DeviceOption[]): DevicePlan {
  const nics: NicDevice[] = [];
  const disks: string[] = [];
  const warnings: string[] = [];
  for (const { driver, options } of devices) {
    const nic = NIC_MODELS.get(driver);
    if (nic) {
      const netdev = options['netdev'];
      if (netdev === undefined) throw new ParameterError(`-device ${driver}: Parameter 'netdev' is missing`);
      if (!nic.exact) {
        const instead = nic.model === 'ne2k' ? 'ne2k_pci' : 'virtio-net-pci';
        warnings.push(
          `-device ${driver}: the v86 engine has no ${driver}, the guest sees an ${instead} instead`,
        );
      }
      nics.push({
        id: options['id'] ?? `nic${nics.length}`,
        netdev,
        model: nic.model,
        mac: options['mac'] === undefined ? null : parseMac(options['mac']),
      });
    } else if (DISKS.has(driver)) {
      const drive = options['drive'];
      if (drive === undefined) throw new ParameterError(`-device ${driver}: drive property not set`);
      if (!driver.startsWith('ide')) {
        warnings.push(
          `-device ${driver}: the v86 engine has no ${driver}, the guest sees an IDE disk instead`,
        );
      }
      disks.push(drive);
    } else if (PASSIVE.some((pattern) => pattern.test(driver))) {
      warnings.push(`-device ${driver}: the v86 engine has no ${driver}, the guest runs without it`);
    } else {
      throw new ParameterError(`-device ${driver}: '${driver}' is not a valid device model name`);
    }
  }
  return { nics, disks, warnings };
}

/** `52:54:00:12:34:56` → six bytes. Throws ParameterError. */
export function parseMac(text: string): Uint8Array {
  if (!/^([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}$/.test(text)) {
    throw new ParameterError(`Parameter 'mac' expects a MAC address, not '${text}'`);
  }
  return Uint8Array.from(text.split(/[:-]/), (byte) => parseInt(byte, 16));
}
