/**
 * Frames for the property tests of the comparer: one flow's TCP segments and datagrams over IPv4 or IPv6, with or
 * without VLAN tags and a virtio-net header. Whatever a comparer must not care about is drawn from `noise`: the virtio
 * header, IP identification, TTL, TOS, options, flow label, TCP window, options, PSH, checksums and Ethernet padding.
 * No checksum is right: a comparer verifies none (docs/qemu-behaviour.md 3.3).
 */
import { MAX_VNET_HEADER_BYTES, PROTOCOL, TCP_FLAG, putU16, putU32 } from '../../../src/net/packet.ts';

export interface FlowShape {
  readonly network: 'ipv4' | 'ipv6';
  /** VLAN ids, outermost first: none, one or two. */
  readonly vlans: readonly number[];
  /** Tells flows apart: it becomes part of a port and of an address. */
  readonly number: number;
}

/** One frame as it goes over a chardev. */
export interface WireFrame {
  /** Begins with the virtio-net header, if there is one. */
  readonly bytes: Uint8Array;
  /** null: the endpoint has no vnet word. */
  readonly vnetHdrLen: number | null;
}

export interface TcpSegment {
  readonly sequence: number;
  readonly acknowledgment: number | null;
  /** Without ACK and PSH, which are set as needed. */
  readonly flags: number;
  readonly payload: Uint8Array;
}

const ETHERNET_BYTES = 14;
const UDP_CHECKSUM_AT = 6;

/** A small generator of pseudo-random numbers (xorshift32): the same seed, the same frame. */
export class Noise {
  #state: number;

  constructor(seed: number) {
    this.#state = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) || 1;
    for (let round = 0; round < 4; round++) this.next();
  }

  next(): number {
    let state = this.#state;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.#state = state;
    return state >>> 0;
  }

  below(bound: number): number {
    return this.next() % bound;
  }

  fill(bytes: Uint8Array, from: number, to: number): void {
    for (let at = from; at < to; at++) bytes[at] = this.next() & 0xff;
  }
}

export function tcpFrame(flow: FlowShape, segment: TcpSegment, seed: number, hasVnet: boolean): WireFrame {
  const noise = new Noise(seed);
  const optionBytes = noise.below(3) === 0 ? noise.below(11) * 4 : 0;
  const headerBytes = 20 + optionBytes;
  const body = new Uint8Array(headerBytes + segment.payload.length);
  noise.fill(body, 14, headerBytes);
  putU16(body, 0, 80);
  putU16(body, 2, 40_000 + flow.number);
  putU32(body, 4, segment.sequence);
  putU32(body, 8, segment.acknowledgment ?? noise.next());
  body[12] = (headerBytes / 4) << 4;
  body[13] =
    segment.flags |
    (segment.acknowledgment === null ? 0 : TCP_FLAG.ACK) |
    (segment.payload.length > 0 && noise.below(2) ? TCP_FLAG.PSH : 0);
  body.set(segment.payload, headerBytes);
  return wire(flow, PROTOCOL.TCP, body, 0, noise, noise, hasVnet);
}

/**
 * `body` is everything behind the IP header; IPv6 extension headers are drawn from it, since of a datagram they count.
 * `fragment`: the field of the IPv4 header, or of an IPv6 fragment header.
 */
export function datagramFrame(
  flow: FlowShape,
  protocol: number,
  body: Uint8Array,
  fragment: number,
  seed: number,
  hasVnet: boolean,
): WireFrame {
  const noise = new Noise(seed);
  const own = Uint8Array.from(body);
  if (protocol === PROTOCOL.UDP && fragment === 0) noise.fill(own, UDP_CHECKSUM_AT, UDP_CHECKSUM_AT + 2);
  const extensions = new Noise(body.reduce((sum, byte) => sum + byte, 0));
  return wire(flow, protocol, own, fragment, noise, extensions, hasVnet);
}

/** The body of a UDP datagram of this flow. */
export function udpBody(flow: FlowShape, payload: Uint8Array): Uint8Array {
  const body = new Uint8Array(8 + payload.length);
  putU16(body, 0, 53);
  putU16(body, 2, 5_000 + flow.number);
  putU16(body, 4, body.length);
  body.set(payload, 8);
  return body;
}

