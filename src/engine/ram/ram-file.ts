/**
 * A guest's RAM: anonymous memory (memfd_create) that this process and the one which executes the guest both map. It has
 * no name in any file system and ends with its last user, so that no death of either leaves anything behind. The child
 * inherits `fd` (by its place in `stdio`) and opens /proc/self/fd/N.
 *
 * Memory is taken page by page as it is written. Reading a page that was never written through a mapping takes it too,
 * so nobody may read all of it: strips.ts asks first where data is.
 */
import { constants } from 'node:buffer';
import { closeSync } from 'node:fs';
import { ColoError } from '../../base/errors.ts';
import { createMemoryFile, mapNothing, mapShared, punchHole, unmap, viewOf } from './memory-calls.ts';
import { PAGE_BYTES } from './ram-codec.ts';

/** A Buffer of Node.js 20 ends at 4 GiB, so all that may be larger goes through windows. */
export const WINDOW_BYTES = 1024 * 1024 * 1024;

/** Where a mapping is and how long: what another thread of this process needs to see it. */
export interface MappedMemory {
  readonly fd: number;
  readonly address: bigint;
  readonly byteLength: number;
}

/** The windows of mapped memory. Valid for as long as it stays mapped. */
export function windowsOf({ address, byteLength }: MappedMemory): Buffer[] {
  const windows: Buffer[] = [];
  for (let at = 0; at < byteLength; at += WINDOW_BYTES) {
    windows.push(viewOf(address + BigInt(at), Math.min(WINDOW_BYTES, byteLength - at)));
  }
  return windows;
}

interface Place {
  readonly address: bigint;
  readonly byteLength: number;
  views: number;
  isClosed: boolean;
}

/** Gives back the addresses of closed RAM when the last view of it is gone. */
const places = new FinalizationRegistry<Place>((place) => {
  if (--place.views === 0 && place.isClosed) unmap(place.address, place.byteLength);
});

export class RamFile implements MappedMemory {
  readonly name: string;
  readonly byteLength: number;
  readonly address: bigint;
  /** 1 GiB each, the last one what is left. Zeros after close(). */
  readonly windows: readonly Buffer[];
  #fd: number;
  #bytes: Buffer | null = null;
  readonly #place: Place;

  private constructor(name: string, fd: number, byteLength: number) {
    this.name = name;
    this.#fd = fd;
    this.byteLength = byteLength;
    this.address = mapShared(fd, byteLength);
    this.#place = { address: this.address, byteLength, views: 0, isClosed: false };
    this.windows = windowsOf(this);
    for (const window of this.windows) this.#watch(window);
  }

  /** `name` is shown in /proc. Throws ColoError: a size that is not pages, no memory, no such system. */
  static create(name: string, byteLength: number): RamFile {
    if (!Number.isSafeInteger(byteLength) || byteLength <= 0 || byteLength % PAGE_BYTES !== 0) {
      throw new ColoError(`guest RAM ${name}: ${byteLength} bytes is not a whole number of 4 KiB pages`);
    }
    const fd = createMemoryFile(name, byteLength);
    try {
      return new RamFile(name, fd, byteLength);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** For the child's `stdio`. Closed by close(), not by the child's end. */
  get fd(): number {
    if (this.#fd < 0) throw new ColoError(`guest RAM ${this.name}: closed`);
    return this.#fd;
  }

  /** All of it in one Buffer. Throws ColoError when it is larger than Node.js allows. */
  get bytes(): Buffer {
    if (this.#bytes) return this.#bytes;
    if (this.windows.length === 1) return (this.#bytes = this.windows[0]!);
    if (this.byteLength > constants.MAX_LENGTH) {
      throw new ColoError(
        `guest RAM ${this.name}: ${this.byteLength} bytes do not fit one buffer; use its windows`,
      );
    }
    this.#bytes = viewOf(this.address, this.byteLength);
    this.#watch(this.#bytes);
    return this.#bytes;
  }

  /** Makes whole pages zero and gives their memory back. */
  discard(from: number, length: number): void {
    punchHole(this.fd, from, length);
  }

  /** Idempotent. Other processes keep what they have mapped; views of this one read as zeros from now on. */
  close(): void {
    if (this.#fd < 0) return;
    closeSync(this.#fd);
    this.#fd = -1;
    this.#place.isClosed = true;
    mapNothing(this.address, this.byteLength);
  }

  #watch(view: Buffer): void {
    this.#place.views++;
    // By the ArrayBuffer: other Buffers over it may outlive this one.
    places.register(view.buffer, this.#place);
  }
}
