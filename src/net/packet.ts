/**
 * Where the headers of one Ethernet frame lie. A PacketView is reused for many frames and copies nothing: it holds
 * offsets into the bytes it was given last, which may hold other frames around this one. All multi-byte fields are
 * big-endian on the wire and host numbers here.
 *
 * Bounds are strict: a field is set only when its header lies wholly within the frame and, for what follows an IP
 * header, within the IP total length (so Ethernet padding is never taken for payload). No checksum is verified. The walk
 * over IPv6 extension headers ends after MAX_EXTENSION_HEADERS.
 * Source of facts: RFC 791, 793, 8200, 826, 792, 768; IEEE 802.1Q; classification rules in docs/qemu-behaviour.md 3.3.
 */
import { FlowKey } from './flow-key.ts';

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
/** An ARP packet for IPv4 over Ethernet (RFC 826). */
const ARP_BYTES = 28;
const MAX_EXTENSION_HEADERS = 8;
const EXTENSION = { HOP_BY_HOP: 0, ROUTING: 43, FRAGMENT: 44, DESTINATION: 60, MOBILITY: 135 } as const;
const FRAGMENT_HEADER_BYTES = 8;
/** Offset and more-fragments bit of an IPv6 fragment header. */
const IPV6_FRAGMENT_BITS = 0xfff9;
/** The part of a VLAN tag that names the VLAN; its priority is no part of a frame's identity. */
const VLAN_ID_BITS = 0xfff;
/** sizeof virtio_net_hdr_v1_hash: no vnet header is longer. */
export const MAX_VNET_HEADER_BYTES = 20;
/** QEMU's parser wants an Ethernet header and the first word of what follows. */
const MIN_PARSED_BYTES = 18;
const IP_FRAGMENT_BITS = 0x3fff;

/** `arp`: IPv4 over Ethernet only. */
export type NetworkLayer = 'none' | 'ipv4' | 'ipv6' | 'arp';

export class PacketView {
  /** The frame with everything in front of and behind the packet. */
  from = 0;
  to = 0;
  /** Start of the Ethernet header, behind the virtio-net header. */
  start = 0;
  /** The innermost EtherType (behind VLAN tags). */
  etherType = 0;
  vlanTags = 0;
  /** Which flow the frame belongs to. Set by every `parse`. */
  readonly key = new FlowKey();
  /** 'none' for everything that is neither a well-formed IP header nor a whole ARP packet. */
  network: NetworkLayer = 'none';
  /** Offset of the IP header. */
  ipAt = 0;
  ipHeaderBytes = 0;
  /** End of the IP packet by its own length; the frame's end when that length is wrong. */
  ipEnd = 0;
  /** The IP length fits the frame. False: nothing behind the IP header is believed. */
  lengthFits = false;
  /** IPv4 protocol; IPv6: the next header behind all extension headers that are understood; ARP: the operation. */
  protocol = 0;
  /** More-fragments bit and fragment offset as in the header (IPv4: u16; IPv6: u16 of its own layout), 0 for a whole packet. */
  fragment = 0;
  /** Offset of the IPv6 fragment header, or -1. */
  fragmentHeaderAt = -1;
  /** Offset behind the IP header with its options; for IPv6 that is where extension headers begin. */
  ipPayloadAt = 0;
  /** Offset behind the IP header and all IPv6 extension headers that are understood. */
  transportAt = 0;
  /** A whole TCP header of an unfragmented packet is there; the fields below are set. */
  isTcp = false;
  sourcePort = 0;
  destinationPort = 0;
  /** Signed: half of all numbers would be objects otherwise, wherever they are handed on. */
  signedSequence = 0;
  signedAcknowledgment = 0;
  tcpHeaderBytes = 0;
  tcpFlags = 0;
  payloadAt = 0;
  payloadBytes = 0;

  /** IPv4 without a VLAN tag: what QEMU's COLO proxy compares (docs/qemu-behaviour.md 3.3). */
  get isComparable(): boolean {
    return this.network === 'ipv4' && this.vlanTags === 0;
  }

  get sequence(): number {
    return this.signedSequence >>> 0;
  }

  get acknowledgment(): number {
    return this.signedAcknowledgment >>> 0;
  }

