/**
 * What executes the demo's guest: the embedded engine, or a stock QEMU. The story, the processes and the client are the
 * same on both; the guest's image and the words of the command line about its hardware are not.
 */
export interface Platform {
  readonly engine: 'v86' | 'qemu';
  readonly accelerator: string;
  /** Which guest of `colo guest` runs on it. */
  readonly arch: 'i386' | 'amd64';
  /** RAM that the guest is comfortable with. */
  readonly memoryMiB: number;
  /** The words of the command line that choose it. */
  readonly args: readonly string[];
  /** The driver of the guest's NIC, and where its disk is, as in `-drive if=`. */
  readonly nic: string;
  readonly diskInterface: string;
}

export const EMBEDDED: Platform = {
  engine: 'v86',
  accelerator: 'v86',
  arch: 'i386',
  memoryMiB: 128,
  args: ['-accel', 'v86', '-smp', '1'],
  nic: 'ne2k_pci',
  diskInterface: 'ide',
};

export interface StockQemu {
  /** For -accel. */
  readonly accelerator: string;
  readonly vcpus: number;
  /** A path, or a name in PATH. */
  readonly binary?: string | undefined;
}

/** A stock QEMU with the hardware that people give its guests. */
export function stockQemu({ accelerator, vcpus, binary }: StockQemu): Platform {
  const which = binary === undefined ? [] : ['--qemu', binary];
  return {
    engine: 'qemu',
    accelerator,
    arch: 'amd64',
    memoryMiB: 256,
    args: [...which, '-accel', accelerator, '-smp', String(vcpus)],
    nic: 'virtio-net-pci',
    diskInterface: 'virtio',
  };
}
