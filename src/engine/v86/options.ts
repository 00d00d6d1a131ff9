/**
 * What a v86 machine is made of, checked: sizes within what v86 can do, at most two disks, NICs of one model.
 * Also the build id: the hash of everything that must be equal on both sides of a checkpoint.
 * Which QEMU option means which of these is decided above (vm/).
 */
import { createHash } from 'node:crypto';
import { ParameterError } from '../../base/errors.ts';
import type { EngineDisk } from '../engine.ts';

export type NicModel = 'ne2k' | 'virtio';

export interface V86NicOptions {
  readonly id: string;
  readonly model: NicModel;
  /** Six bytes. */
  readonly mac: Uint8Array;
}

export interface V86Options {
  readonly name: string;
  /** A multiple of 128 KiB, 1 MiB to 2047 MiB. */
  readonly ramBytes: number;
  /** SeaBIOS, a multiple of 64 KiB (bios.bin). */
  readonly bios: Uint8Array;
  readonly vgaBios: Uint8Array;
  /** A power of two from 256 KiB to 256 MiB; default 2 MiB. */
  readonly vgaRamBytes?: number;
  /** First the primary master (hda), then the primary slave (hdb). */
  readonly disks: readonly EngineDisk[];
  /** Up to three ne2k, or one virtio. */
  readonly nics: readonly V86NicOptions[];
  /** v86's ACPI device; Debian's SeaBIOS does not describe it to the guest, so default false. */
  readonly acpi?: boolean;
  /** Wall time that the guest's RTC starts from, ms since 1970; default now. */
  readonly rtcBaseMs?: number;
  /** What a reset by the guest does: start again (default), or stand still as QEMU's -no-reboot. */
  readonly onGuestReset?: 'reboot' | 'pause';
}

const KIB = 1024;
const MIB = 1024 * KIB;
export const MAX_DISKS = 2;
/** ne2k adapters beyond these would take the PCI slot of another device. */
export const MAX_NE2K = 3;
const SECTOR = 512;
/** IDE's 48 bit addresses as v86 computes them hold 32 bits of sectors. */
const MAX_SECTORS = 2 ** 32 - 1;

/** The sizes and kinds alone: can be sent to a worker. */
export interface V86Shape {
  readonly ramBytes: number;
  readonly vgaRamBytes: number;
  readonly acpi: boolean;
  readonly disks: readonly { readonly lengthBytes: number }[];
  readonly nics: readonly { readonly model: NicModel; readonly mac: Uint8Array }[];
}

/** Checks the options. Throws ParameterError naming what cannot be built and why. */
export function shapeOf(options: V86Options): V86Shape {
  const { ramBytes, vgaRamBytes = 2 * MIB, disks, nics } = options;
  if (
    !Number.isInteger(ramBytes) ||
    ramBytes < MIB ||
    ramBytes > 2047 * MIB ||
    ramBytes % (128 * KIB) !== 0
  ) {
    throw new ParameterError(
      `engine v86: RAM of ${ramBytes} bytes; it takes a multiple of 128 KiB from 1 MiB to 2047 MiB`,
    );
  }
  if (vgaRamBytes < 256 * KIB || vgaRamBytes > 256 * MIB || (vgaRamBytes & (vgaRamBytes - 1)) !== 0) {
    throw new ParameterError(
      `engine v86: VGA RAM of ${vgaRamBytes} bytes; it takes a power of two from 256 KiB`,
    );
  }
  if (
    options.bios.length === 0 ||
    options.bios.length > 256 * KIB ||
    options.bios.length % (64 * KIB) !== 0
  ) {
    throw new ParameterError(
      `engine v86: a BIOS of ${options.bios.length} bytes; 64, 128 or 256 KiB are possible`,
    );
  }
  if (options.vgaBios.length > 64 * KIB)
    throw new ParameterError('engine v86: the VGA BIOS is larger than 64 KiB');
  if (disks.length > MAX_DISKS) {
    throw new ParameterError(
      `engine v86: ${disks.length} disks; its IDE controller takes ${MAX_DISKS} (hda, hdb)`,
    );
  }
  for (const disk of disks) {
    if (
      disk.lengthBytes < SECTOR ||
      disk.lengthBytes % SECTOR !== 0 ||
      disk.lengthBytes / SECTOR > MAX_SECTORS
    ) {
      throw new ParameterError(
        `engine v86: disk ${disk.id} of ${disk.lengthBytes} bytes; it takes 512 byte sectors`,
      );
    }
  }
  checkNics(nics);
  return {
    ramBytes,
    vgaRamBytes,
    acpi: options.acpi ?? false,
    disks: disks.map(({ lengthBytes }) => ({ lengthBytes })),
    nics: nics.map(({ model, mac }) => ({ model, mac: Uint8Array.from(mac) })),
  };
}

function checkNics(nics: readonly V86NicOptions[]): void {
  const virtio = nics.filter((nic) => nic.model === 'virtio').length;
  if (virtio > 1 || (virtio === 1 && nics.length > 1)) {
    throw new ParameterError(
      `engine v86: a virtio NIC can only be the machine's sole NIC; for several (up to ${MAX_NE2K}) use ne2k_pci`,
    );
  }
  if (nics.length > MAX_NE2K)
    throw new ParameterError(`engine v86: ${nics.length} NICs; up to ${MAX_NE2K} are possible`);
  for (const nic of nics) {
    if (nic.mac.length !== 6)
      throw new ParameterError(`engine v86: NIC ${nic.id}: a MAC address has six bytes`);
  }
}

/** The engine's own files and the format of its snapshots; differs between builds that cannot exchange state. */
export interface V86Build {
  readonly snapshotFormat: number;
  readonly wasmSha256: string;
  readonly scriptSha256: string;
  readonly biosSha256: string;
  readonly vgaBiosSha256: string;
}

/** Hexadecimal SHA-256. MACs are left out: the primary's are restored by a load. */
export function buildIdOf(shape: V86Shape, build: V86Build): string {
  const all = [
    'v86',
    build.snapshotFormat,
    build.wasmSha256,
    build.scriptSha256,
    build.biosSha256,
    build.vgaBiosSha256,
    shape.ramBytes,
    shape.vgaRamBytes,
    shape.acpi,
    shape.disks.map((disk) => disk.lengthBytes),
    shape.nics.map((nic) => nic.model),
  ];
  return createHash('sha256').update(JSON.stringify(all)).digest('hex');
}