  /** IPv4 (or ARP) addresses as u32. */
  get sourceAddress(): number {
    return this.key.s3 >>> 0;
  }

  get destinationAddress(): number {
    return this.key.d3 >>> 0;
  }

  /**
   * Reads the headers of the frame `bytes[from, to)`, which begins with `vnetHeaderBytes` of virtio-net header. Returns
   * whether an IP header was found.
   */
  parse(bytes: Uint8Array, vnetHeaderBytes = 0, from = 0, to = bytes.length): boolean {
    this.from = from;
    this.to = to;
    this.start = from + vnetHeaderBytes;
    this.etherType = 0;
    this.vlanTags = 0;
    this.network = 'none';
    this.isTcp = false;
    this.lengthFits = false;
    this.protocol = 0;
    this.fragment = 0;
    this.fragmentHeaderAt = -1;
    this.sourcePort = 0;
    this.destinationPort = 0;
    this.payloadBytes = 0;
    this.key.clear();
    if (vnetHeaderBytes > MAX_VNET_HEADER_BYTES || to - from < vnetHeaderBytes + MIN_PARSED_BYTES)
      return false;

    let at = this.start + ETHERNET_BYTES;
    let type = u16(bytes, at - 2);
    while ((type === ETHERTYPE.VLAN || type === ETHERTYPE.QINQ) && this.vlanTags < MAX_VLAN_TAGS) {
      if (to < at + VLAN_TAG_BYTES) return false;
      this.key.vlan = (this.key.vlan << 13) | (u16(bytes, at) & VLAN_ID_BITS) | (VLAN_ID_BITS + 1);
      this.vlanTags++;
      at += VLAN_TAG_BYTES;
      type = u16(bytes, at - 2);
    }
    this.etherType = type;
    this.ipAt = at;
    this.key.etherType = type;
    if (type === ETHERTYPE.IPV4 && this.#parseIpv4(bytes, at)) return true;
    if (type === ETHERTYPE.IPV6 && this.#parseIpv6(bytes, at)) return true;
    if (type !== ETHERTYPE.ARP || !this.#parseArp(bytes, at)) this.keyByStations(bytes);
    return false;
  }

  #parseIpv4(bytes: Uint8Array, at: number): boolean {
    if (this.to < at + IPV4_MIN_BYTES || bytes[at]! >>> 4 !== 4) return false;
    const headerBytes = (bytes[at]! & 0xf) * 4;
    if (headerBytes < IPV4_MIN_BYTES || this.to < at + headerBytes) return false;
    this.network = 'ipv4';
    this.ipHeaderBytes = headerBytes;
    this.fragment = u16(bytes, at + 6) & IP_FRAGMENT_BITS;
    this.protocol = bytes[at + 9]!;
    const key = this.key;
    key.protocol = this.protocol;
    key.s3 = i32(bytes, at + 12);
    key.d3 = i32(bytes, at + 16);
    this.ipPayloadAt = at + headerBytes;
    this.transportAt = this.ipPayloadAt;
    const totalBytes = u16(bytes, at + 2);
    this.lengthFits = totalBytes >= headerBytes && at + totalBytes <= this.to;
    this.ipEnd = this.lengthFits ? at + totalBytes : this.to;
    if (this.lengthFits && this.fragment === 0) this.#parseTransport(bytes);
    return true;
  }

  #parseIpv6(bytes: Uint8Array, at: number): boolean {
    if (this.to < at + IPV6_BYTES || bytes[at]! >>> 4 !== 6) return false;
    this.network = 'ipv6';
    this.ipHeaderBytes = IPV6_BYTES;
    const key = this.key;
    key.s0 = i32(bytes, at + 8);
    key.s1 = i32(bytes, at + 12);
    key.s2 = i32(bytes, at + 16);
    key.s3 = i32(bytes, at + 20);
    key.d0 = i32(bytes, at + 24);
    key.d1 = i32(bytes, at + 28);
    key.d2 = i32(bytes, at + 32);
    key.d3 = i32(bytes, at + 36);
    this.ipPayloadAt = at + IPV6_BYTES;
    const payloadBytes = u16(bytes, at + 4);
    this.lengthFits = this.ipPayloadAt + payloadBytes <= this.to;
    this.ipEnd = this.lengthFits ? this.ipPayloadAt + payloadBytes : this.to;
    this.protocol = bytes[at + 6]!;
    this.transportAt = this.ipPayloadAt;
    if (this.lengthFits) this.#skipExtensions(bytes);
    key.protocol = this.protocol;
    if (this.lengthFits && this.fragment === 0) this.#parseTransport(bytes);
    return true;
  }

  /** Moves `transportAt` behind the extension headers. One that is cut off makes the whole length a lie. */
  #skipExtensions(bytes: Uint8Array): void {
    for (let count = 0; isExtension(this.protocol); count++) {
      const at = this.transportAt;
      // Eight bytes are in each of them at least (RFC 8200, 4).
      if (count === MAX_EXTENSION_HEADERS || at + FRAGMENT_HEADER_BYTES > this.ipEnd) {
        this.lengthFits = false;
        return;
      }
      const isFragment = this.protocol === EXTENSION.FRAGMENT;
      const headerBytes = isFragment ? FRAGMENT_HEADER_BYTES : (bytes[at + 1]! + 1) * 8;
      if (at + headerBytes > this.ipEnd) {
        this.lengthFits = false;
        return;
      }
      this.protocol = bytes[at]!;
      this.transportAt = at + headerBytes;
      if (!isFragment) continue;
      this.fragmentHeaderAt = at;
      this.fragment = u16(bytes, at + 2) & IPV6_FRAGMENT_BITS;
      // Behind any but the first fragment there is payload, whatever it looks like.
      if (this.fragment !== 0) return;
    }
  }

