/**
 * What each `-drive` is when a stock QEMU executes the guest: the image is a drive of our block graph, the device is
 * QEMU's. QEMU's rules for interfaces, places and the names of unnamed drives are kept (blockdev.c, drive_new; texts and
 * names asked of QEMU 7.2), because monitors and the other side of a pair go by them.
 */
import { ParameterError, messageOf } from '../base/errors.ts';
import { escapeOption } from '../engine/qemu/index.ts';
import type { Options } from './command-line/keyval.ts';
import { originOf } from './command-line/origin.ts';
import { AIO, numberOf } from './disk-options.ts';

export interface QemuDrivePlan {
  readonly id: string;
  /** `none`: a -device shows it, or nothing does. */
  readonly bus: string;
  /** Our block layer's, or null for a drive without a medium, which is QEMU's alone. */
  readonly options: Options | null;
  /** QEMU's, as `key=value`, escaped. */
  readonly forQemu: readonly string[];
  readonly origin: string;
  readonly warnings: readonly string[];
}

const INTERFACES = ['none', 'ide', 'scsi', 'floppy', 'pflash', 'mtd', 'sd', 'virtio', 'xen'];
/** Options of the device or of what stands between it and the image. */
const OF_QEMU = [
  'werror',
  'rerror',
  'group',
  'stats-intervals',
  'stats-account-invalid',
  'stats-account-failed',
];
const LIMITS = /^(throttling\.|(bps|iops)(_|$))/;
/** They say where the device sits and what the image is for; none of them is the image's. */
const PLACE = ['if', 'index', 'bus', 'unit', 'media', 'id'];
/** What is left of a drive without a medium. */
const NO_MEDIUM = ['readonly', 'read-only', 'format', 'file'];

/** Throws ParameterError naming the option. `machine`: the value of -machine. */
export function planQemuDrives(drives: readonly Options[], machine: string): QemuDrivePlan[] {
  const isQ35 = /^(pc-)?q35/.test(machine);
  const defaultBus = isQ35 || /^(pc|isapc)/.test(machine) ? 'ide' : 'none';
  const taken = new Set<string>();
  return drives.map((given) => {
    const origin = originOf(given, `-drive id=${given['id'] ?? ''}`);
    try {
      return { ...planDrive(given, defaultBus, isQ35 ? 1 : 2, taken), origin };
    } catch (cause) {
      throw new ParameterError(`${origin}: ${messageOf(cause)}`, { cause });
    }
  });
}

function planDrive(
  given: Options,
  defaultBus: string,
  unitsOfIde: number,
  taken: Set<string>,
): Omit<QemuDrivePlan, 'origin'> {
  const { if: bus = defaultBus, media, aio, id } = given;
  if (!INTERFACES.includes(bus)) throw new ParameterError(`unsupported bus type '${bus}'`);
  if (media !== undefined && media !== 'disk' && media !== 'cdrom') {
    throw new ParameterError(`'${media}' invalid media`);
  }
  if (aio !== undefined && !AIO.includes(aio)) throw new ParameterError('invalid aio option');
  if (given['serial'] !== undefined) {
    throw new ParameterError(
      "Block format 'raw' does not support the option 'serial'; give it to the device: if=none and -device …,serial=",
    );
  }
  const isCdrom = media === 'cdrom';
  const perBus = bus === 'ide' ? unitsOfIde : bus === 'scsi' ? 7 : 0;
  const at = placeOf(given, bus, perBus, taken);
  const ofMedia = bus === 'ide' || bus === 'scsi' ? (isCdrom ? '-cd' : '-hd') : '';
  const forQemu = [`if=${bus}`];
  if (bus !== 'none') forQemu.push(`bus=${at.bus}`, `unit=${at.unit}`);
  if (media !== undefined) forQemu.push(`media=${media}`);
  const own = Object.create(null) as Options;
  for (const [key, value] of Object.entries(given)) {
    if (OF_QEMU.includes(key) || LIMITS.test(key)) forQemu.push(`${key}=${escapeOption(value)}`);
    else if (!PLACE.includes(key)) own[key] = value;
  }
  const warnings = takeCache(own, forQemu);
  const name = id ?? `${bus}${perBus > 0 ? at.bus : ''}${ofMedia}${at.unit}`;
  const isEmpty =
    (own['file'] ?? '') === '' && Object.keys(own).every((key) => NO_MEDIUM.includes(key) || key === 'aio');
  if (isEmpty)
    return { id: name, bus, options: null, forQemu: [...forQemu, `id=${escapeOption(name)}`], warnings };
  if (isCdrom && own['readonly'] === undefined && own['read-only'] === undefined) own['read-only'] = 'on';
  return { id: name, bus, options: { ...own, id: name }, forQemu, warnings };
}

/** QEMU's bus and unit; the first free place when none is asked for. */
function placeOf(
  given: Options,
  bus: string,
  perBus: number,
  taken: Set<string>,
): { bus: number; unit: number } {
  const index = numberOf(given, 'index');
  const at = { bus: numberOf(given, 'bus') ?? 0, unit: numberOf(given, 'unit') };
  if (index !== null) {
    if (at.bus !== 0 || at.unit !== null) throw new ParameterError('index cannot be used with bus and unit');
    at.bus = perBus > 0 ? Math.floor(index / perBus) : 0;
    at.unit = perBus > 0 ? index % perBus : index;
  }
  const isTaken = (unit: number): boolean => taken.has(`${bus} ${at.bus} ${unit}`);
  let { unit } = at;
  if (unit === null) {
    for (unit = 0; isTaken(unit); unit++) {
      if (perBus === 0 || unit + 1 < perBus) continue;
      at.bus++;
      unit = -1;
    }
  }
  if (perBus > 0 && unit >= perBus) throw new ParameterError(`unit ${unit} too big (max is ${perBus - 1})`);
  if (isTaken(unit)) {
    throw new ParameterError(`drive with bus=${at.bus}, unit=${unit} (index=${index ?? -1}) exists`);
  }
  taken.add(`${bus} ${at.bus} ${unit}`);
  return { bus: at.bus, unit };
}

/**
 * Caches are two: the guest's disk has a write cache or not (`writeback`, QEMU's part), and flushes reach the image or
 * not (`no-flush`, both). The host's page cache cannot be gone around (`direct`).
 */
function takeCache(own: Options, forQemu: string[]): string[] {
  const warnings: string[] = [];
  const mode = own['cache'];
  const isDirect = mode === 'none' || mode === 'directsync' || own['cache.direct'] === 'on';
  if (isDirect) {
    const spelt = own['cache.direct'] === 'on' ? 'cache.direct=on' : `cache=${mode}`;
    warnings.push(
      `-drive ${spelt}: the host's page cache is used; what the guest flushes is on disk all the same`,
    );
    delete own['cache.direct'];
  }
  if (mode === 'writethrough' || mode === 'directsync' || own['cache.writeback'] === 'off') {
    forQemu.push('cache.writeback=off');
    delete own['cache.writeback'];
  }
  if (mode === 'none' || mode === 'directsync' || mode === 'writethrough') own['cache'] = 'writeback';
  if (mode === 'unsafe' || own['cache.no-flush'] === 'on') forQemu.push('cache.no-flush=on');
  return warnings;
}
