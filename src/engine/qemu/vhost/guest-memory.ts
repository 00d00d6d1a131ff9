/**
 * The guest's RAM as the rings of a NIC use it: loads and stores by their place in the RAM file, and the table by which
 * the guest's and QEMU's addresses become such places. Nothing outside RAM is touched whatever an address says.
 *
 * What is written is told to `onWrite` afterwards: it goes through a mapping of ours, where the kernel's bits of QEMU's
 * page tables do not show it (../../ram/soft-dirty.ts). Values that guest and device share are loaded and stored whole
 * and in order (Atomics); virtio 1.2, 2.7, "Split Virtqueues": little-endian, as this machine is.
 */
import { ProtocolError } from '../../../base/errors.ts';
import { WINDOW_BYTES } from '../../ram/index.ts';
import type { Region } from './messages.ts';

/** A page of RAM has been written by us. */
export type OnWrite = (offset: number, byteLength: number) => void;

interface Words {
  readonly bytes: Buffer;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
}

export class GuestMemory {
  readonly byteLength: number;
  readonly #windows: readonly Words[];
  readonly #onWrite: OnWrite;

  /** Each window but the last one is of WINDOW_BYTES; their starts are aligned to 4 bytes at least. */
  constructor(windows: readonly Buffer[], onWrite: OnWrite) {
    this.#windows = windows.map((bytes) => ({
      bytes,
      u16: new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 1),
      u32: new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2),
    }));
    this.byteLength = windows.reduce((sum, { length }) => sum + length, 0);
    this.#onWrite = onWrite;
  }

  /** `offset` is even. */
  load16(offset: number): number {
    return Atomics.load(this.#window(offset).u16, (offset % WINDOW_BYTES) >>> 1);
  }

  /** `offset` is a multiple of 4. */
  load32(offset: number): number {
    return this.#window(offset).u32[(offset % WINDOW_BYTES) >>> 2] ?? 0;
  }

  store16(offset: number, value: number): void {
    Atomics.store(this.#window(offset).u16, (offset % WINDOW_BYTES) >>> 1, value);
    this.#onWrite(offset, 2);
  }

  /** Two words one behind the other; `offset` is a multiple of 4. */
  storePair(offset: number, first: number, second: number): void {
    this.#store32(offset, first);
    this.#store32(offset + 4, second);
    this.#onWrite(offset, 8);
  }

  #store32(offset: number, value: number): void {
    this.#window(offset).u32[(offset % WINDOW_BYTES) >>> 2] = value;
  }

  /** Copies [offset, offset + length) of RAM to `into` at `at`. */
  read(offset: number, length: number, into: Buffer, at: number): void {
    for (let done = 0; done < length;) {
      const start = (offset + done) % WINDOW_BYTES;
      const count = Math.min(length - done, WINDOW_BYTES - start);
      this.#window(offset + done).bytes.copy(into, at + done, start, start + count);
      done += count;
    }
  }

  /** Copies `from[at, at + length)` to RAM. */
  write(offset: number, from: Uint8Array, at: number, length: number): void {
    for (let done = 0; done < length;) {
      const start = (offset + done) % WINDOW_BYTES;
      const count = Math.min(length - done, WINDOW_BYTES - start);
      this.#window(offset + done).bytes.set(from.subarray(at + done, at + done + count), start);
      done += count;
    }
    this.#onWrite(offset, length);
  }

  #window(offset: number): Words {
    const window = this.#windows[Math.floor(offset / WINDOW_BYTES)];
    // Whoever comes here has translated an address, so this is a mistake of ours.
    if (!window) throw new RangeError(`guest RAM has no byte ${offset}`);
    return window;
  }
}

/** Where the guest's RAM lies in its own and in QEMU's addresses. */
export class MemoryMap {
  readonly #regions: readonly Region[];

  /** Throws ProtocolError when a region is not within RAM. */
  constructor(regions: readonly Region[], ramBytes: number) {
    for (const { byteLength, fileOffset } of regions) {
      if (fileOffset + byteLength > ramBytes) {
        throw new ProtocolError('vhost-user: QEMU has memory beyond the guest’s RAM');
      }
    }
    this.#regions = regions;
  }

  /** How many bytes from the guest's `address` on lie behind each other in the file; 0: it is no RAM. */
  roomAt(address: number): number {
    for (const { guestAddress, byteLength } of this.#regions) {
      if (address >= guestAddress && address < guestAddress + byteLength)
        return guestAddress + byteLength - address;
    }
    return 0;
  }

  /** Where the guest's `address` lies in the file; -1: it is no RAM. */
  offsetOf(address: number): number {
    for (const { guestAddress, byteLength, fileOffset } of this.#regions) {
      if (address >= guestAddress && address < guestAddress + byteLength)
        return fileOffset + (address - guestAddress);
    }
    return -1;
  }

  /** Where QEMU's `address` lies in the file, with `byteLength` bytes behind it; -1: it is no RAM, or not all. */
  offsetOfUser(address: number, byteLength: number): number {
    for (const region of this.#regions) {
      const at = address - region.userAddress;
      if (at >= 0 && at + byteLength <= region.byteLength) return region.fileOffset + at;
    }
    return -1;
  }
}
