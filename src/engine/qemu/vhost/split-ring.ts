/**
 * A split virtqueue, seen from the device: takes the chains of buffers that the driver has made available, and gives them
 * back as used. In order, and each at once, so that between two calls nothing is under way: the index that QEMU asks for
 * when a guest stops (GET_VRING_BASE) and the ring in RAM are all the state there is.
 *
 * The driver may say anything: a ring that makes no sense is broken (ProtocolError) until it is set up anew, as a device
 * in QEMU is; no chain is longer than its ring, so that a loop ends. Facts: virtio 1.2, 2.6 and 2.7, "Split Virtqueues";
 * neither indirect descriptors nor event indexes are offered.
 */
import { ProtocolError } from '../../../base/errors.ts';
import type { GuestMemory, MemoryMap } from './guest-memory.ts';

/** The largest ring that QEMU has (VIRTQUEUE_MAX_SIZE), which bounds the work that a chain can make. */
export const MAX_RING_SIZE = 1024;
const DESCRIPTOR_BYTES = 16;
const USED_ENTRY_BYTES = 8;
/** flags, idx; then the entries; then the event index. */
const RING_HEADER_BYTES = 4;
const EVENT_BYTES = 2;
const F_NEXT = 1;
const F_WRITE = 2;
const F_INDIRECT = 4;
const AVAIL_F_NO_INTERRUPT = 1;
const USED_F_NO_NOTIFY = 1;
/** No machine has more memory than a number can tell. */
const MAX_HIGH_WORD = 0x1f_ffff;

/** How many bytes each of a ring's three parts takes. */
export function ringBytes(size: number): { descriptors: number; available: number; used: number } {
  return {
    descriptors: DESCRIPTOR_BYTES * size,
    available: RING_HEADER_BYTES + 2 * size + EVENT_BYTES,
    used: RING_HEADER_BYTES + USED_ENTRY_BYTES * size + EVENT_BYTES,
  };
}

export interface RingPlace {
  readonly size: number;
  /** Places in the RAM file; all of each part is in RAM. */
  readonly descriptors: number;
  readonly available: number;
  readonly used: number;
  /** The next entry of `available` that is to be taken. */
  readonly next: number;
}

export class SplitRing {
  /** The pieces of the chains that were taken since `begin`: their places in the file, and their lengths. */
  readonly places: number[] = [];
  readonly lengths: number[] = [];
  /** How many of them there are. */
  pieces = 0;
  /** Their bytes. */
  bytes = 0;
  /** Heads of these chains, and how many bytes each has. */
  readonly heads: number[] = [];
  readonly capacities: number[] = [];
  chains = 0;
  readonly #memory: GuestMemory;
  readonly #map: MemoryMap;
  readonly #place: RingPlace;
  readonly #mask: number;
  #next: number;
  #used: number;

  /** Throws ProtocolError: a size or places that no ring has. */
  constructor(memory: GuestMemory, map: MemoryMap, place: RingPlace) {
    const { size, descriptors, available, used, next } = place;
    if (size < 1 || size > MAX_RING_SIZE || (size & (size - 1)) !== 0) {
      throw new ProtocolError(`vhost-user: a ring of ${size} entries`);
    }
    if (descriptors % 4 !== 0 || available % 2 !== 0 || used % 4 !== 0) {
      throw new ProtocolError('vhost-user: a ring that is not aligned');
    }
    this.#memory = memory;
    this.#map = map;
    this.#place = place;
    this.#mask = size - 1;
    this.#next = next & 0xffff;
    this.#used = memory.load16(used + 2);
  }

  /** The index that the next one to serve this ring begins with. */
  get next(): number {
    return this.#next;
  }

