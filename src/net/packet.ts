/**
 * Where the headers of one Ethernet frame lie. A PacketView is reused for many frames and copies nothing: it holds
 * offsets into the frame it parsed last. All multi-byte fields are big-endian on the wire and host numbers here.
 *
 * Bounds are strict: a field is set only when its header lies wholly within the frame and, for what follows an IP
 * header, within the IP total length (so Ethernet padding is never taken for payload). No checksum is verified.
 * Source of facts: RFC 791, 793, 8200, 792, 768; IEEE 802.1Q; classification rules in docs/qemu-behaviour.md 3.3.
 */

export const ETHERTYPE = {
  IPV4: 0x0800,
  ARP: 0x0806,
  RARP: 0x8035,
  VLAN: 0x8100,
  IPV6: 0x86dd,
  QINQ: 0x88a8,
} as const;
export const PROTOCOL = {
  ICMP: 1,
  TCP: 6,
  UDP: 17,
  DCCP: 33,
  ESP: 50,
  AH: 51,
  ICMPV6: 58,
  SCTP: 132,
  UDPLITE: 136,
} as const;
export const TCP_FLAG = { FIN: 1, SYN: 2, RST: 4, PSH: 8, ACK: 16, URG: 32 } as const;

const ETHERNET_BYTES = 14;
const VLAN_TAG_BYTES = 4;
const MAX_VLAN_TAGS = 2;
const IPV4_MIN_BYTES = 20;
const IPV6_BYTES = 40;
const TCP_MIN_BYTES = 20;
/** sizeof virtio_net_hdr_v1_hash: no vnet header is longer. */
export const MAX_VNET_HEADER_BYTES = 20;
/** QEMU's parser wants an Ethernet header and the first word of what follows. */
const MIN_PARSED_BYTES = 18;
const IP_FRAGMENT_BITS = 0x3fff;

export type NetworkLayer = 'none' | 'ipv4' | 'ipv6';

export class PacketView {
  /** Start of the Ethernet header: the length of the virtio-net header in front of it. */
  start = 0;
  /** Length of the frame with everything in front of and behind the packet. */
  frameBytes = 0;
  /** The innermost EtherType (behind VLAN tags). */
  etherType = 0;
  vlanTags = 0;
  /** 'none' for everything that is not a well-formed IP header. */
  network: NetworkLayer = 'none';
  /** Offset of the IP header. */
  ipAt = 0;
  ipHeaderBytes = 0;
  /** End of the IP packet by its own length; the frame's end when that length is wrong. */
  ipEnd = 0;
  /** The IP length fits the frame. False: nothing behind the IP header is believed. */
  lengthFits = false;
  /** IPv4 protocol or IPv6 next header. */
  protocol = 0;
  /** IPv4: more-fragments bit and fragment offset as in the header, 0 for a whole packet. */
  fragment = 0;
  /** IPv4 addresses as u32; 0 for IPv6. */
  sourceAddress = 0;
  destinationAddress = 0;
  /** Offset behind the IP header. */
  transportAt = 0;
  /** A whole TCP header of an unfragmented packet is there; the fields below are set. */
  isTcp = false;
  sourcePort = 0;
  destinationPort = 0;
  sequence = 0;
  acknowledgment = 0;
  tcpHeaderBytes = 0;
  tcpFlags = 0;
  payloadAt = 0;
  payloadBytes = 0;

  /** IPv4 without a VLAN tag: what the COLO proxy compares. Everything else passes by (docs/qemu-behaviour.md 3.3). */
  get isComparable(): boolean {
    return this.network === 'ipv4' && this.vlanTags === 0;
  }

  /**
   * Reads the headers of `frame`, which begins with `vnetHeaderBytes` of virtio-net header. Returns whether an IP
   * header was found.
   */
  parse(frame: Uint8Array, vnetHeaderBytes = 0): boolean {
    this.start = vnetHeaderBytes;
    this.frameBytes = frame.length;
    this.etherType = 0;
    this.vlanTags = 0;
    this.network = 'none';
    this.isTcp = false;
    this.lengthFits = false;
    this.protocol = 0;
    this.fragment = 0;
    this.sourceAddress = 0;
    this.destinationAddress = 0;
    this.sourcePort = 0;
    this.destinationPort = 0;
    this.payloadBytes = 0;
    if (vnetHeaderBytes > MAX_VNET_HEADER_BYTES || frame.length < vnetHeaderBytes + MIN_PARSED_BYTES)
      return false;

    let at = vnetHeaderBytes + ETHERNET_BYTES;
    let type = u16(frame, at - 2);
    while ((type === ETHERTYPE.VLAN || type === ETHERTYPE.QINQ) && this.vlanTags < MAX_VLAN_TAGS) {
      if (frame.length < at + VLAN_TAG_BYTES) return false;
      this.vlanTags++;
      at += VLAN_TAG_BYTES;
      type = u16(frame, at - 2);
    }
    this.etherType = type;
    this.ipAt = at;
    if (type === ETHERTYPE.IPV4) return this.#parseIpv4(frame, at);
    if (type === ETHERTYPE.IPV6) return this.#parseIpv6(frame, at);
    return false;
  }

