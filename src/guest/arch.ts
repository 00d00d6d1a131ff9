/**
 * What differs between the machines a guest can be built for: Debian's names for them, their kernel and its drivers,
 * and the numbers by which the services speak to that kernel. Everything else of the build is the same for all.
 *
 * Facts: Debian 12's packages; arch/x86/entry/syscalls/syscall_32.tbl and syscall_64.tbl and include/uapi/linux/input.h
 * of Linux 6.1.
 */
import { GuestBuildError } from './errors.ts';
import { EMULATED_MODULES, MACHINE_MODULES } from './kernel-modules.ts';

export interface Arch {
  /** Debian's name of the architecture. */
  readonly name: string;
  /** The package that always depends on the newest kernel, and the ending of that kernel's version. */
  readonly kernelMetapackage: string;
  readonly kernelFlavour: string;
  /** Debian's directory of libraries. */
  readonly triplet: string;
  /** Where programs expect the dynamic loader, and its name among the libraries. */
  readonly loader: string;
  readonly modules: readonly string[];
  /** Whether the root archive is packed: less for the boot loader to read, but something for the CPU to unpack. */
  readonly isRootPacked: boolean;
  /** Kernel options on top of those that every guest has. */
  readonly kernelOptions: readonly string[];
  readonly abi: Abi;
}

/** The parts of the kernel's interface that Perl has no word for without its modules. */
export interface Abi {
  readonly fsync: number;
  readonly sync: number;
  readonly clockGettime: number;
  /** Perl's pack letters of a struct timespec. */
  readonly timespec: string;
  /** The size of a struct input_event, and its unpack letters from `type` on. */
  readonly inputEventBytes: number;
  readonly inputEvent: string;
}

const I386: Arch = {
  name: 'i386',
  kernelMetapackage: 'linux-image-686',
  kernelFlavour: '686',
  triplet: 'i386-linux-gnu',
  loader: 'lib/ld-linux.so.2',
  modules: EMULATED_MODULES,
  isRootPacked: false,
  kernelOptions: [],
  abi: {
    fsync: 118,
    sync: 36,
    clockGettime: 265,
    timespec: 'l l',
    inputEventBytes: 16,
    inputEvent: 'x8 S S l',
  },
};

const AMD64: Arch = {
  name: 'amd64',
  kernelMetapackage: 'linux-image-amd64',
  kernelFlavour: 'amd64',
  triplet: 'x86_64-linux-gnu',
  loader: 'lib64/ld-linux-x86-64.so.2',
  modules: MACHINE_MODULES,
  // The BIOS reads an IDE disk at some 4 MB/s under TCG, which unpacks several times as much.
  isRootPacked: true,
  // Goes into init's environment: perl then does not wait the second that a CPU without RDRAND takes for a seed.
  kernelOptions: ['PERL_HASH_SEED=0'],
  abi: {
    fsync: 74,
    sync: 162,
    clockGettime: 228,
    timespec: 'q q',
    inputEventBytes: 24,
    inputEvent: 'x16 S S l',
  },
};

/** The first one is the default. */
export const ARCHITECTURES: readonly Arch[] = [I386, AMD64];

/** The architecture `name`, or the default. Throws GuestBuildError for one that no guest is built for. */
export function findArch(name: string | undefined): Arch {
  const found = name === undefined ? I386 : ARCHITECTURES.find((arch) => arch.name === name);
  if (found !== undefined) return found;
  const known = ARCHITECTURES.map((arch) => arch.name).join(' or ');
  throw new GuestBuildError(`No guest is built for '${String(name)}'; ask for ${known}.`);
}
