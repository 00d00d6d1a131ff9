/**
 * The system calls on memory that Node.js lacks, through koffi: anonymous files, mappings, holes. Throws ColoError with
 * errno's name; where the C library cannot be loaded, so does every call.
 * Numbers: Linux uapi/linux/memfd.h, uapi/asm-generic/mman-common.h, uapi/linux/falloc.h, uapi/linux/fcntl.h (x86-64,
 * arm64). koffi hands addresses over as bigint.
 */
import { closeSync } from 'node:fs';
import { getSystemErrorName } from 'node:util';
import { loadLibrary } from '../../base/c-library.ts';
import { ColoError, messageOf } from '../../base/errors.ts';

const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const F_ADD_SEALS = 1033;
const F_SEAL_SEAL = 1;
const F_SEAL_SHRINK = 2;
const F_SEAL_GROW = 4;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
const MAP_FAILED = 0xffffffffffffffffn;
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const MADV_HUGEPAGE = 14;
const HUGE_PAGE_BYTES = 2 * 1024 * 1024;
const SEEK_DATA = 3;
/** The longest name that memfd_create takes (man 2 memfd_create). */
const MAX_NAME_BYTES = 249;

interface Calls {
  memfdCreate(name: string, flags: number): number;
  ftruncate(fd: number, length: number): number;
  fcntl(fd: number, command: number, type: string, value: number): number;
  mmap(
    at: bigint | null,
    length: number,
    prot: number,
    flags: number,
    fd: number,
    offset: number,
  ): bigint | null;
  munmap(at: bigint, length: number): number;
  fallocate(fd: number, mode: number, offset: number, length: number): number;
  lseek(fd: number, offset: number, whence: number): number;
  madvise(at: bigint, length: number, advice: number): number;
  errno(): number;
  view(at: bigint, length: number): ArrayBuffer;
  address(bytes: Uint8Array): bigint;
}

let loaded: Calls | null = null;

function calls(): Calls {
  if (loaded) return loaded;
  try {
    const { koffi, library } = loadLibrary('libc.so.6');
    loaded = {
      memfdCreate: library.func('int memfd_create(const char *name, unsigned int flags)'),
      ftruncate: library.func('int ftruncate(int fd, int64_t length)'),
      fcntl: library.func('int fcntl(int fd, int cmd, ...)'),
      mmap: library.func('void *mmap(void *at, size_t length, int prot, int flags, int fd, int64_t offset)'),
      munmap: library.func('int munmap(void *at, size_t length)'),
      fallocate: library.func('int fallocate(int fd, int mode, int64_t offset, int64_t length)'),
      lseek: library.func('int64_t lseek(int fd, int64_t offset, int whence)'),
      madvise: library.func('int madvise(void *at, size_t length, int advice)'),
      errno: () => koffi.errno(),
      view: (at, length) => koffi.view(at, length),
      address: (bytes) => koffi.address(bytes),
    };
    return loaded;
  } catch (error) {
    throw new ColoError(
      `guest RAM cannot be mapped: ${messageOf(error)}; Linux with glibc on x86-64 or arm64 is needed`,
      { cause: error },
    );
  }
}

function failure(what: string): ColoError {
  const errno = calls().errno();
  return new ColoError(`${what}: ${errno > 0 ? getSystemErrorName(-errno) : 'failed'}`);
}

/** An anonymous file of `length` zero bytes, which nobody can make longer or shorter. It ends with its last user. */
export function createMemoryFile(name: string, length: number): number {
  const c = calls();
  // The name is for /proc alone. Whole characters of one byte, so that the length is known.
  const fd = c.memfdCreate(
    name.replace(/[^\x20-\x7e]/g, '?').slice(0, MAX_NAME_BYTES),
    MFD_CLOEXEC | MFD_ALLOW_SEALING,
  );
  if (fd < 0) throw failure(`guest RAM ${name}: memfd_create`);
  try {
    if (c.ftruncate(fd, length) !== 0) throw failure(`guest RAM ${name}: ${length} bytes`);
    // A file that another process made shorter would kill this one with SIGBUS.
    if (c.fcntl(fd, F_ADD_SEALS, 'int', F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) !== 0) {
      throw failure(`guest RAM ${name}: seals`);
    }
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Maps the whole file, shared. */
export function mapShared(fd: number, length: number): bigint {
  const at = calls().mmap(null, length, PROT_READ_WRITE, MAP_SHARED, fd, 0);
  if (at === null || at === MAP_FAILED) throw failure(`guest RAM: mmap of ${length} bytes`);
  return at;
}

/** Maps private zeros. */
export function mapAnonymous(length: number): bigint {
  const at = calls().mmap(null, length, PROT_READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at === null || at === MAP_FAILED) throw failure('mmap');
  return at;
}

/** Puts zeros in the place of a mapping: views that are still about stay harmless. */
export function mapNothing(at: bigint, length: number): void {
  const flags = MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE;
  if (calls().mmap(at, length, PROT_READ_WRITE, flags, -1, 0) !== at) throw failure('guest RAM: mmap');
}

export function unmap(at: bigint, length: number): void {
  calls().munmap(at, length);
}

/** The bytes at an address, not copied. It must stay mapped for as long as anything refers to the view. */
export function viewOf(at: bigint, length: number): Buffer {
  return Buffer.from(calls().view(at, length));
}

/** Where a buffer's bytes are. They do not move; the caller keeps the buffer for as long as the address is used. */
export function addressOf(bytes: Uint8Array): bigint {
  return calls().address(bytes);
}

/** Asks for huge pages under a fresh buffer, which is filled in a third of the time then. */
export function adviseHuge(bytes: Uint8Array): void {
  const skip = (HUGE_PAGE_BYTES - Number(addressOf(bytes) % BigInt(HUGE_PAGE_BYTES))) % HUGE_PAGE_BYTES;
  const length = Math.floor((bytes.byteLength - skip) / HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES;
  // Refused where the kernel has none, which is no loss.
  if (length > 0) calls().madvise(addressOf(bytes) + BigInt(skip), length, MADV_HUGEPAGE);
}

/** Frees a byte range, which then reads as zeros through every mapping. */
export function punchHole(fd: number, offset: number, length: number): void {
  if (calls().fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) !== 0) {
    throw failure('guest RAM: fallocate');
  }
}

/** The first byte at or after `from` that is allocated, `end` if none is before it. */
export function nextData(fd: number, from: number, end: number): number {
  const at = calls().lseek(fd, from, SEEK_DATA);
  // ENXIO: nothing but hole to the end of the file.
  return at < 0 || at > end ? end : at;
}
