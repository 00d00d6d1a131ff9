/** DHCP messages over IPv4 as frames with right checksums, for tests. */
import { onesSum } from '../../../src/net/checksum.ts';
import { PROTOCOL, PacketView, putU16, putU32, u16, u32 } from '../../../src/net/packet.ts';
import { GUEST_MAC, udp } from './frames.ts';
import type { UdpFields } from './frames.ts';

export interface DhcpFields extends UdpFields {
  readonly xid: number;
  readonly op?: number;
  readonly secs?: number;
  readonly chaddr?: Uint8Array;
  readonly htype?: number;
  /** DISCOVER 1, OFFER 2, REQUEST 3, ACK 5. */
  readonly type?: number;
  readonly cookie?: number;
  readonly hasChecksum?: boolean;
}

/** Where xid and secs stand in such a frame without a VLAN tag. */
export const XID = 14 + 20 + 8 + 4;
export const SECS = XID + 4;

/** From a client to whoever is a server. */
export function dhcp(fields: DhcpFields): Uint8Array {
  const chaddr = fields.chaddr ?? GUEST_MAC;
  const message = new Uint8Array(244);
  message.set([fields.op ?? 1, fields.htype ?? 1, chaddr.length]);
  putU32(message, 4, fields.xid);
  putU16(message, 8, fields.secs ?? 0);
  message.set(chaddr.subarray(0, 16), 28);
  putU32(message, 236, fields.cookie ?? 0x63825363);
  message.set([53, 1, fields.type ?? 1, 255], 240);
  const frame = udp(message, {
    source: 0,
    destination: 0xffffffff,
    sourcePort: 68,
    destinationPort: 67,
    ...fields,
  });
  if (fields.hasChecksum !== false) putU16(frame, 40, udpSum(frame) || 0xffff);
  return frame;
}

export function dhcpReply(fields: DhcpFields): Uint8Array {
  return dhcp({
    op: 2,
    type: 2,
    source: 0x0a000202,
    destination: 0x0a00020f,
    sourcePort: 67,
    destinationPort: 68,
    ...fields,
  });
}

/** Its checksum field, and what it should be. The frame may have VLAN tags. */
export function udpChecksum(frame: Uint8Array, vnetBytes = 0): { said: number; right: number } {
  const view = new PacketView();
  view.parse(frame, vnetBytes);
  const plain = new Uint8Array(frame);
  putU16(plain, view.transportAt + 6, 0);
  return { said: u16(frame, view.transportAt + 6), right: udpSum(plain, vnetBytes) || 0xffff };
}

export function xidOf(frame: Uint8Array, vnetBytes = 0): number {
  const view = new PacketView();
  view.parse(frame, vnetBytes);
  return u32(frame, view.transportAt + 12);
}

/** Of a frame whose checksum field is zero. */
function udpSum(frame: Uint8Array, vnetBytes = 0): number {
  const view = new PacketView();
  view.parse(frame, vnetBytes);
  const pseudo =
    onesSum(frame, view.ipAt + 12, view.ipAt + 20) + PROTOCOL.UDP + view.ipEnd - view.transportAt;
  return ~onesSum(frame, view.transportAt, view.ipEnd, pseudo) & 0xffff;
}
