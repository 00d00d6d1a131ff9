/**
 * Records and buffers of packets that are kept, used again and again: a packet that waits for its twin a moment is no
 * garbage. Buffers come in classes by size. What lies here unused is bounded; beyond that they are left to the garbage
 * collector. One pool for each comparer.
 */
import { copyPacketBytes, takePacketMemory } from '../../base/packet-memory.ts';
import { HeldPacket, PACKET_OVERHEAD_BYTES } from './held-packet.ts';

/** The last one holds the largest frame. */
const CLASS_BYTES = [128, 512, 1024, 2048, 8192, 73_728] as const;
/** Unused buffers of each class, in bytes. */
export const MAX_POOLED_BYTES = 2 * 1024 * 1024;
/** Unused records. */
export const MAX_POOLED_RECORDS = 4096;

/** Unused buffers of one size. A place above `count` is empty or out of date. */
class SizeClass {
  readonly #bytes: number;
  readonly #limit: number;
  readonly #unused: Buffer[] = [];
  #count = 0;

  constructor(bytes: number) {
    this.#bytes = bytes;
    this.#limit = Math.floor(MAX_POOLED_BYTES / bytes);
  }

  get unusedBytes(): number {
    return this.#count * this.#bytes;
  }

  take(): Buffer {
    if (this.#count > 0) return this.#unused[--this.#count]!;
    return takePacketMemory(this.#bytes);
  }

  give(buffer: Buffer): void {
    if (this.#count === this.#limit) return;
    if (this.#count === this.#unused.length) this.#unused.push(buffer);
    else this.#unused[this.#count] = buffer;
    this.#count++;
  }
}

export class PacketPool {
  readonly #classes = CLASS_BYTES.map((bytes) => new SizeClass(bytes));
  #unused: HeldPacket | null = null;
  #unusedRecords = 0;

  /** Bytes of buffers that nobody uses. */
  get unusedBytes(): number {
    return this.#classes.reduce((sum, one) => sum + one.unusedBytes, 0);
  }

  /** The memory that keeping so many bytes takes. */
  costOf(bytes: number): number {
    if (bytes === 0) return 0;
    for (let at = 0; at < CLASS_BYTES.length; at++) {
      if (bytes <= CLASS_BYTES[at]!) return CLASS_BYTES[at]! + PACKET_OVERHEAD_BYTES;
    }
    return bytes + PACKET_OVERHEAD_BYTES;
  }

  /** A copy of the packet with its whole frame. */
  keep(packet: HeldPacket): HeldPacket {
    return this.#keep(packet, packet.start, packet.end);
  }

  /** A copy of the part that is compared, which is all that is wanted of a secondary's packet. */
  keepCompared(packet: HeldPacket): HeldPacket {
    return this.#keep(packet, packet.from, packet.to);
  }

  /** Takes back what `keep` gave; nobody may use it any more. */
  drop(packet: HeldPacket): void {
    this.dropBytes(packet.bytes);
    packet.bytes = NOTHING;
    if (this.#unusedRecords === MAX_POOLED_RECORDS) return;
    packet.newer = this.#unused;
    this.#unused = packet;
    this.#unusedRecords++;
  }

  /** A buffer of at least `bytes`, filled with `source[from, to)`. */
  copy(source: Uint8Array, from: number, to: number): Buffer {
    const buffer = this.#buffer(to - from);
    copyPacketBytes(source, from, to, buffer, 0);
    return buffer;
  }

  dropBytes(buffer: Uint8Array): void {
    if (!Buffer.isBuffer(buffer)) return;
    for (let at = 0; at < CLASS_BYTES.length; at++) {
      if (buffer.length === CLASS_BYTES[at]) {
        this.#classes[at]!.give(buffer);
        return;
      }
    }
  }

  #keep(packet: HeldPacket, from: number, to: number): HeldPacket {
    let record = this.#unused;
    if (record === null) record = new HeldPacket();
    else {
      this.#unused = record.newer;
      this.#unusedRecords--;
      record.newer = null;
    }
    return record.copyOf(packet, this.copy(packet.bytes, from, to), from, to);
  }

  #buffer(bytes: number): Buffer {
    for (let at = 0; at < CLASS_BYTES.length; at++) {
      if (bytes <= CLASS_BYTES[at]!) return this.#classes[at]!.take();
    }
    return Buffer.allocUnsafeSlow(bytes);
  }
}

const NOTHING = new Uint8Array(0);
