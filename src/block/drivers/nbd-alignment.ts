/**
 * Any offset and length on an NBD export whose server takes only multiples of a smallest block (proto.md "Block size
 * constraints"; qemu-nbd with O_DIRECT asks for 512). Servers without one are passed straight through.
 *
 * A write that covers a block partly reads it, changes it and writes it back, alone: no other write may come between.
 */
import { Gate, InFlight, Mutex } from '../../base/async.ts';
import type { NbdClient } from '../../nbd/client.ts';
import type { BlockExtent, WriteFlags } from '../driver.ts';

export class AlignedNbd {
  readonly #client: NbdClient;
  readonly #block: number;
  /** Whole blocks only: a server with an odd tail cannot be asked for it. */
  readonly lengthBytes: number;
  readonly #partial = new Mutex();
  readonly #gate = new Gate();
  readonly #whole = new InFlight();

  constructor(client: NbdClient) {
    this.#client = client;
    this.#block = client.minBlockBytes;
    this.lengthBytes = client.lengthBytes - (client.lengthBytes % this.#block);
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    const { from, to } = this.#outward(offset, target.byteLength);
    if (to - from === target.byteLength) return this.#client.read(offset, target);
    const bounce = new Uint8Array(to - from);
    await this.#client.read(from, bounce);
    target.set(bounce.subarray(offset - from, offset - from + target.byteLength));
  }

  async write(offset: number, source: Uint8Array, flags?: WriteFlags): Promise<void> {
    if (this.#block === 1) return this.#client.write(offset, source, flags);
    const { from, to } = this.#outward(offset, source.byteLength);
    if (to - from === source.byteLength) {
      await this.#shared(() => this.#client.write(offset, source, flags));
      return;
    }
    await this.#alone(async () => {
      const bounce = new Uint8Array(to - from);
      await this.#client.read(from, bounce);
      bounce.set(source, offset - from);
      await this.#client.write(from, bounce, flags);
    });
  }

  async writeZeroes(offset: number, length: number, flags?: WriteFlags): Promise<void> {
    const { from, to } = this.#inward(offset, length);
    if (from >= to) return this.write(offset, new Uint8Array(length), flags);
    if (from > offset) await this.write(offset, new Uint8Array(from - offset), flags);
    await this.#shared(() => this.#client.writeZeroes(from, to - from, flags));
    if (to < offset + length) await this.write(to, new Uint8Array(offset + length - to), flags);
  }

  /** Whole blocks inside the range only: it is a hint. */
  async discard(offset: number, length: number): Promise<void> {
    const { from, to } = this.#inward(offset, length);
    if (from < to) await this.#shared(() => this.#client.trim(from, to - from));
  }

  async blockStatus(offset: number, length: number): Promise<BlockExtent[]> {
    const { from, to } = this.#outward(offset, length);
    const extents: BlockExtent[] = [];
    for (const extent of await this.#client.blockStatus(from, to - from)) {
      const start = Math.max(extent.offset, offset);
      const end = Math.min(extent.offset + extent.length, offset + length);
      if (end <= start) continue;
      const { zero, data } = extent;
      // Nothing below this node could give the content: even a hole is its own.
      extents.push({ offset: start, length: end - start, zero, data, allocated: true });
    }
    return extents;
  }

  #outward(offset: number, length: number): { from: number; to: number } {
    const end = offset + length;
    return { from: offset - (offset % this.#block), to: Math.ceil(end / this.#block) * this.#block };
  }

  #inward(offset: number, length: number): { from: number; to: number } {
    const end = offset + length;
    return { from: Math.ceil(offset / this.#block) * this.#block, to: end - (end % this.#block) };
  }

  async #shared(write: () => Promise<void>): Promise<void> {
    while (!this.#gate.isOpen) await this.#gate.pass();
    this.#whole.enter();
    try {
      await write();
    } finally {
      this.#whole.leave();
    }
  }

  #alone(write: () => Promise<void>): Promise<void> {
    return this.#partial.run(async () => {
      this.#gate.close();
      try {
        await this.#whole.idle();
        await write();
      } finally {
        this.#gate.open();
      }
    });
  }
}
