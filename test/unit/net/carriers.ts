/** The same TCP segment on everything that may carry one: IPv4 and IPv6, with options, extension headers, VLAN tags. */
import { ipv4HeaderChecksum, onesSum, tcpChecksum } from '../../../src/net/checksum.ts';
import { PROTOCOL, PacketView, putU16 } from '../../../src/net/packet.ts';
import type { TcpFields } from './frames.ts';
import { ethernet, ipv4, ipv6, tcp, tcpToGuest, vlan } from './frames.ts';

const TCP_AT = 34;

/** Hop-by-hop options, then destination options of 16 bytes. */
const EXTENSIONS = Uint8Array.from([60, 0, 1, 4, 0, 0, 0, 0, 6, 1, 1, 12, ...new Uint8Array(12)]);

/** Four bytes of IPv4 options: three no-operations and the end. */
const IP_OPTIONS = Uint8Array.from([1, 1, 1, 0]);

export const CARRIERS = {
  ipv4: (frame) => frame,
  'ipv4 with options': (frame) => {
    const packet = Buffer.concat([frame.subarray(14, TCP_AT), IP_OPTIONS, frame.subarray(TCP_AT)]);
    packet[0] = 0x46;
    putU16(packet, 2, packet.length);
    putU16(packet, 10, ipv4HeaderChecksum(packet, 0, 24));
    return ethernet(0x0800, packet);
  },
  'ipv4 in a vlan': (frame) => vlan(7, frame),
  'ipv4 in two vlans': (frame) => vlan(9, vlan(7, frame), 0x88a8),
  ipv6: (frame) => ipv6(PROTOCOL.TCP, frame.subarray(TCP_AT)),
  'ipv6 with extension headers': (frame) => ipv6(0, Buffer.concat([EXTENSIONS, frame.subarray(TCP_AT)])),
  'ipv6 in a vlan': (frame) => vlan(7, ipv6(PROTOCOL.TCP, frame.subarray(TCP_AT))),
} satisfies Record<string, (frame: Uint8Array) => Uint8Array>;

export type Carrier = keyof typeof CARRIERS;
export const CARRIER_NAMES = Object.keys(CARRIERS) as Carrier[];

/** Guest → client. */
export function carried(carrier: Carrier, fields: TcpFields): Uint8Array {
  return summed(CARRIERS[carrier](tcp(fields)));
}

/** Client → guest: as `tcpToGuest`. */
export function carriedToGuest(carrier: Carrier, fields: TcpFields): Uint8Array {
  const frame = new Uint8Array(CARRIERS[carrier](tcpToGuest(fields)));
  const view = new PacketView();
  view.parse(frame);
  if (view.network === 'ipv6') {
    const source = frame.slice(view.ipAt + 8, view.ipAt + 24);
    frame.copyWithin(view.ipAt + 8, view.ipAt + 24, view.ipAt + 40);
    frame.set(source, view.ipAt + 24);
  }
  return summed(frame);
}

/**
 * What a router tells the guest of its segment `about`: that it is too long. Quotes `bytes` of the packet behind its
 * Ethernet header, and has the right checksum.
 */
export function tooLong(about: Uint8Array, bytes = 1000): Uint8Array {
  const view = new PacketView();
  view.parse(about);
  const quote = about.subarray(view.ipAt, Math.min(view.ipEnd, view.ipAt + bytes));
  const isSix = view.network === 'ipv6';
  const message = Buffer.concat([Uint8Array.from([isSix ? 2 : 3, isSix ? 0 : 4, 0, 0, 0, 0, 5, 0]), quote]);
  let frame = isSix
    ? new Uint8Array(ipv6(PROTOCOL.ICMPV6, message))
    : ipv4(PROTOCOL.ICMP, message, { source: 0xc0000201, destination: 0x0a00020f });
  if (view.vlanTags === 1) frame = vlan(7, frame);
  const at = view.vlanTags * 4 + (isSix ? 54 : 34);
  putU16(frame, at + 2, icmpChecksum(frame, at, isSix));
  return frame;
}

/** Taken as if its own field were zero. */
export function icmpChecksum(frame: Uint8Array, at: number, isSix: boolean): number {
  // The pseudo header of RFC 8200 8.1: addresses, length, next header.
  const pseudo = isSix ? onesSum(frame, at - 32, at) + (frame.length - at) + PROTOCOL.ICMPV6 : 0;
  return ~onesSum(frame, at + 4, frame.length, onesSum(frame, at, at + 2, pseudo)) & 0xffff;
}

/** With the right TCP checksum. */
export function summed(frame: Uint8Array): Uint8Array {
  const copy = new Uint8Array(frame);
  const view = new PacketView();
  view.parse(copy);
  if (view.isTcp) putU16(copy, view.transportAt + 16, tcpChecksum(copy, view));
  return copy;
}

/** TCP options, padded with zeros to whole words. */
export function options(...bytes: number[]): Uint8Array {
  return Uint8Array.from([...bytes, ...new Uint8Array((4 - (bytes.length % 4)) % 4)]);
}

const words = (numbers: readonly number[]): number[] =>
  numbers.flatMap((number) =>
    [number >>> 24, number >>> 16, number >>> 8, number].map((byte) => byte & 0xff),
  );

/** NOP, NOP, and timestamps. */
export const stamps = (value: number, echo: number): number[] => [1, 1, 8, 10, ...words([value, echo])];

/** SACK blocks, two numbers each. */
export const sack = (...edges: number[]): number[] => [5, 2 + 4 * edges.length, ...words(edges)];
