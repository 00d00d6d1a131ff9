/** Kept packets by age, linked through `older` and `newer`: any of them is taken out in constant time. */
import type { HeldPacket } from './held-packet.ts';

export class AgeList {
  oldest: HeldPacket | null = null;
  length = 0;
  #newest: HeldPacket | null = null;

  /** Adds the newest. It must be in no list. */
  add(packet: HeldPacket): void {
    packet.older = this.#newest;
    packet.newer = null;
    if (this.#newest === null) this.oldest = packet;
    else this.#newest.newer = packet;
    this.#newest = packet;
    this.length++;
  }

  /** Takes out one that is in this list. */
  remove(packet: HeldPacket): void {
    if (packet.older === null) this.oldest = packet.newer;
    else packet.older.newer = packet.newer;
    if (packet.newer === null) this.#newest = packet.older;
    else packet.newer.older = packet.older;
    packet.older = null;
    packet.newer = null;
    this.length--;
  }
}
