/**
 * One Linux TAP device as frames: opens /dev/net/tun, reads what the host sends into the device and writes what leaves
 * it. Reading waits in poll(2) on a thread of libuv's pool (one for each open device, of UV_THREADPOOL_SIZE, by default
 * 4), beside an eventfd that ends the wait; the frames themselves are read on the main thread, without blocking.
 * Facts: Linux Documentation/networking/tuntap.rst, poll(2), eventfd(2). Linux only; constants are the same on x86-64
 * and arm64.
 *
 * With a vnet header each frame on the device has a struct virtio_net_hdr in front. Here it ends: it is taken off what is
 * read, and what is written gets one of zeros. No offload is asked of the kernel, so that there is nothing in it, as in
 * QEMU, which takes it off too unless a virtio-net NIC is behind the device (docs/qemu-behaviour.md 1.4). For such a NIC
 * (`passesHeader`) it stays, as long as the NIC's, and the kernel may leave checksums and segmentation to the guest.
 */
import { constants, closeSync, openSync } from 'node:fs';
import koffi from 'koffi';
import { Deferred } from '../../base/async.ts';
import { ColoError, messageOf } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';
import { MAX_FRAME_BYTES } from '../framing.ts';
import { VNET_HEADER_BYTES } from '../offload.ts';

const TUNSETIFF = 0x400454ca;
const TUNSETOFFLOAD = 0x400454d0;
const TUNSETVNETHDRSZ = 0x400454d8;
const IFF_TAP = 0x0002;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
/** struct virtio_net_hdr, the kernel's default. */
const VNET_HDR_BYTES = 10;
/** TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN. */
const TUN_OFFLOADS = 1 | 2 | 4 | 8;
/** struct ifreq: a name of 16 bytes, then a union of 24. */
const IFREQ_BYTES = 40;
const IFNAME_BYTES = 16;
const POLLIN = 0x001;
const POLLERR_POLLHUP_POLLNVAL = 0x038;
const EFD_NONBLOCK = 0x800;
/** struct pollfd: int fd, short events, short revents. */
const POLLFD_BYTES = 8;
/** The kernel sends shorter ones into the device; a NIC behind a cable gets them filled up, as QEMU's backends do. */
const MIN_FRAME_BYTES = 60;
/** Frames taken in one turn of the event loop. */
const FRAMES_A_TURN = 64;

interface SystemCalls {
  ioctl(fd: number, request: number, argument: Uint8Array): number;
  ioctlNumber(fd: number, request: number, argument: number): number;
  eventfd(initial: number, flags: number): number;
  read(fd: number, into: Uint8Array, bytes: number): number;
  write(fd: number, from: Uint8Array, bytes: number): number;
  poll(fds: Uint8Array, count: number, done: (error: Error | null, ready: number) => void): void;
}

let loaded: SystemCalls | null = null;

function systemCalls(): SystemCalls {
  if (loaded) return loaded;
  const libc = koffi.load(null);
  const poll = libc.func('int poll(void *fds, unsigned long count, int timeout)');
  loaded = {
    ioctl: libc.func(
      'int ioctl(int fd, unsigned long request, void *argument)',
    ) as unknown as SystemCalls['ioctl'],
    ioctlNumber: libc.func(
      'int ioctl(int fd, unsigned long request, unsigned long argument)',
    ) as unknown as SystemCalls['ioctlNumber'],
    eventfd: libc.func('int eventfd(unsigned int initial, int flags)') as unknown as SystemCalls['eventfd'],
    read: libc.func('long read(int fd, _Out_ void *into, size_t bytes)') as unknown as SystemCalls['read'],
    write: libc.func('long write(int fd, void *from, size_t bytes)') as unknown as SystemCalls['write'],
    poll: (fds, count, done) => {
      poll.async(fds, count, -1, done);
    },
  };
  return loaded;
}

export interface TapDeviceOptions {
  /** Its name; empty: the kernel chooses one. */
  readonly name: string;
  readonly vnetHeader?: boolean;
  /** Frames come and go with the header, of VNET_HEADER_BYTES. */
  readonly passesHeader?: boolean;
  /** The view is valid during the call only. */
  readonly onFrame: (frame: Uint8Array) => void;
}

export class TapDevice {
  /** Its name; the kernel's choice when none was asked for. */
  readonly name: string;
  /** Frames that the device did not take. */
  lostFrames = 0;
  readonly #calls: SystemCalls;
  readonly #fd: number;
  readonly #wakeFd: number;
  readonly #onFrame: (frame: Uint8Array) => void;
  /** Of a header that ends here. */
  readonly #headerBytes: number;
  readonly #minBytes: number;
  readonly #buffer: Buffer;
  /** A frame to write, behind a header of zeros; empty without one. */
  readonly #outgoing: Buffer;
  readonly #pollSet = Buffer.alloc(2 * POLLFD_BYTES);
  readonly #finished = new Deferred<void>();
  #closing = false;