  /** Chains that may be taken. Throws ProtocolError when the driver claims more than there can be. */
  get available(): number {
    const ready = (this.#memory.load16(this.#place.available + 2) - this.#next - this.chains) & 0xffff;
    if (ready > this.#place.size) throw new ProtocolError(`a ring of which ${ready} entries are available`);
    return ready;
  }

  /** From now on chains are collected. Those that were and have not been given back are available again. */
  begin(): void {
    this.pieces = 0;
    this.bytes = 0;
    this.chains = 0;
  }

  /**
   * Takes the next chain, behind those collected; false: there is none. Its buffers are for the device to write to
   * (`toWrite`) or to read. Throws ProtocolError.
   */
  take(toWrite: boolean): boolean {
    if (this.available === 0) return false;
    const memory = this.#memory;
    const entry = (this.#next + this.chains) & this.#mask;
    const head = memory.load16(this.#place.available + RING_HEADER_BYTES + 2 * entry);
    const before = this.bytes;
    let index = head;
    for (let count = 0; ; count++) {
      if (index > this.#mask) throw new ProtocolError(`descriptor ${index} of a ring of ${this.#mask + 1}`);
      if (count > this.#mask) throw new ProtocolError('a chain of descriptors that does not end');
      const at = this.#place.descriptors + index * DESCRIPTOR_BYTES;
      const flags = memory.load16(at + 12);
      if ((flags & F_INDIRECT) !== 0)
        throw new ProtocolError('an indirect descriptor, which was not offered');
      if (((flags & F_WRITE) !== 0) !== toWrite) {
        throw new ProtocolError(`a buffer that is not for ${toWrite ? 'writing' : 'reading'}`);
      }
      const high = memory.load32(at + 4);
      if (high > MAX_HIGH_WORD) throw new ProtocolError('a buffer beyond all memory');
      this.#addBuffer(high * 2 ** 32 + memory.load32(at), memory.load32(at + 8));
      if ((flags & F_NEXT) === 0) break;
      index = memory.load16(at + 14);
    }
    this.heads[this.chains] = head;
    this.capacities[this.chains] = this.bytes - before;
    this.chains++;
    return true;
  }

  /** A buffer lies in one piece for the guest, and in as many as there are regions at most in the file. */
  #addBuffer(address: number, length: number): void {
    for (let done = 0; done < length;) {
      const room = this.#map.roomAt(address + done);
      if (room === 0) throw new ProtocolError('a buffer that is not in memory');
      const take = Math.min(room, length - done);
      this.places[this.pieces] = this.#map.offsetOf(address + done);
      this.lengths[this.pieces] = take;
      this.pieces++;
      done += take;
    }
    this.bytes += length;
  }

  /** Copies what was collected to `into` at `at`, at most `limit` bytes. */
  read(into: Buffer, at: number, limit: number): void {
    let done = 0;
    for (let piece = 0; piece < this.pieces && done < limit; piece++) {
      const length = Math.min(this.lengths[piece]!, limit - done);
      this.#memory.read(this.places[piece]!, length, into, at + done);
      done += length;
    }
  }

  /** Copies `from[0, length)` to the `length` bytes that lie `skip` bytes into what was collected. */
  write(skip: number, from: Uint8Array, length: number): void {
    let done = 0;
    let start = 0;
    for (let piece = 0; piece < this.pieces && done < length; piece++) {
      const end = start + this.lengths[piece]!;
      const from0 = Math.max(skip + done, start);
      if (from0 < end) {
        const count = Math.min(end - from0, length - done);
        this.#memory.write(this.places[piece]! + (from0 - start), from, done, count);
        done += count;
      }
      start = end;
    }
  }

  /** Gives back what was collected, all at once; `written`: bytes from the first one on. */
  give(written: number): void {
    const memory = this.#memory;
    let left = written;
    for (let chain = 0; chain < this.chains; chain++) {
      const count = Math.min(left, this.capacities[chain]!);
      left -= count;
      const entry = (this.#used + chain) & this.#mask;
      memory.storePair(
        this.#place.used + RING_HEADER_BYTES + entry * USED_ENTRY_BYTES,
        this.heads[chain]!,
        count,
      );
    }
    this.#next = (this.#next + this.chains) & 0xffff;
    this.#used = (this.#used + this.chains) & 0xffff;
    memory.store16(this.#place.used + 2, this.#used);
    this.begin();
  }

  /** Whether the driver wants to hear of what was given back. */
  get wantsInterrupt(): boolean {
    return (this.#memory.load16(this.#place.available) & AVAIL_F_NO_INTERRUPT) === 0;
  }

  /** Whether the driver is to tell of new chains. After it was switched on, `available` has to be looked at again. */
  askForKicks(wanted: boolean): void {
    this.#memory.store16(this.#place.used, wanted ? 0 : USED_F_NO_NOTIFY);
  }
}
