/** Which `-drive` becomes which IDE disk, and under what id: QEMU's rules for `if=`, `index=` and unnamed drives. */
import { ParameterError } from '../base/errors.ts';
import type { Options } from './command-line/keyval.ts';

export interface PlannedDrive {
  readonly id: string;
  readonly options: Options;
  /** Position among the guest's disks, or null for if=none. */
  readonly position: number | null;
  readonly warning: string | null;
}

const INTERFACES = new Set(['ide', 'virtio', 'scsi', 'none']);

/** Throws ParameterError for an interface that the engine has nothing near of. */
export function planDrives(drives: readonly Options[]): PlannedDrive[] {
  const taken = new Set<number>();
  let unnamed = 0;
  return drives.map((options) => {
    const bus = options['if'] ?? 'ide';
    if (!INTERFACES.has(bus)) throw new ParameterError(`-drive if=${bus}: unsupported bus type '${bus}'`);
    if (options['media'] === 'cdrom')
      throw new ParameterError('-drive media=cdrom: the v86 engine has no CD-ROM here');
    let position: number | null = null;
    if (bus !== 'none') {
      position = 0;
      if (options['index'] !== undefined) position = Number(options['index']);
      else while (taken.has(position)) position++;
      if (!Number.isInteger(position) || position < 0 || taken.has(position)) {
        throw new ParameterError(
          `-drive: drive with bus=${bus}, index=${options['index'] ?? position} exists or is out of range`,
        );
      }
      taken.add(position);
    }
    const id = options['id'] ?? (position === null ? `none${unnamed++}` : `ide0-hd${position}`);
    return {
      id,
      options,
      position,
      warning:
        bus === 'ide' || bus === 'none'
          ? null
          : `-drive if=${bus}: the v86 engine has no ${bus} disks, the guest sees an IDE disk instead`,
    };
  });
}
