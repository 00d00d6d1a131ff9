/**
 * What a vhost-user back-end needs of Linux and Node.js lacks, through koffi: unix sockets whose messages carry file
 * descriptors, and descriptors that are watched from the event loop (libuv's poll: no thread waits). Throws ColoError
 * with errno's name. Facts: unix(7), cmsg(3), recvmsg(2), eventfd(2); numbers and layouts are those of 64-bit Linux.
 */
import { closeSync, readSync, writeSync } from 'node:fs';
import { getSystemErrorName } from 'node:util';
import { loadLibrary } from '../../../base/c-library.ts';
import { ColoError, messageOf } from '../../../base/errors.ts';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_CTRUNC = 8;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;
const F_GETFL = 3;
const F_SETFL = 4;
const O_NONBLOCK = 0o4000;
const EAGAIN = 11;
const EINTR = 4;
/** struct sockaddr_un: u16 family, then a path with its zero. */
const SUN_PATH_AT = 2;
const SUN_PATH_BYTES = 108;
/** struct msghdr: name, namelen, iov, iovlen, control, controllen, flags. */
const MSGHDR_BYTES = 56;
const IOVEC_BYTES = 16;
/** struct cmsghdr: u64 length with the header, i32 level, i32 type. */
const CMSGHDR_BYTES = 16;
/** SCM_MAX_FD is 253; nobody who speaks this protocol sends more than there are regions of memory. */
const MAX_FDS = 16;

/** How it ended with a try that must not wait. */
export const WOULD_BLOCK = -1;

interface Calls {
  socket(domain: number, type: number, protocol: number): number;
  bind(fd: number, address: Uint8Array, length: number): number;
  listen(fd: number, backlog: number): number;
  accept4(fd: number, address: null, length: null, flags: number): number;
  recvmsg(fd: number, message: Uint8Array, flags: number): number;
  send(fd: number, bytes: Uint8Array, length: number, flags: number): number;
  fcntl(fd: number, command: number, type: string, value: number): number;
  errno(): number;
  address(bytes: Uint8Array): bigint;
  watch(fd: number, onReadable: () => void): { close(): void };
}

let loaded: Calls | null = null;

function calls(): Calls {
  if (loaded) return loaded;
  try {
    const { koffi, library } = loadLibrary('libc.so.6');
    loaded = {
      socket: library.func('int socket(int domain, int type, int protocol)'),
      bind: library.func('int bind(int fd, void *address, uint32_t length)'),
      listen: library.func('int listen(int fd, int backlog)'),
      accept4: library.func('int accept4(int fd, void *address, void *length, int flags)'),
      recvmsg: library.func('int64_t recvmsg(int fd, void *message, int flags)'),
      send: library.func('int64_t send(int fd, void *bytes, size_t length, int flags)'),
      fcntl: library.func('int fcntl(int fd, int cmd, ...)'),
      errno: () => koffi.errno(),
      address: (bytes) => koffi.address(bytes),
      watch: (fd, onReadable) => koffi.node.poll(fd, { readable: true }, onReadable),
    };
    return loaded;
  } catch (error) {
    throw new ColoError(
      `vhost-user cannot be served: ${messageOf(error)}; Linux with glibc on x86-64 or arm64 is needed`,
      { cause: error },
    );
  }
}

function failure(what: string): ColoError {
  const errno = calls().errno();
  return new ColoError(`vhost-user: ${what}: ${errno > 0 ? getSystemErrorName(-errno) : 'failed'}`);
}

/** A descriptor that is watched; `onReadable` comes again and again while there is something to read. */
export interface Watch {
  close(): void;
}

/** Keeps the process alive, as a socket does. */
export function watchReadable(fd: number, onReadable: () => void): Watch {
  return calls().watch(fd, onReadable);
}

/** A listening socket at a path. */
export function listenUnix(path: string): number {
  const c = calls();
  const address = Buffer.alloc(SUN_PATH_AT + SUN_PATH_BYTES);
  address.writeUInt16LE(AF_UNIX, 0);
  if (address.write(path, SUN_PATH_AT, SUN_PATH_BYTES - 1) !== Buffer.byteLength(path)) {
    throw new ColoError(`vhost-user: the path of its socket is too long: ${path}`);
  }
  const fd = c.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) throw failure('socket');
  if (c.bind(fd, address, address.length) !== 0 || c.listen(fd, 1) !== 0) {
    const error = failure(`listening at ${path}`);
    closeSync(fd);
    throw error;
  }
  return fd;
}

