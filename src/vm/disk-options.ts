/** Which `-drive` becomes which IDE disk, and under what id: QEMU's rules for `if=`, `index=`, `bus=`, `unit=` and unnamed drives. */
import { ParameterError, messageOf } from '../base/errors.ts';
import type { Options } from './command-line/keyval.ts';
import { originOf } from './command-line/origin.ts';

export interface PlannedDrive {
  readonly id: string;
  readonly options: Options;
  /** Position among the guest's disks, or null for if=none. */
  readonly position: number | null;
  /** The option as typed. */
  readonly origin: string;
  readonly warnings: readonly string[];
}

const INTERFACES = new Set(['ide', 'virtio', 'scsi', 'none']);
/** Interfaces of QEMU's that the engine has nothing near of. */
const FOREIGN = new Set(['floppy', 'pflash', 'mtd', 'sd', 'xen']);
/** Disks on one bus: IDE's master and slave, SCSI's targets, virtio's one. */
const UNITS: Readonly<Record<string, number>> = { ide: 2, scsi: 7, virtio: 1, none: 1 };
const IDE_DISKS = 2;
export const AIO = ['threads', 'native', 'io_uring'];
const ERROR_ACTIONS = ['report', 'ignore', 'enospc', 'stop'];

/** Without a guest (`machine` none) a drive is on no bus. Throws ParameterError naming the option that cannot be served. */
export function planDrives(drives: readonly Options[], machine: 'pc' | 'none' = 'pc'): PlannedDrive[] {
  const taken = new Set<number>();
  let unnamed = 0;
  return drives.map((options) => {
    const origin = originOf(options, `-drive id=${options['id'] ?? ''}`);
    try {
      const bus = checkDrive(options, machine === 'none' ? 'none' : 'ide');
      if (machine === 'none' && bus !== 'none')
        throw new ParameterError(`machine type does not support if=${bus}`);
      const position = bus === 'none' ? null : positionOf(options, bus, taken);
      if (position !== null) taken.add(position);
      const id = options['id'] ?? (position === null ? `none${unnamed++}` : `ide0-hd${position}`);
      return { id, options, position, origin, warnings: warningsOf(options, bus) };
    } catch (cause) {
      throw new ParameterError(`${origin}: ${messageOf(cause)}`, { cause });
    }
  });
}

/**
 * What a drive says of its device, checked; also for drive_add. Returns the interface. The image's own options are the
 * block layer's. Throws ParameterError.
 */
export function checkDrive(options: Options, defaultBus: string): string {
  const { if: bus = defaultBus, media, aio } = options;
  if (FOREIGN.has(bus)) throw new ParameterError('the v86 engine has IDE disks only');
  if (!INTERFACES.has(bus)) throw new ParameterError(`unsupported bus type '${bus}'`);
  if (media === 'cdrom') throw new ParameterError('the v86 engine has no CD-ROM');
  if (media !== undefined && media !== 'disk') throw new ParameterError(`'${media}' invalid media`);
  if (aio !== undefined && !AIO.includes(aio)) throw new ParameterError('invalid aio option');
  checkErrorAction('werror', 'write', options);
  checkErrorAction('rerror', 'read', options);
  return bus;
}

function checkErrorAction(key: 'werror' | 'rerror', operation: string, options: Options): void {
  const action = options[key];
  if (action === undefined || action === 'report') return;
  if (!ERROR_ACTIONS.includes(action))
    throw new ParameterError(`'${action}' invalid ${operation} error action`);
  throw new ParameterError(`${key}=${action} is not supported: errors go to the guest; use ${key}=report`);
}

function positionOf(options: Options, bus: string, taken: ReadonlySet<number>): number {
  const index = numberOf(options, 'index');
  const busNumber = numberOf(options, 'bus');
  const unit = numberOf(options, 'unit');
  if (index !== null && (busNumber !== null || unit !== null)) {
    throw new ParameterError('index cannot be used with bus and unit');
  }
  let position = index;
  if (position === null && (busNumber !== null || unit !== null)) {
    position = (busNumber ?? 0) * (UNITS[bus] ?? 1) + (unit ?? 0);
  }
  if (position === null) {
    position = 0;
    while (taken.has(position)) position++;
  }
  if (bus === 'ide' && position >= IDE_DISKS) {
    throw new ParameterError(`index=${position}: the v86 engine has ${IDE_DISKS} IDE disks, 0 and 1`);
  }
  if (taken.has(position)) throw new ParameterError(`drive with bus=${bus}, index=${position} exists`);
  return position;
}

export function numberOf(options: Options, key: string): number | null {
  const text = options[key];
  if (text === undefined) return null;
  if (!/^\d{1,6}$/.test(text)) throw new ParameterError(`Parameter '${key}' expects a number`);
  return Number(text);
}

function warningsOf(options: Options, bus: string): string[] {
  const warnings: string[] = [];
  if (bus !== 'ide' && bus !== 'none') {
    warnings.push(`-drive if=${bus}: the v86 engine has no ${bus} disks, the guest sees an IDE disk instead`);
  }
  if (options['serial'] !== undefined) {
    warnings.push(
      `-drive serial=${options['serial']}: the v86 engine's disks have a serial number of their own`,
    );
  }
  return warnings;
}
