/**
 * What `-device`, `-drive` and the rest of a command line become when a stock QEMU executes the guest: its devices are
 * the ones asked for, its disks and netdevs ours. Counterpart of devices.ts and disk-options.ts.
 */
import { ParameterError, messageOf } from '../base/errors.ts';
import { escapeOption } from '../engine/qemu/index.ts';
import type { VmConfig } from './command-line/config.ts';
import type { Options } from './command-line/keyval.ts';
import { DEFAULT_NIC } from './command-line/nic-option.ts';
import { originOf } from './command-line/origin.ts';
import { checkDevice } from './command-line/qemu-refused.ts';
import { parseMac } from './devices.ts';
import type { NicPlug } from './netdevs.ts';
import { planQemuDrives } from './qemu-drives.ts';
import type { QemuDrivePlan } from './qemu-drives.ts';

export interface QemuNicPlan extends NicPlug {
  readonly mac: Uint8Array;
  readonly isVirtio: boolean;
}

/** A disk of the guest: a drive or a node of ours, and how QEMU is told of it. */
export interface QemuDiskPlan {
  readonly drive: string;
  readonly deviceId: string | null;
  /** QEMU's name of the device, for what goes wrong. */
  readonly driver: string;
  readonly how: 'drive' | 'blockdev';
  readonly options: readonly string[];
  readonly origin: string;
}

export interface QemuPlan {
  readonly nics: readonly QemuNicPlan[];
  readonly drives: readonly QemuDrivePlan[];
  readonly disks: readonly QemuDiskPlan[];
  /** QEMU's -device options. */
  readonly args: readonly string[];
  /** The same as both sides of a pair must have them. */
  readonly identity: readonly string[];
  /** Those of our chardevs that options for QEMU name. */
  readonly chardevs: readonly string[];
}

/** Throws ParameterError naming the option. */
export function planQemu(config: VmConfig): QemuPlan {
  const plan = {
    nics: [] as QemuNicPlan[],
    drives: [] as QemuDrivePlan[],
    disks: [] as QemuDiskPlan[],
    args: [] as string[],
    identity: [] as string[],
    chardevs: chardevsOf(config),
  };
  const byDrive = new Map<string, { driver: string; deviceId: string | null }>();
  const machine = config.qemu.machine ?? 'pc';
  for (const device of config.devices) {
    const driver = device.driver === DEFAULT_NIC ? defaultNic(config) : device.driver;
    const options: Options = { ...device.options };
    const origin = originOf(device, `-device ${driver}`);
    try {
      checkDevice(driver);
      const { netdev, drive, id } = options;
      if (netdev !== undefined) {
        const mac = options['mac'] === undefined ? macOf(plan.nics.length) : parseMac(options['mac']);
        options['mac'] = Array.from(mac, (byte) => byte.toString(16).padStart(2, '0')).join(':');
        plan.nics.push({
          id: id ?? `nic${plan.nics.length}`,
          netdev,
          mac,
          origin,
          isVirtio: isServedHere(driver, options),
        });
      }
      if (drive !== undefined) byDrive.set(drive, { driver, deviceId: id ?? null });
    } catch (cause) {
      throw new ParameterError(`${origin}: ${messageOf(cause)}`, { cause });
    }
    const { json } = device;
    const text = json
      ? JSON.stringify({ ...json, ...(options['mac'] === undefined ? {} : { mac: options['mac'] }) })
      : [driver, ...pairs(options)].join(',');
    plan.args.push('-device', text);
    plan.identity.push(`-device ${text}`);
  }
  for (const [, driver = '', node = ''] of machine.matchAll(/(?:^|,)(pflash[01])=([^,]+)/g)) {
    byDrive.set(node, { driver, deviceId: null });
  }
  for (const drive of planQemuDrives(config.drives, machine)) {
    const { id, bus, options, forQemu, origin } = drive;
    plan.drives.push(drive);
    const used = byDrive.get(id);
    byDrive.delete(id);
    if (options === null) {
      plan.args.push('-drive', forQemu.join(','));
      plan.identity.push(`-drive ${forQemu.join(',')}`);
    }
    // A drive that no device shows is a node of ours alone.
    else if (bus !== 'none' || used) {
      const { driver = bus, deviceId = null } = used ?? {};
      plan.disks.push({ drive: id, deviceId, driver, how: 'drive', options: forQemu, origin });
    }
  }
  for (const [drive, { driver, deviceId }] of byDrive) {
    const origin = `-device ${driver},drive=${drive}`;
    plan.disks.push({ drive, deviceId, driver, how: 'blockdev', options: [], origin });
  }
  return plan;
}

/** The chardevs that devices and objects of QEMU's name: ours, with a stream of the engine behind each. */
function chardevsOf(config: VmConfig): string[] {
  const named = [...config.devices.map(({ options }) => options), ...config.qemu.objects].map(
    ({ chardev }) => chardev,
  );
  return config.chardevs.map(({ id }) => id ?? '').filter((id) => named.includes(id));
}

/** As QEMU's machines have it (7.2: hw/i386/pc_piix.c, pc_q35.c). */
function defaultNic(config: VmConfig): string {
  return /^(pc-)?q35/.test(config.qemu.machine ?? '') ? 'e1000e' : 'e1000';
}

/**
 * virtio-net-pci and its kin have their rings served here, unless they want what that does not go with: interrupts of
 * their own choice (args.ts), or an IOMMU, whose addresses nobody would translate.
 */
function isServedHere(driver: string, options: Options): boolean {
  return (
    /^virtio-net(-pci(-non-transitional|-transitional)?)?$/.test(driver) &&
    (options['vectors'] ?? '0') === '0' &&
    !/^(on|yes|true)$/.test(options['iommu_platform'] ?? 'off')
  );
}

function pairs(options: Options): string[] {
  return Object.entries(options).map(([key, value]) => `${key}=${escapeOption(value)}`);
}

/** QEMU's: 52:54:00:12:34:56 and following, so that both sides of a pair agree without being told. */
export function macOf(at: number): Uint8Array {
  return Uint8Array.from([0x52, 0x54, 0x00, 0x12, 0x34, 0x56 + at]);
}
