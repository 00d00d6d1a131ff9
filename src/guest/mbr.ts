/**
 * The disk's layout and its master boot record: where the two partitions lie, and the 512 bytes that say so.
 *
 * It writes no boot code of its own (syslinux brings that) and nothing beyond the first sector.
 */
import { GuestBuildError } from './errors.ts';

export const SECTOR = 512;
export const MIB = 1024 * 1024;

/** One partition, in bytes from the start of the disk. */
export interface Partition {
  readonly offset: number;
  readonly size: number;
  readonly type: number;
  readonly bootable: boolean;
}

export interface DiskLayout {
  readonly size: number;
  readonly boot: Partition;
  readonly data: Partition;
}

const TYPE_FAT16_LBA = 0x0e;
const TYPE_LINUX = 0x83;
const BOOT_CODE_LIMIT = 440;
const TABLE_AT = 446;
/** A smaller file system leaves no room for a journal beside the ledger. */
export const SMALLEST_DATA = 8 * MIB;
/** Cylinder/head/sector fields are unused; this is the value that says "read the LBA fields". */
const CHS_UNUSED = [0xfe, 0xff, 0xff] as const;

/** Lays a boot partition of `bootSize` bytes and a data partition over the rest of a disk of `size` bytes. */
export function planLayout(size: number, bootSize: number): DiskLayout {
  const diskSize = Math.floor(size / MIB) * MIB;
  const bootBytes = Math.ceil(bootSize / MIB) * MIB;
  // The first MiB holds the boot record; partitions on MiB borders never share a qcow2 cluster.
  const dataAt = MIB + bootBytes;
  if (diskSize - dataAt < SMALLEST_DATA) {
    const least = Math.ceil((dataAt + SMALLEST_DATA) / MIB);
    throw new GuestBuildError(
      `A disk of ${Math.floor(size / MIB)} MiB is too small; ask for at least ${least} MiB.`,
    );
  }
  return {
    size: diskSize,
    boot: { offset: MIB, size: bootBytes, type: TYPE_FAT16_LBA, bootable: true },
    data: { offset: dataAt, size: diskSize - dataAt, type: TYPE_LINUX, bootable: false },
  };
}

/** The first sector of the disk: `bootCode`, a fixed `diskId`, and the partition table. */
export function writeMbr(layout: DiskLayout, bootCode: Uint8Array, diskId: number): Uint8Array {
  if (bootCode.length > BOOT_CODE_LIMIT) {
    throw new GuestBuildError(`The boot code is ${bootCode.length} bytes; an MBR holds ${BOOT_CODE_LIMIT}.`);
  }
  const sector = Buffer.alloc(SECTOR);
  sector.set(bootCode, 0);
  sector.writeUInt32LE(diskId, BOOT_CODE_LIMIT);
  [layout.boot, layout.data].forEach((partition, index) => {
    const at = TABLE_AT + index * 16;
    sector[at] = partition.bootable ? 0x80 : 0;
    sector.set(CHS_UNUSED, at + 1);
    sector[at + 4] = partition.type;
    sector.set(CHS_UNUSED, at + 5);
    sector.writeUInt32LE(partition.offset / SECTOR, at + 8);
    sector.writeUInt32LE(partition.size / SECTOR, at + 12);
  });
  sector.writeUInt16LE(0xaa55, 510);
  return sector;
}