  #parseArp(bytes: Uint8Array, at: number): boolean {
    const isWhole = this.to >= at + ARP_BYTES;
    if (!isWhole || u32(bytes, at) !== 0x0001_0800 || u16(bytes, at + 4) !== 0x0604) return false;
    this.network = 'arp';
    this.protocol = u16(bytes, at + 6);
    this.ipEnd = at + ARP_BYTES;
    const key = this.key;
    key.protocol = this.protocol;
    key.s3 = i32(bytes, at + 14);
    key.d3 = i32(bytes, at + 24);
    return true;
  }

  /** What has no addresses of its own is told apart by its Ethernet addresses. Nothing else of the key is changed. */
  keyByStations(bytes: Uint8Array): void {
    const at = this.start;
    const key = this.key;
    key.d2 = u16(bytes, at);
    key.d3 = i32(bytes, at + 2);
    key.s2 = u16(bytes, at + 6);
    key.s3 = i32(bytes, at + 8);
  }

  #parseTransport(frame: Uint8Array): void {
    const at = this.transportAt;
    // AH carries its index where the others carry ports, four bytes further on (QEMU fill_connection_key).
    const portsAt = this.protocol === PROTOCOL.AH ? at + 4 : at;
    if (!hasPorts(this.protocol) || portsAt + 4 > this.ipEnd) return;
    this.sourcePort = u16(frame, portsAt);
    this.destinationPort = u16(frame, portsAt + 2);
    this.key.ports = (this.sourcePort << 16) | this.destinationPort;
    if (this.protocol !== PROTOCOL.TCP || at + TCP_MIN_BYTES > this.ipEnd) return;
    const headerBytes = (frame[at + 12]! >>> 4) * 4;
    if (headerBytes < TCP_MIN_BYTES || at + headerBytes > this.ipEnd) return;
    this.isTcp = true;
    this.tcpHeaderBytes = headerBytes;
    this.signedSequence = i32(frame, at + 4);
    this.signedAcknowledgment = i32(frame, at + 8);
    this.tcpFlags = frame[at + 13]! & 0x3f;
    this.payloadAt = at + headerBytes;
    this.payloadBytes = this.ipEnd - this.payloadAt;
  }
}

function isExtension(protocol: number): boolean {
  switch (protocol) {
    case EXTENSION.HOP_BY_HOP:
    case EXTENSION.ROUTING:
    case EXTENSION.FRAGMENT:
    case EXTENSION.DESTINATION:
    case EXTENSION.MOBILITY:
      return true;
    default:
      return false;
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

/** Big-endian, signed: the form in which keys hold addresses. */
function i32(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!;
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