  #parseIpv4(frame: Uint8Array, at: number): boolean {
    if (frame.length < at + IPV4_MIN_BYTES || frame[at]! >>> 4 !== 4) return false;
    const headerBytes = (frame[at]! & 0xf) * 4;
    if (headerBytes < IPV4_MIN_BYTES || frame.length < at + headerBytes) return false;
    this.network = 'ipv4';
    this.ipHeaderBytes = headerBytes;
    this.fragment = u16(frame, at + 6) & IP_FRAGMENT_BITS;
    this.protocol = frame[at + 9]!;
    this.sourceAddress = u32(frame, at + 12);
    this.destinationAddress = u32(frame, at + 16);
    this.transportAt = at + headerBytes;
    const totalBytes = u16(frame, at + 2);
    this.lengthFits = totalBytes >= headerBytes && at + totalBytes <= frame.length;
    this.ipEnd = this.lengthFits ? at + totalBytes : frame.length;
    if (this.lengthFits && this.fragment === 0) this.#parseTransport(frame);
    return true;
  }

  /** Basic header only: extension headers are left as `protocol`. */
  #parseIpv6(frame: Uint8Array, at: number): boolean {
    if (frame.length < at + IPV6_BYTES || frame[at]! >>> 4 !== 6) return false;
    this.network = 'ipv6';
    this.ipHeaderBytes = IPV6_BYTES;
    this.protocol = frame[at + 6]!;
    this.transportAt = at + IPV6_BYTES;
    const payloadBytes = u16(frame, at + 4);
    this.lengthFits = this.transportAt + payloadBytes <= frame.length;
    this.ipEnd = this.lengthFits ? this.transportAt + payloadBytes : frame.length;
    if (this.lengthFits) this.#parseTransport(frame);
    return true;
  }

  #parseTransport(frame: Uint8Array): void {
    const at = this.transportAt;
    // AH carries its index where the others carry ports, four bytes further on (QEMU fill_connection_key).
    const portsAt = this.protocol === PROTOCOL.AH ? at + 4 : at;
    if (!hasPorts(this.protocol) || portsAt + 4 > this.ipEnd) return;
    this.sourcePort = u16(frame, portsAt);
    this.destinationPort = u16(frame, portsAt + 2);
    if (this.protocol !== PROTOCOL.TCP || at + TCP_MIN_BYTES > this.ipEnd) return;
    const headerBytes = (frame[at + 12]! >>> 4) * 4;
    if (headerBytes < TCP_MIN_BYTES || at + headerBytes > this.ipEnd) return;
    this.isTcp = true;
    this.tcpHeaderBytes = headerBytes;
    this.sequence = u32(frame, at + 4);
    this.acknowledgment = u32(frame, at + 8);
    this.tcpFlags = frame[at + 13]! & 0x3f;
    this.payloadAt = at + headerBytes;
    this.payloadBytes = this.ipEnd - this.payloadAt;
  }
}

function hasPorts(protocol: number): boolean {
  switch (protocol) {
    case PROTOCOL.TCP:
    case PROTOCOL.UDP:
    case PROTOCOL.DCCP:
    case PROTOCOL.ESP:
    case PROTOCOL.AH:
    case PROTOCOL.SCTP:
    case PROTOCOL.UDPLITE:
      return true;
    default:
      return false;
  }
}

export function u16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

export function u32(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}

export function putU16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = (value >>> 8) & 0xff;
  bytes[at + 1] = value & 0xff;
}

export function putU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = (value >>> 16) & 0xff;
  bytes[at + 2] = (value >>> 8) & 0xff;
  bytes[at + 3] = value & 0xff;
}

/** Signed distance from `b` to `a` in a 32-bit sequence space: positive when `a` is after `b`. */
export function sequenceDifference(a: number, b: number): number {
  return (a - b) | 0;
}

/** The later of two sequence numbers. */
export function laterOf(a: number, b: number): number {
  return sequenceDifference(a, b) >= 0 ? a : b;
}

/** An IPv4 address held as u32, in dotted form. */
export function ipv4Text(address: number): string {
  return `${address >>> 24}.${(address >>> 16) & 0xff}.${(address >>> 8) & 0xff}.${address & 0xff}`;
}
