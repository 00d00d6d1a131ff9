/**
 * A packet in comparison, with what the comparers need of its headers. One reused instance carries the packet that has
 * just arrived, as a view; whoever holds a packet keeps `held()`, which owns its bytes.
 */
import type { PacketView } from '../packet.ts';
import { TCP_FLAG } from '../packet.ts';

export class HeldPacket {
  frame: Uint8Array = new Uint8Array(0);
  vnetHdrLen = 0;
  atMs = 0;
  sequence = 0;
  acknowledgment = 0;
  tcpFlags = 0;
  /** The part of `frame` that counts: the TCP payload, or for others the IP payload. */
  from = 0;
  to = 0;
  /** IPv4 fragment bits and offset. */
  fragment = 0;
  /** Counts the connections that one flow has carried, by their SYNs. */
  generation = 0;
  /** How many payload bytes have been found equal already. */
  verifiedBytes = 0;

  fill(frame: Uint8Array, vnetHdrLen: number, view: PacketView, nowMs: number): this {
    this.frame = frame;
    this.vnetHdrLen = vnetHdrLen;
    this.atMs = nowMs;
    this.sequence = view.sequence;
    this.acknowledgment = view.acknowledgment;
    this.tcpFlags = view.isTcp ? view.tcpFlags : 0;
    this.fragment = view.fragment;
    // With a length that does not fit, nothing inside is believed: all of the frame counts.
    if (view.isTcp) this.from = view.payloadAt;
    else this.from = view.lengthFits ? view.transportAt : view.start;
    this.to = view.ipEnd;
    this.generation = 0;
    this.verifiedBytes = 0;
    return this;
  }

  has(flag: keyof typeof TCP_FLAG): boolean {
    return (this.tcpFlags & TCP_FLAG[flag]) !== 0;
  }

  get payloadBytes(): number {
    return this.to - this.from;
  }

  /** Sequence number of the first payload byte: a SYN takes one before it. */
  get payloadSequence(): number {
    return this.has('SYN') ? (this.sequence + 1) >>> 0 : this.sequence;
  }

  /** Sequence number behind all of it, SYN and FIN counted (RFC 793 3.3, SEG.LEN). */
  get sequenceEnd(): number {
    return (this.payloadSequence + this.payloadBytes + (this.has('FIN') ? 1 : 0)) >>> 0;
  }

  /** A copy that owns its bytes. */
  held(): HeldPacket {
    const copy = new HeldPacket();
    copy.frame = Buffer.from(this.frame);
    copy.vnetHdrLen = this.vnetHdrLen;
    copy.atMs = this.atMs;
    copy.sequence = this.sequence;
    copy.acknowledgment = this.acknowledgment;
    copy.tcpFlags = this.tcpFlags;
    copy.from = this.from;
    copy.to = this.to;
    copy.fragment = this.fragment;
    copy.generation = this.generation;
    copy.verifiedBytes = this.verifiedBytes;
    return copy;
  }
}
