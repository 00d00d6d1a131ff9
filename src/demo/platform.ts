/**
 * What executes the demo's guest: the embedded engine, or a stock QEMU. The story, the processes and the client are the
 * same on both; the guest's image and the words of the command line about its hardware are not.
 */
import type { DiskSpec, VmEngine } from '../ha/spec/vm-spec.ts';

export interface Platform {
  readonly engine: 'v86' | 'qemu';
  readonly accelerator: VmEngine;
  readonly vcpus: number;
  /** The QEMU to run; default: the one in PATH. */
  readonly qemu?: string;
  /** Which guest of `colo guest` runs on it. */
  readonly arch: 'i386' | 'amd64';
  /** RAM that the guest is comfortable with. */
  readonly memoryMiB: number;
  /** The driver of the guest's NIC, and where its disk is, as in `-drive if=`. */
  readonly nic: string;
  readonly diskInterface: DiskSpec['interface'];
}

export const EMBEDDED: Platform = {
  engine: 'v86',
  accelerator: 'v86',
  arch: 'i386',
  memoryMiB: 128,
  vcpus: 1,
  nic: 'ne2k_pci',
  diskInterface: 'ide',
};

export interface StockQemu {
  /** For -accel. */
  readonly accelerator: 'kvm' | 'tcg';
  readonly vcpus: number;
  /** A path, or a name in PATH. */
  readonly binary?: string | undefined;
}

/** A stock QEMU with the hardware that people give its guests. */
export function stockQemu({ accelerator, vcpus, binary }: StockQemu): Platform {
  return {
    engine: 'qemu',
    accelerator,
    arch: 'amd64',
    memoryMiB: 256,
    vcpus,
    ...(binary === undefined ? {} : { qemu: binary }),
    nic: 'virtio-net-pci',
    diskInterface: 'virtio',
  };
}
