/**
 * The few system calls that Node.js lacks, through koffi: open-file-description locks, hole punching, data and hole
 * seeking, reads that do not wait. Where the C library cannot be loaded every function says so by its result, and callers do without.
 * Numbers: Linux uapi/asm-generic/fcntl.h, uapi/linux/falloc.h, uapi/linux/fs.h (x86-64, arm64),
 * man 2 readv.
 */

const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const F_RDLCK = 0;
const F_WRLCK = 1;
const F_UNLCK = 2;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
/** preadv2: what is not in the page cache is not waited for. */
const RWF_NOWAIT = 8;
/** struct flock on 64-bit Linux: l_type, l_whence (2 bytes each), pad, l_start, l_len (8 each), l_pid, pad. */
const FLOCK_BYTES = 32;

interface Libc {
  fcntl(fd: number, command: number, type: string, lock: Uint8Array): number;
  fallocate(fd: number, mode: number, offset: number, length: number): number;
  lseek(fd: number, offset: number, whence: number): number;
  preadv2(fd: number, parts: BigUint64Array, count: number, offset: number, flags: number): number;
  address(bytes: Uint8Array): bigint;
}

let loaded: Libc | null | undefined;

function libc(): Libc | null {
  if (loaded !== undefined) return loaded;
  loaded = null;
  if (process.platform !== 'linux' || (process.arch !== 'x64' && process.arch !== 'arm64')) return loaded;
  try {
    const { koffi, library } = loadLibrary('libc.so.6');
    loaded = {
      fcntl: library.func('int fcntl(int fd, int cmd, ...)') as Libc['fcntl'],
      fallocate: library.func(
        'int fallocate(int fd, int mode, int64_t offset, int64_t len)',
      ) as Libc['fallocate'],
      lseek: library.func('int64_t lseek(int fd, int64_t offset, int whence)') as Libc['lseek'],
      preadv2: library.func(
        'int64_t preadv2(int fd, void *iov, int iovcnt, int64_t offset, int flags)',
      ) as Libc['preadv2'],
      address: (bytes) => koffi.address(bytes),
    };
  } catch {
    // No koffi build or another C library: holes and cross-process locks are comforts, not needs.
    loaded = null;
  }
  return loaded;
}

function flock(type: number, start: number, length: number): Uint8Array {
  const bytes = new Uint8Array(FLOCK_BYTES);
  const view = new DataView(bytes.buffer);
  view.setInt16(0, type, true);
  view.setBigInt64(8, BigInt(start), true);
  view.setBigInt64(16, BigInt(length), true);
  return bytes;
}

/** Takes (or gives back) a shared lock on a byte range. False: somebody else holds it exclusively. Null: not possible. */
export function setSharedLock(fd: number, start: number, length: number, held: boolean): boolean | null {
  const c = libc();
  if (!c) return null;
  return c.fcntl(fd, F_OFD_SETLK, 'void *', flock(held ? F_RDLCK : F_UNLCK, start, length)) === 0;
}

/** Whether another open file holds any lock on the range. Null: cannot be told. */
export function isLockedByOthers(fd: number, start: number, length: number): boolean | null {
  const c = libc();
  if (!c) return null;
  const lock = flock(F_WRLCK, start, length);
  if (c.fcntl(fd, F_OFD_GETLK, 'void *', lock) !== 0) return null;
  return new DataView(lock.buffer).getInt16(0, true) !== F_UNLCK;
}

/** Deallocates a byte range, which then reads as zeros. False: the file system cannot. */
export function punchHole(fd: number, offset: number, length: number): boolean {
  return libc()?.fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) === 0;
}

/** Gives a byte range its place on the disk, lengthening the file if need be. False: the file system cannot. */
export function reserveSpace(fd: number, offset: number, length: number): boolean {
  return libc()?.fallocate(fd, 0, offset, length) === 0;
}

/** The next byte at or after `offset` that is data (or a hole); null: none before the end of file, or unknown. */
export function seekTo(fd: number, what: 'data' | 'hole', offset: number): number | null {
  const at = libc()?.lseek(fd, offset, what === 'data' ? SEEK_DATA : SEEK_HOLE) ?? -1;
  return at < 0 ? null : at;
}

/** The one struct iovec of `readCached`, which no other call can come between. */
const part = new BigUint64Array(2);

/** Fills `target` from the page cache, at once; false when not all of it is there (or it cannot be told). */
export function readCached(fd: number, offset: number, target: Uint8Array): boolean {
  const c = libc();
  if (!c || target.byteLength === 0) return false;
  part[0] = c.address(target);
  part[1] = BigInt(target.byteLength);
  return c.preadv2(fd, part, 1, offset, RWF_NOWAIT) === target.byteLength;
}

/** Whether holes can be looked for at all. */
export function canSeekHoles(): boolean {
  return libc() !== null;
}
import { loadLibrary } from '../../base/c-library.ts';
