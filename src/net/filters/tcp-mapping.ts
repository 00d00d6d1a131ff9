/**
 * One TCP connection of a secondary guest whose sequence numbers differ from those the client knows (the primary's).
 * `offset` = secondary's initial sequence number − primary's, mod 2^32. Pure bookkeeping on header fields: reads a
 * PacketView, answers which offset to apply, and when both directions have been closed. Facts: docs/qemu-behaviour.md 4;
 * RFC 793 3.2. Beyond QEMU it maps active opens, and it follows FINs in the guest's own numbers.
 *
 * Directions are named from the guest: `in` is client → guest, `out` is guest → client.
 */
import { Flow } from '../flow-table.ts';
import { TCP_FLAG, sequenceDifference } from '../packet.ts';
import type { PacketView } from '../packet.ts';

export type HandshakeState = 'synReceived' | 'synSent' | 'established';

/**
 * Keyed in the `out` direction. A connection begins with the SYN or SYN+ACK that the guest says: a client's SYN alone
 * proves nothing (the guest may answer it with a challenge ACK and stay where it is).
 */
export class TcpMapping extends Flow {
  state: HandshakeState = 'established';
  offset = 0;
  /** Both directions have been closed, or one side reset the connection. A new SYN opens it again. */
  isClosed = false;
  /** The guest's own initial sequence number, once it has said it. */
  #guestSyn: number | null = null;
  /** What acknowledges the FIN of that direction, in the guest's numbers and in the client's. */
  #outFinEnd: number | null = null;
  #inFinEnd: number | null = null;
  #outFinAcked = false;
  #inFinAcked = false;

  /** Client → guest. Returns what must be added to the acknowledgment number and to SACK blocks. */
  incoming(view: PacketView): number {
    const flags = view.tcpFlags;
    if (flags & TCP_FLAG.ACK)
      this.#learn(flags & TCP_FLAG.SYN ? 'synSent' : 'synReceived', view.acknowledgment);
    if (flags & TCP_FLAG.RST) this.isClosed = true;
    if (flags & TCP_FLAG.FIN) this.#inFinEnd = (view.sequence + view.payloadBytes + 1) >>> 0;
    if (flags & TCP_FLAG.ACK && this.#outFinEnd !== null) {
      const acked = (view.acknowledgment + this.offset) >>> 0;
      if (sequenceDifference(acked, this.#outFinEnd) >= 0) this.#outFinAcked = true;
    }
    this.#checkClosed();
    return flags & TCP_FLAG.ACK ? this.offset : 0;
  }

  /** True when the guest's SYN (or SYN+ACK) in `view` belongs to another connection than the one followed here. */
  isOtherConnection(view: PacketView): boolean {
    return view.sequence !== this.#guestSyn;
  }

  /** Guest → client. Returns what must be subtracted from the sequence number. */
  outgoing(view: PacketView): number {
    const flags = view.tcpFlags;
    if (flags & TCP_FLAG.SYN && this.isOtherConnection(view)) {
      this.#reopen(flags & TCP_FLAG.ACK ? 'synReceived' : 'synSent', view.sequence);
    }
    if (flags & TCP_FLAG.RST) this.isClosed = true;
    if (flags & TCP_FLAG.FIN) this.#outFinEnd = (view.sequence + view.payloadBytes + 1) >>> 0;
    if (flags & TCP_FLAG.ACK && this.#inFinEnd !== null) {
      if (sequenceDifference(view.acknowledgment, this.#inFinEnd) >= 0) this.#inFinAcked = true;
    }
    this.#checkClosed();
    return this.offset;
  }

  #reopen(state: HandshakeState, guestSyn: number): void {
    this.state = state;
    this.#guestSyn = guestSyn;
    this.offset = 0;
    this.isClosed = false;
    this.#outFinEnd = null;
    this.#inFinEnd = null;
    this.#outFinAcked = false;
    this.#inFinAcked = false;
  }

  /** The client acknowledges the primary's SYN: that number is the primary's initial one plus 1. */
  #learn(expected: HandshakeState, acknowledgment: number): void {
    if (this.state !== expected || this.#guestSyn === null) return;
    this.offset = (this.#guestSyn - (acknowledgment - 1)) >>> 0;
    this.state = 'established';
  }

  #checkClosed(): void {
    if (this.#outFinAcked && this.#inFinAcked) this.isClosed = true;
  }
}