/** A connection that waits; WOULD_BLOCK: none does. Throws ColoError. */
export function acceptUnix(listener: number): number {
  const fd = calls().accept4(listener, null, null, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0) return fd;
  if (isTransient(calls().errno())) return WOULD_BLOCK;
  throw failure('accept');
}

function isTransient(errno: number): boolean {
  return errno === EAGAIN || errno === EINTR;
}

/** Reads bytes of a stream and the descriptors that come with them. */
export class DescriptorReceiver {
  readonly #message = Buffer.alloc(MSGHDR_BYTES);
  readonly #vector = Buffer.alloc(IOVEC_BYTES);
  readonly #control = Buffer.alloc(CMSGHDR_BYTES + MAX_FDS * 4);

  constructor() {
    const c = calls();
    this.#message.writeBigUInt64LE(c.address(this.#vector), 16);
    this.#message.writeBigUInt64LE(1n, 24);
    this.#message.writeBigUInt64LE(c.address(this.#control), 32);
  }

  /**
   * Reads into `into[from, to)`; returns how many bytes, 0 at the end of the stream, or WOULD_BLOCK. The descriptors are
   * added to `fds` and the caller's to close. Throws ColoError, also when more came than it can take.
   */
  receive(fd: number, into: Uint8Array, from: number, to: number, fds: number[]): number {
    const c = calls();
    const message = this.#message;
    this.#vector.writeBigUInt64LE(c.address(into) + BigInt(from), 0);
    this.#vector.writeBigUInt64LE(BigInt(to - from), 8);
    message.writeBigUInt64LE(BigInt(this.#control.length), 40);
    message.writeInt32LE(0, 48);
    const count = c.recvmsg(fd, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (count < 0) {
      if (isTransient(c.errno())) return WOULD_BLOCK;
      throw failure('recvmsg');
    }
    this.#takeDescriptors(Number(message.readBigUInt64LE(40)), fds);
    if ((message.readInt32LE(48) & MSG_CTRUNC) !== 0) {
      throw new ColoError(`vhost-user: a message came with more than ${MAX_FDS} descriptors`);
    }
    return count;
  }

  #takeDescriptors(length: number, fds: number[]): void {
    const control = this.#control;
    for (let at = 0; at + CMSGHDR_BYTES <= length;) {
      const bytes = Number(control.readBigUInt64LE(at));
      if (bytes < CMSGHDR_BYTES || at + bytes > length) return;
      const isRights =
        control.readInt32LE(at + 8) === SOL_SOCKET && control.readInt32LE(at + 12) === SCM_RIGHTS;
      if (isRights) {
        for (let fdAt = at + CMSGHDR_BYTES; fdAt + 4 <= at + bytes; fdAt += 4) {
          fds.push(control.readInt32LE(fdAt));
        }
      }
      at += Math.ceil(bytes / 8) * 8;
    }
  }
}

/** Sends all of a short message at once. Throws ColoError when that cannot be done without waiting. */
export function sendWhole(fd: number, bytes: Uint8Array): void {
  const sent = calls().send(fd, bytes, bytes.length, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent < 0) throw failure('send');
  if (sent !== bytes.length) throw new ColoError('vhost-user: QEMU does not read its answers');
}

/** No read or write of it will wait from now on, whoever made it. */
export function makeNonBlocking(fd: number): void {
  const c = calls();
  const flags = c.fcntl(fd, F_GETFL, 'int', 0);
  if (flags < 0 || c.fcntl(fd, F_SETFL, 'int', flags | O_NONBLOCK) !== 0) throw failure('fcntl');
}

const counter = Buffer.alloc(8);
const one = Buffer.from([1, 0, 0, 0, 0, 0, 0, 0]);

/** Takes what an eventfd has counted. False: nothing, or it is none. */
export function takeEvents(fd: number): boolean {
  try {
    return readSync(fd, counter, 0, counter.length, null) > 0;
  } catch {
    return false;
  }
}

/** Counts one more. One that is full tells its reader all the same. */
export function signalEvent(fd: number): void {
  try {
    writeSync(fd, one, 0, one.length, null);
  } catch {
    // Full, or its reader is gone.
  }
}
