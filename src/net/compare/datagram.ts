/**
 * Compares flows without a stream: UDP, ICMP, fragments and all other IP protocols, one packet with one packet. Equal
 * means: the same bytes behind the IP header and the same fragment offset; identification, TTL, TOS and header checksum
 * differ by nature. Primary packets go out in their own order (QEMU reverses them), the secondary's may come in any.
 * Facts: docs/qemu-behaviour.md 3.6.
 */
import { sameBytes } from './byte-store.ts';
import type { CheckpointCause, FlowComparer, Verdict } from './comparer.ts';
import type { HeldPacket } from './held-packet.ts';

export class DatagramComparer implements FlowComparer {
  cause: CheckpointCause = 'payload';
  #secondary: HeldPacket[] = [];
  #bytes = 0;
  /** The packet that has just arrived, as a view, before `own`. */
  #borrowed: HeldPacket | null = null;

  get secondaryBytes(): number {
    return this.#bytes;
  }

  get secondaryItems(): number {
    return this.#secondary.length;
  }

  get secondaryOldestMs(): number | null {
    return this.#secondary[0]?.atMs ?? null;
  }

  notePrimary(): void {
    return;
  }

  goesBefore(): boolean {
    return false;
  }

  addSecondary(packet: HeldPacket, maxItems: number): boolean {
    if (this.#secondary.length >= maxItems) return false;
    this.#secondary.push(packet);
    this.#bytes += packet.frame.length;
    this.#borrowed = packet;
    return true;
  }

  own(): void {
    const borrowed = this.#borrowed;
    this.#borrowed = null;
    if (borrowed === null) return;
    const at = this.#secondary.lastIndexOf(borrowed);
    if (at >= 0) this.#secondary[at] = borrowed.held();
  }

  judge(packet: HeldPacket): Verdict {
    const at = this.#secondary.findIndex((twin) => isTwin(packet, twin));
    if (at >= 0) {
      this.#bytes -= this.#secondary[at]!.frame.length;
      this.#secondary.splice(at, 1);
      return 'release';
    }
    const first = this.#secondary[0];
    if (first === undefined) return 'wait';
    this.cause = first.payloadBytes === packet.payloadBytes ? 'payload' : 'length';
    return 'mismatch';
  }

  cut(): void {
    this.#secondary = [];
    this.#bytes = 0;
    this.#borrowed = null;
  }

  /** Nothing of a datagram outlives it. */
  adopt(): void {
    return;
  }
}

function isTwin(primary: HeldPacket, secondary: HeldPacket): boolean {
  return (
    primary.payloadBytes === secondary.payloadBytes &&
    primary.fragment === secondary.fragment &&
    sameBytes(primary.frame, primary.from, secondary.frame, secondary.from, primary.payloadBytes)
  );
}
