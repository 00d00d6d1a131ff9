/** Builds Ethernet frames with right checksums, for tests. */
import { ipv4HeaderChecksum, tcpChecksum } from '../../../src/net/checksum.ts';
import type { FlowKey } from '../../../src/net/flow-key.ts';
import { PROTOCOL, PacketView, TCP_FLAG, putU16, putU32 } from '../../../src/net/packet.ts';

export const GUEST_MAC = Uint8Array.from([0x52, 0x54, 0, 0, 0, 1]);
export const CLIENT_MAC = Uint8Array.from([0x52, 0x54, 0, 0, 0, 2]);
export const GUEST = 0x0a00020f;
export const CLIENT = 0x0a000202;

export interface Ipv4Fields {
  readonly source?: number;
  readonly destination?: number;
  readonly id?: number;
  readonly ttl?: number;
  readonly fragment?: number;
  /** Zeros behind the packet, as a NIC adds them. */
  readonly padTo?: number;
}

export interface TcpFields extends Ipv4Fields {
  readonly sourcePort?: number;
  readonly destinationPort?: number;
  readonly seq?: number;
  readonly ack?: number;
  /** Letters of S, F, R, P, U; ACK is set when `ack` is given. */
  readonly flags?: string;
  readonly window?: number;
  readonly options?: Uint8Array;
  readonly payload?: string | Uint8Array;
}

const FLAG_LETTERS: Readonly<Record<string, number>> = {
  F: TCP_FLAG.FIN,
  S: TCP_FLAG.SYN,
  R: TCP_FLAG.RST,
  P: TCP_FLAG.PSH,
  U: TCP_FLAG.URG,
};

export function ethernet(etherType: number, body: Uint8Array): Uint8Array {
  const frame = new Uint8Array(14 + body.length);
  frame.set(CLIENT_MAC, 0);
  frame.set(GUEST_MAC, 6);
  putU16(frame, 12, etherType);
  frame.set(body, 14);
  return frame;
}

export function ipv4(protocol: number, body: Uint8Array, fields: Ipv4Fields = {}): Uint8Array {
  const packet = new Uint8Array(20 + body.length);
  packet[0] = 0x45;
  putU16(packet, 2, packet.length);
  putU16(packet, 4, fields.id ?? 1);
  putU16(packet, 6, fields.fragment ?? 0);
  packet[8] = fields.ttl ?? 64;
  packet[9] = protocol;
  putU32(packet, 12, fields.source ?? GUEST);
  putU32(packet, 16, fields.destination ?? CLIENT);
  putU16(packet, 10, ipv4HeaderChecksum(packet, 0, 20));
  packet.set(body, 20);
  const frame = ethernet(0x0800, packet);
  if (!fields.padTo || frame.length >= fields.padTo) return frame;
  const padded = new Uint8Array(fields.padTo);
  padded.set(frame);
  return padded;
}

/** From fd00::f to fd00::2. */
export function ipv6(nextHeader: number, body: Uint8Array): Uint8Array {
  const packet = new Uint8Array(40 + body.length);
  packet[0] = 0x60;
  putU16(packet, 4, body.length);
  packet[6] = nextHeader;
  packet[7] = 64;
  packet.set([0xfd, ...new Uint8Array(14), 0x0f], 8);
  packet.set([0xfd, ...new Uint8Array(14), 0x02], 24);
  packet.set(body, 40);
  return ethernet(0x86dd, packet);
}

/** Puts a VLAN tag (of type `tpid`) in front of the frame's EtherType. */
export function vlan(id: number, frame: Uint8Array, tpid = 0x8100): Uint8Array {
  const tag = Uint8Array.from([tpid >>> 8, tpid & 0xff, id >>> 8, id & 0xff]);
  return Buffer.concat([frame.subarray(0, 12), tag, frame.subarray(12)]);
}

export function bytesOf(payload: string | Uint8Array | undefined): Uint8Array {
  return typeof payload === 'string' ? Buffer.from(payload) : (payload ?? new Uint8Array(0));
}

/** From the guest to the client unless the fields say otherwise. */
export function tcp(fields: TcpFields = {}): Uint8Array {
  const payload = bytesOf(fields.payload);
  const options = fields.options ?? new Uint8Array(0);
  const segment = new Uint8Array(20 + options.length + payload.length);
  putU16(segment, 0, fields.sourcePort ?? 80);
  putU16(segment, 2, fields.destinationPort ?? 40_000);
  putU32(segment, 4, fields.seq ?? 0);
  putU32(segment, 8, fields.ack ?? 0);
  segment[12] = ((20 + options.length) / 4) << 4;
  let flags = fields.ack === undefined ? 0 : TCP_FLAG.ACK;
  for (const letter of fields.flags ?? '') flags |= FLAG_LETTERS[letter] ?? 0;
  segment[13] = flags;
  putU16(segment, 14, fields.window ?? 1000);
  segment.set(options, 20);
  segment.set(payload, 20 + options.length);
  const frame = ipv4(PROTOCOL.TCP, segment, fields);
  const view = new PacketView();
  view.parse(frame);
  putU16(frame, view.transportAt + 16, tcpChecksum(frame, view));
  return frame;
}

/** The same connection, the other way. */
export function tcpToGuest(fields: TcpFields = {}): Uint8Array {
  return tcp({ source: CLIENT, destination: GUEST, sourcePort: 40_000, destinationPort: 80, ...fields });
}

export interface UdpFields extends Ipv4Fields {
  readonly sourcePort?: number;
  readonly destinationPort?: number;
}

export function udp(payload: string | Uint8Array, fields: UdpFields = {}): Uint8Array {
  const body = bytesOf(payload);
  const datagram = new Uint8Array(8 + body.length);
  putU16(datagram, 0, fields.sourcePort ?? 53);
  putU16(datagram, 2, fields.destinationPort ?? 5000);
  putU16(datagram, 4, datagram.length);
  datagram.set(body, 8);
  return ipv4(PROTOCOL.UDP, datagram, fields);
}

export function icmp(payload: string): Uint8Array {
  return ipv4(
    PROTOCOL.ICMP,
    Buffer.concat([Uint8Array.from([8, 0, 0, 0, 0, 1, 0, 1]), Buffer.from(payload)]),
  );
}

export function arp(): Uint8Array {
  return ethernet(0x0806, new Uint8Array(46));
}

/** A whole ARP packet of the guest's: operation 1 asks, 2 answers. `host`: the last byte of the address in question. */
export function arpFor(host: number, operation = 1): Uint8Array {
  const packet = new Uint8Array(46);
  packet.set([0, 1, 8, 0, 6, 4, 0, operation]);
  packet.set(GUEST_MAC, 8);
  putU32(packet, 14, GUEST);
  putU32(packet, 24, (CLIENT & 0xffffff00) | host);
  return ethernet(0x0806, packet);
}

/** The key that a PacketView gives to a frame. */
export function keyOf(frame: Uint8Array): FlowKey {
  const view = new PacketView();
  view.parse(frame);
  return view.key;
}

/** The TCP payload of a frame, as text. */
export function payloadText(frame: Uint8Array): string {
  const view = new PacketView();
  view.parse(frame);
  return Buffer.from(frame.subarray(view.payloadAt, view.payloadAt + view.payloadBytes)).toString();
}

/** True when the frame's TCP checksum is right. */
export function hasRightChecksum(frame: Uint8Array): boolean {
  const view = new PacketView();
  view.parse(frame);
  const at = view.transportAt + 16;
  return view.isTcp && tcpChecksum(frame, view) === ((frame[at]! << 8) | frame[at + 1]!);
}