function wire(
  flow: FlowShape,
  protocol: number,
  body: Uint8Array,
  fragment: number,
  noise: Noise,
  extensions: Noise,
  hasVnet: boolean,
): WireFrame {
  const vnetBytes = hasVnet ? noise.below(MAX_VNET_HEADER_BYTES + 1) : 0;
  const packet =
    flow.network === 'ipv4'
      ? ipv4(flow, protocol, body, fragment, noise)
      : ipv6(flow, protocol, body, fragment, noise, extensions);
  const packetAt = vnetBytes + ETHERNET_BYTES + 4 * flow.vlans.length;
  const padding = noise.below(4) === 0 ? noise.below(20) : 0;
  const bytes = new Uint8Array(packetAt + packet.length + padding);
  noise.fill(bytes, 0, vnetBytes);
  bytes.set([0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1], vnetBytes);
  let at = vnetBytes + 12;
  for (const [index, id] of flow.vlans.entries()) {
    putU16(bytes, at, index + 1 < flow.vlans.length ? 0x88a8 : 0x8100);
    // The priority may differ.
    putU16(bytes, at + 2, (noise.below(8) << 13) | id);
    at += 4;
  }
  putU16(bytes, at, flow.network === 'ipv4' ? 0x0800 : 0x86dd);
  bytes.set(packet, packetAt);
  noise.fill(bytes, packetAt + packet.length, bytes.length);
  return { bytes, vnetHdrLen: hasVnet ? vnetBytes : null };
}

function ipv4(
  flow: FlowShape,
  protocol: number,
  body: Uint8Array,
  fragment: number,
  noise: Noise,
): Uint8Array {
  const headerBytes = 20 + (noise.below(4) === 0 ? noise.below(11) * 4 : 0);
  const packet = new Uint8Array(headerBytes + body.length);
  noise.fill(packet, 0, headerBytes);
  packet[0] = 0x40 | (headerBytes / 4);
  putU16(packet, 2, packet.length);
  // The bit "do not fragment" is no part of the place.
  putU16(packet, 6, fragment | (fragment === 0 && noise.below(2) ? 0x4000 : 0));
  packet[9] = protocol;
  putU32(packet, 12, 0x0a00020f);
  putU32(packet, 16, 0x0a000300 + flow.number);
  packet.set(body, headerBytes);
  return packet;
}

const HOP_BY_HOP = 0;
const FRAGMENT = 44;
const DESTINATION = 60;

function ipv6(
  flow: FlowShape,
  protocol: number,
  body: Uint8Array,
  fragment: number,
  noise: Noise,
  drawn: Noise,
): Uint8Array {
  const extensions: { kind: number; bytes: Uint8Array }[] = [];
  if (drawn.below(5) === 0) extensions.push({ kind: HOP_BY_HOP, bytes: paddingOptions(drawn.below(3)) });
  if (fragment !== 0) {
    const bytes = new Uint8Array(8);
    putU16(bytes, 2, fragment);
    putU32(bytes, 4, noise.next());
    extensions.push({ kind: FRAGMENT, bytes });
  } else if (drawn.below(5) === 0) {
    extensions.push({ kind: DESTINATION, bytes: paddingOptions(drawn.below(3)) });
  }
  const extensionBytes = extensions.reduce((sum, { bytes }) => sum + bytes.length, 0);
  const packet = new Uint8Array(40 + extensionBytes + body.length);
  putU32(packet, 0, 0x60000000 | (noise.next() & 0xfffffff));
  putU16(packet, 4, extensionBytes + body.length);
  packet[7] = noise.below(256);
  packet.set([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0f], 8);
  packet.set([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, flow.number >>> 8, flow.number & 0xff], 24);
  let nextAt = 6;
  let at = 40;
  for (const { kind, bytes } of extensions) {
    packet[nextAt] = kind;
    packet.set(bytes, at);
    nextAt = at;
    at += bytes.length;
  }
  packet[nextAt] = protocol;
  packet.set(body, at);
  return packet;
}

/** An extension header that holds nothing but PadN: `units` times eight bytes more than the least. */
function paddingOptions(units: number): Uint8Array {
  const bytes = new Uint8Array(8 + units * 8);
  bytes[1] = units;
  bytes[2] = 1;
  bytes[3] = bytes.length - 4;
  return bytes;
}
