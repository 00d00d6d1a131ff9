/**
 * What of a frame is compared, with what, and under which key. The secondary must have said the same
 *
 *  - bytes of the stream, for TCP over IPv4 or IPv6 (tcp.ts). The rest of the headers is held against nobody: IP
 *    identification, TTL, flow label, VLAN priority, checksums, options, time stamps, windows;
 *  - IP payload, for all other IP packets: UDP, ICMP, fragments, tunnels (datagram.ts). IPv6 extension headers are
 *    payload, but for the identification in a fragment header. The UDP checksum is held against nobody: where the NIC
 *    is to fill it in it is not one yet; nor are xid and secs of a DHCP client's message: each copy has its own, the
 *    rewriter gives it answers with that (dhcp-mapping.ts), and no state of an outside client's hangs on either;
 *  - ARP packet, neighbour discovery and group membership message (statement.ts), each kind in a flow of its own, so
 *    that one that waits holds up no echo reply;
 *  - frame from the Ethernet header on, for everything else, and for IP and ARP whose lengths do not fit.
 *
 * One key never carries two classes: `kind` keeps apart what has the same addresses.
 */
import { BOOTP_OP, XID_AT, dhcpMessageAt } from '../dhcp.ts';
import { MALFORMED_KIND } from '../flow-key.ts';
import { ETHERTYPE, MAX_VNET_HEADER_BYTES, PROTOCOL } from '../packet.ts';
import type { PacketView } from '../packet.ts';
import type { HeldPacket } from './held-packet.ts';

const KIND = { PIECE: 1, MALFORMED: MALFORMED_KIND, ICMPV6_STATEMENT: 256 } as const;
const IGMP = 2;
const UDP_HEADER_BYTES = 8;
const UDP_CHECKSUM_AT = 6;
const IDENTIFICATION_AT = 4;

/** Fills in what of `packet` is compared. `view` has parsed it; its key becomes that of the packet's flow. */
export function classify(view: PacketView, packet: HeldPacket): void {
  packet.ethernetAt = view.start;
  packet.identificationAt = -1;
  packet.checksumAt = -1;
  packet.transactionAt = -1;
  if (view.network === 'arp') classifyArp(view, packet);
  else if (view.network !== 'none' && view.lengthFits) classifyIp(view, packet);
  else classifyFrame(view, packet);
}

function classifyIp(view: PacketView, packet: HeldPacket): void {
  packet.to = view.ipEnd;
  if (view.isTcp) {
    packet.flowClass = 'stream';
    packet.from = view.payloadAt;
    return;
  }
  const { key } = view;
  packet.flowClass = 'datagram';
  packet.from = view.ipPayloadAt;
  if (view.fragmentHeaderAt >= 0) packet.identificationAt = view.fragmentHeaderAt + IDENTIFICATION_AT;
  if (view.fragment !== 0 || view.protocol === PROTOCOL.TCP) {
    // Behind the IP header there may be payload, and no ports.
    key.ports = 0;
    key.kind = KIND.PIECE;
  } else if (view.protocol === PROTOCOL.UDP) {
    if (view.transportAt + UDP_HEADER_BYTES > view.ipEnd) return;
    packet.checksumAt = view.transportAt + UDP_CHECKSUM_AT;
    const messageAt = dhcpMessageAt(packet.bytes, view, BOOTP_OP.REQUEST);
    if (messageAt >= 0) packet.transactionAt = messageAt + XID_AT;
  } else if (view.protocol === PROTOCOL.ICMPV6) {
    const type = view.transportAt < view.ipEnd ? packet.bytes[view.transportAt]! : 0;
    if (!isStatement(type)) return;
    packet.flowClass = 'statement';
    key.kind = KIND.ICMPV6_STATEMENT + type;
  } else if (view.protocol === IGMP) {
    packet.flowClass = 'statement';
  }
}

/** The Ethernet addresses are part of what an ARP packet says; so they are in the key. */
function classifyArp(view: PacketView, packet: HeldPacket): void {
  const { key } = view;
  const [source, destination] = [key.s3, key.d3];
  view.keyByStations(packet.bytes);
  [key.s0, key.s1, key.d0, key.d1] = [key.s2, key.s3, key.d2, key.d3];
  [key.s2, key.s3, key.d2, key.d3] = [0, source, 0, destination];
  packet.flowClass = 'statement';
  packet.from = view.ipAt;
  packet.to = view.ipEnd;
}

function classifyFrame(view: PacketView, packet: HeldPacket): void {
  const { key } = view;
  packet.flowClass = 'datagram';
  // A vnet header that is no such thing belongs to what is compared.
  if (packet.vnetHdrLen > MAX_VNET_HEADER_BYTES || view.start > packet.end) packet.ethernetAt = packet.start;
  packet.from = packet.ethernetAt;
  packet.to = packet.end;
  packet.fragment = 0;
  if (view.network !== 'none') {
    // Its addresses may be anything.
    key.s0 = key.s1 = key.d0 = key.d1 = 0;
    key.ports = 0;
    key.protocol = 0;
    view.keyByStations(packet.bytes);
  }
  const { etherType } = key;
  if (etherType === ETHERTYPE.IPV4 || etherType === ETHERTYPE.IPV6 || etherType === ETHERTYPE.ARP) {
    key.kind = KIND.MALFORMED;
  }
}

/** Neighbour discovery (RFC 4861: 133 to 137) and listener discovery (RFC 2710: 130 to 132, RFC 3810: 143). */
function isStatement(type: number): boolean {
  return (type >= 130 && type <= 137) || type === 143;
}
