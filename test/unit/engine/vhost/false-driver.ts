/** A guest's driver of a split ring on plain memory, which can also lie. The memory is RAM from the guest's address 0 on. */
import { GuestMemory, MemoryMap } from '../../../../src/engine/qemu/vhost/guest-memory.ts';
import { SplitRing, ringBytes } from '../../../../src/engine/qemu/vhost/split-ring.ts';

export const F_NEXT = 1;
export const F_WRITE = 2;
export const F_INDIRECT = 4;
const DESCRIPTOR_BYTES = 16;

/** Memory with a table of one region, and what was told of writes to it. */
export class FalseMachine {
  readonly ram: Buffer;
  readonly memory: GuestMemory;
  readonly map: MemoryMap;
  /** Pages that were said to be written. */
  readonly written = new Set<number>();

  /** `windows`: memory that is there already; rings lie in the first of them. */
  constructor(ramBytes: number, windows: readonly Buffer[] = [Buffer.from(new ArrayBuffer(ramBytes))]) {
    this.ram = windows[0]!;
    this.memory = new GuestMemory(windows, (offset, length) => {
      for (let page = offset >>> 12; page <= (offset + length - 1) >>> 12; page++) this.written.add(page);
    });
    this.map = new MemoryMap(
      [{ guestAddress: 0, byteLength: ramBytes, userAddress: 0x7f0000000000, fileOffset: 0 }],
      ramBytes,
    );
  }
}

export interface FalseBuffer {
  readonly address: number;
  readonly length: number;
}

export class FalseDriver {
  readonly size: number;
  readonly descriptors: number;
  readonly available: number;
  readonly used: number;
  readonly #ram: Buffer;
  #nextDescriptor = 0;
  #availableIndex: number;
  #seen: number;

  /** `at`: where the ring lies; `index`: where its indexes begin. */
  constructor({ ram }: FalseMachine, at: number, size: number, index = 0) {
    const bytes = ringBytes(size);
    this.#ram = ram;
    this.size = size;
    this.descriptors = at;
    this.available = at + bytes.descriptors;
    this.used = Math.ceil((this.available + bytes.available) / 4) * 4;
    this.#availableIndex = this.#seen = index;
    ram.writeUInt16LE(index, this.available + 2);
    ram.writeUInt16LE(index, this.used + 2);
  }

  ring({ memory, map }: FalseMachine): SplitRing {
    const { size, descriptors, available, used } = this;
    return new SplitRing(memory, map, { size, descriptors, available, used, next: this.#seen });
  }

  /** The place behind the ring. */
  get end(): number {
    return this.used + ringBytes(this.size).used;
  }

  /** Makes a chain available and returns its head. */
  offer(buffers: readonly FalseBuffer[], toWrite: boolean): number {
    const head = this.#nextDescriptor;
    buffers.forEach(({ address, length }, at) => {
      const isLast = at === buffers.length - 1;
      const next = (this.#nextDescriptor + 1) % this.size;
      this.describe(
        this.#nextDescriptor,
        address,
        length,
        (isLast ? 0 : F_NEXT) | (toWrite ? F_WRITE : 0),
        next,
      );
      this.#nextDescriptor = next;
    });
    this.push(head);
    return head;
  }

  describe(index: number, address: number, length: number, flags: number, next: number): void {
    const at = this.descriptors + index * DESCRIPTOR_BYTES;
    this.#ram.writeBigUInt64LE(BigInt(address), at);
    this.#ram.writeUInt32LE(length, at + 8);
    this.#ram.writeUInt16LE(flags, at + 12);
    this.#ram.writeUInt16LE(next, at + 14);
  }

  /** Makes a head available, whatever it is. */
  push(head: number): void {
    this.#ram.writeUInt16LE(head, this.available + 4 + 2 * (this.#availableIndex % this.size));
    this.#availableIndex = (this.#availableIndex + 1) & 0xffff;
    this.claim(this.#availableIndex);
  }

  /** Says that so many have been made available. */
  claim(index: number): void {
    this.#ram.writeUInt16LE(index, this.available + 2);
  }

  /** Heads and lengths that have been given back since the last call. */
  collect(): { head: number; length: number }[] {
    const found: { head: number; length: number }[] = [];
    const end = this.#ram.readUInt16LE(this.used + 2);
    for (; this.#seen !== end; this.#seen = (this.#seen + 1) & 0xffff) {
      const at = this.used + 4 + 8 * (this.#seen % this.size);
      found.push({ head: this.#ram.readUInt32LE(at), length: this.#ram.readUInt32LE(at + 4) });
    }
    return found;
  }

  get wantsKicks(): boolean {
    return (this.#ram.readUInt16LE(this.used) & 1) === 0;
  }

  set noInterrupts(value: boolean) {
    this.#ram.writeUInt16LE(value ? 1 : 0, this.available);
  }
}
