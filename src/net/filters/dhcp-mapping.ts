/**
 * The numbers of DHCP transactions in a secondary: its guest has drawn one, the server answers the primary's. Remembers
 * what the guest asked last, and gives the answer to that the guest's own number. Facts: RFC 2131 3.1, 4.1 and 4.4.1 (a
 * client drops what does not have its number). What the guest says is left as it is: it goes to the comparer, which does
 * not look at the number, or after a failover to the server.
 *
 * The first number that a server answers a message with is taken for the primary's, and no other until the guest's next
 * message: so what is late or astray stays what it is, and a wrong guess lasts for one message.
 */
import { updateChecksum } from '../checksum.ts';
import { BOOTP_OP, CHADDR_AT, XID_AT, dhcpMessageAt } from '../dhcp.ts';
import type { PacketView } from '../packet.ts';
import { putU16, putU32, u16, u32 } from '../packet.ts';
import { VNET_NEEDS_CSUM } from './tcp-rewrite.ts';

/** Clients of one guest, each an interface or a VLAN of it, whose last message is remembered. */
export const MAX_DHCP_CLIENTS = 8;

const UDP = { CHECKSUM_AT: 6, HEADER_BYTES: 8 } as const;

interface Outstanding {
  readonly vlan: number;
  readonly htype: number;
  /** hlen bytes of it. */
  readonly chaddr: Uint8Array;
  readonly xid: number;
  /** What the server has answered, or -1: nothing yet. */
  answeredXid: number;
}

export class DhcpMapping {
  /** The last one to ask is the last. */
  readonly #outstanding: Outstanding[] = [];

  /** Guest → outside. `isOwn`: the server hears this guest itself, so that its answer has the right number. */
  outgoing(frame: Uint8Array, view: PacketView, isOwn: boolean): void {
    const at = dhcpMessageAt(frame, view, BOOTP_OP.REQUEST);
    if (at < 0) return;
    const before = this.#find(frame, view, at);
    if (before !== null) this.#outstanding.splice(this.#outstanding.indexOf(before), 1);
    if (isOwn) return;
    if (this.#outstanding.length === MAX_DHCP_CLIENTS) this.#outstanding.shift();
    this.#outstanding.push({
      vlan: view.key.vlan,
      htype: frame[at + 1]!,
      chaddr: frame.slice(at + CHADDR_AT, at + CHADDR_AT + frame[at + 2]!),
      xid: u32(frame, at + XID_AT),
      answeredXid: -1,
    });
  }

  /** Outside → guest: the number to `write` into this frame, or -1 to leave it. */
  incoming(frame: Uint8Array, view: PacketView): number {
    const at = dhcpMessageAt(frame, view, BOOTP_OP.REPLY);
    const asked = at < 0 ? null : this.#find(frame, view, at);
    if (asked === null) return -1;
    const xid = u32(frame, at + XID_AT);
    if (asked.answeredXid < 0) asked.answeredXid = xid;
    return xid === asked.answeredXid && xid !== asked.xid ? asked.xid : -1;
  }

  forget(): void {
    this.#outstanding.length = 0;
  }

  #find(frame: Uint8Array, view: PacketView, at: number): Outstanding | null {
    for (const known of this.#outstanding) {
      if (known.vlan === view.key.vlan && known.htype === frame[at + 1] && isAddress(known.chaddr, frame, at))
        return known;
    }
    return null;
  }
}

/** Writes a transaction's number into a message that `incoming` has looked at, and brings the checksum along. */
export function writeXid(frame: Uint8Array, view: PacketView, xid: number): void {
  const xidAt = view.transportAt + UDP.HEADER_BYTES + XID_AT;
  const sumAt = view.transportAt + UDP.CHECKSUM_AT;
  const before = u32(frame, xidAt);
  putU32(frame, xidAt, xid);
  if (view.start > 0 && frame[0]! & VNET_NEEDS_CSUM) return;
  const checksum = u16(frame, sumAt);
  // Zero says that there is none; a sum of zero is sent as ones (RFC 768).
  if (checksum !== 0) putU16(frame, sumAt, updateChecksum(checksum, before, xid) || 0xffff);
}

function isAddress(chaddr: Uint8Array, frame: Uint8Array, at: number): boolean {
  if (frame[at + 2] !== chaddr.length) return false;
  for (let n = 0; n < chaddr.length; n++) if (chaddr[n] !== frame[at + CHADDR_AT + n]) return false;
  return true;
}
