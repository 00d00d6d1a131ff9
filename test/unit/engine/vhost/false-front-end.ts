/** A QEMU's end of a vhost-user connection, without QEMU: messages with descriptors, eventfds, answers. */
import { closeSync, readSync, writeSync } from 'node:fs';
import koffi from 'koffi';
import { HEADER_BYTES } from '../../../../src/engine/qemu/vhost/messages.ts';
import { until } from '../../../helpers/colo.ts';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const EFD_NONBLOCK = 0o4000;
const WAIT_MS = 10_000;

const libc = koffi.load('libc.so.6');
const socket = libc.func('int socket(int domain, int type, int protocol)');
const connect = libc.func('int connect(int fd, void *address, uint32_t length)');
const sendmsg = libc.func('int64_t sendmsg(int fd, void *message, int flags)');
const recv = libc.func('int64_t recv(int fd, void *bytes, size_t length, int flags)');
const eventfd = libc.func('int eventfd(unsigned int initial, int flags)');

export function makeEventFd(): number {
  return eventfd(0, EFD_NONBLOCK) as number;
}

export function count(fd: number): number {
  const counter = Buffer.alloc(8);
  try {
    readSync(fd, counter, 0, 8, null);
  } catch {
    return 0;
  }
  return Number(counter.readBigUInt64LE(0));
}

export function kick(fd: number): void {
  writeSync(fd, Buffer.from([1, 0, 0, 0, 0, 0, 0, 0]));
}

export function u64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes;
}

export function words(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, at) => bytes.writeUInt32LE(value, 4 * at));
  return bytes;
}

export class FalseFrontEnd {
  readonly #fd: number;
  #received = Buffer.alloc(0);
  isOver = false;

  /** Throws when nobody listens there. */
  constructor(path: string) {
    this.#fd = socket(AF_UNIX, SOCK_STREAM, 0) as number;
    const address = Buffer.alloc(110);
    address.writeUInt16LE(AF_UNIX, 0);
    address.write(path, 2);
    if (connect(this.#fd, address, address.length) !== 0) throw new Error(`connect: ${koffi.errno()}`);
  }

  say(request: number, payload: Uint8Array = Buffer.alloc(0), fds: readonly number[] = []): void {
    this.sendRaw(Buffer.concat([words(request, 1, payload.length), payload]), fds);
  }

  sendRaw(bytes: Buffer, fds: readonly number[] = []): void {
    const vector = Buffer.concat([u64(koffi.address(bytes)), u64(BigInt(bytes.length))]);
    const length = 16 + 4 * fds.length;
    const control = Buffer.concat([
      u64(BigInt(length)),
      words(SOL_SOCKET, SCM_RIGHTS, ...fds),
      Buffer.alloc(8),
    ]);
    const message = Buffer.concat([
      ...[u64(0n), u64(0n), u64(koffi.address(vector)), u64(1n)],
      ...(fds.length > 0
        ? [u64(koffi.address(control)), u64(BigInt(Math.ceil(length / 8) * 8))]
        : [u64(0n), u64(0n)]),
      u64(0n),
    ]);
    sendmsg(this.#fd, message, MSG_NOSIGNAL);
  }

  /** The payload of the next answer. */
  async answer(): Promise<Buffer> {
    await until('an answer', WAIT_MS, () => {
      this.#pull();
      return this.#received.length >= HEADER_BYTES + 8;
    });
    const payload = this.#received.subarray(HEADER_BYTES, HEADER_BYTES + 8);
    this.#received = this.#received.subarray(HEADER_BYTES + 8);
    return payload;
  }

  async untilOver(): Promise<void> {
    await until('the end of the connection', WAIT_MS, () => {
      this.#pull();
      return this.isOver;
    });
  }

  #pull(): void {
    const bytes = Buffer.alloc(4096);
    const got = Number(recv(this.#fd, bytes, bytes.length, MSG_DONTWAIT));
    if (got > 0) this.#received = Buffer.concat([this.#received, bytes.subarray(0, got)]);
    // The end, or (with what it had not read) ECONNRESET.
    else if (got === 0 || koffi.errno() === 104) this.isOver = true;
  }

  close(): void {
    closeSync(this.#fd);
  }
}
