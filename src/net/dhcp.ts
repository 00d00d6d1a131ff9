/**
 * DHCP messages over IPv4, as far as their transaction matters: who chose its number, and where that stands. A client
 * draws it from its clock or at random, so two copies of one guest draw two. The comparer holds it against nobody
 * (compare/classify.ts), and the secondary's rewriter gives each copy replies with its own (filters/dhcp-mapping.ts).
 * Facts: RFC 2131 2 and 3, RFC 951. What is not wholly such a message is none: a packet as any other.
 */
import type { PacketView } from './packet.ts';
import { PROTOCOL, u16, u32 } from './packet.ts';

export const BOOTP_OP = { REQUEST: 1, REPLY: 2 } as const;
const CLIENT_PORT = 68;
const SERVER_PORT = 67;
/** The ports of a FlowKey, in the two directions. */
const TO_SERVER = (CLIENT_PORT << 16) | SERVER_PORT;
const TO_CLIENT = (SERVER_PORT << 16) | CLIENT_PORT;
const UDP_HEADER_BYTES = 8;
/** Fields of a message, from its beginning: op, htype, hlen, hops, xid, secs, ..., chaddr, sname, file, the cookie. */
export const XID_AT = 4;
/** The transaction's number, and the seconds since the client began: side by side. */
export const TRANSACTION_BYTES = 6;
export const CHADDR_AT = 28;
export const MAX_CHADDR_BYTES = 16;
const COOKIE_AT = 236;
const COOKIE = 0x63825363;
const MIN_MESSAGE_BYTES = COOKIE_AT + 4;

/** Where the message begins in the frame that `view` has parsed, or -1: neither of that kind, nor whole. */
export function dhcpMessageAt(frame: Uint8Array, view: PacketView, op: 1 | 2): number {
  if (view.key.ports !== (op === BOOTP_OP.REQUEST ? TO_SERVER : TO_CLIENT)) return -1;
  // Ports are set for whole, unfragmented packets only.
  if (view.network !== 'ipv4' || view.protocol !== PROTOCOL.UDP) return -1;
  const datagramAt = view.transportAt;
  const at = datagramAt + UDP_HEADER_BYTES;
  if (at + MIN_MESSAGE_BYTES > view.ipEnd || u16(frame, datagramAt + 4) !== view.ipEnd - datagramAt)
    return -1;
  if (frame[at] !== op || u32(frame, at + COOKIE_AT) !== COOKIE) return -1;
  const addressBytes = frame[at + 2]!;
  return addressBytes > 0 && addressBytes <= MAX_CHADDR_BYTES ? at : -1;
}
