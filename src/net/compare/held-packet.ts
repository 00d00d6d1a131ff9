/**
 * A packet in comparison: where its bytes lie, which of them count (classify.ts), and what the comparers need of its
 * headers. One reused instance carries the packet that has just arrived, on bytes that are not its own; what is kept is
 * a record of a PacketPool, with a copy. Sequence numbers are signed here: a number above 2^31 would be an allocation.
 */
import type { PacketView } from '../packet.ts';
import { TCP_FLAG } from '../packet.ts';

const NOTHING = new Uint8Array(0);

/** What a packet costs besides its bytes, roughly, for the bound on memory. */
export const PACKET_OVERHEAD_BYTES = 256;

/**
 * `stream`: whole TCP segments. `datagram`: one with one. `statement`: as datagrams, but what has been said once may be
 * said again (statement.ts).
 */
export type FlowClass = 'stream' | 'datagram' | 'statement';

export class HeldPacket {
  bytes: Uint8Array = NOTHING;
  /** The whole frame, with its vnet header. */
  start = 0;
  end = 0;
  vnetHdrLen = 0;
  /** Where the Ethernet header begins. */
  ethernetAt = 0;
  /** The part that counts: the TCP payload, the IP payload, or the whole frame. */
  from = 0;
  to = 0;
  /**
   * Fields in that part which are held against nobody, or -1: a fragment's identification, a UDP checksum, xid and secs
   * of a DHCP message. The last never without the one before, and in this order.
   */
  identificationAt = -1;
  checksumAt = -1;
  transactionAt = -1;
  flowClass: FlowClass = 'datagram';
  atMs = 0;
  sequence = 0;
  acknowledgment = 0;
  tcpFlags = 0;
  /** Fragment bits and offset, as in the header. */
  fragment = 0;
  /** Counts the connections that one flow has carried, by their SYNs. */
  generation = 0;
  /** How many payload bytes have been found equal already. */
  verifiedBytes = 0;
  /** The secondary has said its like (datagrams). */
  isSaid = false;
  /** It was found to differ, and counted. */
  isDifferent = false;
  /** Links and marks of datagram.ts and twin-index.ts. */
  older: HeldPacket | null = null;
  newer: HeldPacket | null = null;
  isSeen = false;
  isIndexed = false;
  owner = 0;
  hash = 0;
  chainBefore: HeldPacket | null = null;
  chainBehind: HeldPacket | null = null;

  /** Takes what `view` has found in `bytes[from, to)`. `classify` says what of it counts; `atMs` is the caller's. */
  fill(bytes: Uint8Array, from: number, to: number, vnetHdrLen: number, view: PacketView): this {
    this.bytes = bytes;
    this.start = from;
    this.end = to;
    this.vnetHdrLen = vnetHdrLen;
    this.sequence = view.signedSequence;
    this.acknowledgment = view.signedAcknowledgment;
    this.tcpFlags = view.isTcp ? view.tcpFlags : 0;
    this.fragment = view.fragment;
    this.generation = 0;
    this.verifiedBytes = 0;
    this.isSaid = false;
    this.isDifferent = false;
    return this;
  }

  /** Becomes a copy of `other`, of its bytes `[from, to)`, which are at the front of `bytes` now. */
  copyOf(other: HeldPacket, bytes: Uint8Array, from: number, to: number): this {
    this.bytes = bytes;
    this.start = 0;
    this.end = to - from;
    this.vnetHdrLen = other.vnetHdrLen;
    this.ethernetAt = other.ethernetAt - from;
    this.from = other.from - from;
    this.to = other.to - from;
    this.identificationAt = other.identificationAt < 0 ? -1 : other.identificationAt - from;
    this.checksumAt = other.checksumAt < 0 ? -1 : other.checksumAt - from;
    this.transactionAt = other.transactionAt < 0 ? -1 : other.transactionAt - from;
    this.flowClass = other.flowClass;
    this.atMs = other.atMs;
    this.sequence = other.sequence;
    this.acknowledgment = other.acknowledgment;
    this.tcpFlags = other.tcpFlags;
    this.fragment = other.fragment;
    this.generation = other.generation;
    this.verifiedBytes = other.verifiedBytes;
    this.isSaid = other.isSaid;
    this.isDifferent = other.isDifferent;
    this.isSeen = false;
    return this;
  }

  get isSyn(): boolean {
    return (this.tcpFlags & TCP_FLAG.SYN) !== 0;
  }

  get isFin(): boolean {
    return (this.tcpFlags & TCP_FLAG.FIN) !== 0;
  }

  get isReset(): boolean {
    return (this.tcpFlags & TCP_FLAG.RST) !== 0;
  }

  get isAck(): boolean {
    return (this.tcpFlags & TCP_FLAG.ACK) !== 0;
  }

  get payloadBytes(): number {
    return this.to - this.from;
  }

  /** Sequence number of the first payload byte: a SYN takes one before it. */
  get payloadSequence(): number {
    return this.isSyn ? (this.sequence + 1) | 0 : this.sequence;
  }

  /** Sequence number behind all of it, SYN and FIN counted (RFC 793 3.3, SEG.LEN). */
  get sequenceEnd(): number {
    return (this.payloadSequence + this.payloadBytes + (this.isFin ? 1 : 0)) | 0;
  }

  /** What keeping it costs. */
  get heldBytes(): number {
    return this.bytes.length + PACKET_OVERHEAD_BYTES;
  }
}