  /** Throws ColoError. */
  constructor({ name, vnetHeader, passesHeader, onFrame }: TapDeviceOptions) {
    if (Buffer.byteLength(name) >= IFNAME_BYTES) {
      throw new ColoError(`ifname '${name}' is too long: at most ${IFNAME_BYTES - 1} bytes`);
    }
    this.#onFrame = onFrame;
    this.#headerBytes = vnetHeader && !passesHeader ? VNET_HDR_BYTES : 0;
    this.#minBytes = MIN_FRAME_BYTES + (passesHeader ? VNET_HEADER_BYTES : this.#headerBytes);
    this.#buffer = Buffer.allocUnsafeSlow(this.#headerBytes + MAX_FRAME_BYTES);
    this.#outgoing = Buffer.alloc(this.#headerBytes > 0 ? this.#headerBytes + MAX_FRAME_BYTES : 0);
    try {
      this.#calls = systemCalls();
      this.#fd = openSync('/dev/net/tun', constants.O_RDWR | constants.O_NONBLOCK);
    } catch (cause) {
      throw new ColoError(`could not open /dev/net/tun: ${messageOf(cause)}`, { cause });
    }
    const request = Buffer.alloc(IFREQ_BYTES);
    request.write(name, 0, 'utf8');
    request.writeUInt16LE(IFF_TAP | IFF_NO_PI | (vnetHeader ? IFF_VNET_HDR : 0), IFNAME_BYTES);
    if (this.#calls.ioctl(this.#fd, TUNSETIFF, request) < 0) {
      const code = koffi.errno();
      closeSync(this.#fd);
      throw new ColoError(
        `could not configure /dev/net/tun (${name}): errno ${code}` +
          (code === koffi.os.errno['EPERM'] ? ', Operation not permitted; it needs CAP_NET_ADMIN' : ''),
      );
    }
    if (vnetHeader)
      this.#setOffloads(passesHeader ? VNET_HEADER_BYTES : VNET_HDR_BYTES, passesHeader ? TUN_OFFLOADS : 0);
    this.name = request.toString('utf8', 0, IFNAME_BYTES).replace(/\0.*$/s, '');
    this.#wakeFd = this.#calls.eventfd(0, EFD_NONBLOCK);
    if (this.#wakeFd < 0) {
      closeSync(this.#fd);
      throw new ColoError(`could not make an eventfd: errno ${koffi.errno()}`);
    }
    this.#pollSet.writeInt32LE(this.#fd, 0);
    this.#pollSet.writeInt16LE(POLLIN, 4);
    this.#pollSet.writeInt32LE(this.#wakeFd, POLLFD_BYTES);
    this.#pollSet.writeInt16LE(POLLIN, POLLFD_BYTES + 4);
    this.#wait();
  }

  send(frame: Uint8Array): void {
    if (this.#closing || frame.length === 0) return;
    const headerBytes = this.#headerBytes;
    const bytes = headerBytes + frame.length;
    let whole = frame;
    if (headerBytes > 0 && frame.length <= MAX_FRAME_BYTES) {
      whole = this.#outgoing;
      whole.set(frame, headerBytes);
    }
    if (whole.length < bytes || this.#calls.write(this.#fd, whole, bytes) !== bytes) this.lostFrames++;
  }

  /** Ends the wait and closes the device, which goes away with it unless it was made persistent. Idempotent. */
  async close(): Promise<void> {
    if (!this.#closing) {
      this.#closing = true;
      const one = Buffer.alloc(8);
      one.writeBigUInt64LE(1n);
      this.#calls.write(this.#wakeFd, one, one.length);
    }
    await this.#finished.promise;
  }

  #wait(): void {
    this.#calls.poll(this.#pollSet, 2, (error) => {
      const revents = this.#pollSet.readInt16LE(6);
      const isBroken = error !== null || (revents & POLLERR_POLLHUP_POLLNVAL) !== 0;
      if (isBroken && !this.#closing) {
        loggerFor('netdev').error(`tap ${this.name}: the device has gone`);
        this.#closing = true;
      }
      if (!this.#closing) this.#readSome();
      if (this.#closing) this.#end();
      else this.#wait();
    });
  }

  #readSome(): void {
    for (let count = 0; count < FRAMES_A_TURN && !this.#closing; count++) {
      const bytes = this.#calls.read(this.#fd, this.#buffer, this.#buffer.length);
      // Nothing there for now; a lasting failure shows up in poll.
      if (bytes <= 0) return;
      if (bytes <= this.#headerBytes) continue;
      const end = Math.max(bytes, this.#minBytes);
      if (end > bytes) this.#buffer.fill(0, bytes, end);
      this.#onFrame(this.#buffer.subarray(this.#headerBytes, end));
    }
  }

  /** A device that outlives its users keeps what the last one has set, so that nothing is set too. */
  #setOffloads(headerBytes: number, offloads: number): void {
    const size = Buffer.alloc(4);
    size.writeInt32LE(headerBytes);
    this.#calls.ioctl(this.#fd, TUNSETVNETHDRSZ, size);
    this.#calls.ioctlNumber(this.#fd, TUNSETOFFLOAD, offloads);
  }

  #end(): void {
    closeSync(this.#fd);
    closeSync(this.#wakeFd);
    this.#finished.resolve();
  }
}
