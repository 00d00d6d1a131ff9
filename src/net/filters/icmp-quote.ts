/**
 * ICMP errors about a segment that the guest has sent quote its beginning, the sequence number included, and a host
 * believes an error only when that number is one it has in flight: without it a guest never learns that a path takes
 * smaller packets only. Finds that number. Facts: RFC 792, RFC 4443 2.4 and 3, RFC 5927 4.1.
 *
 * A quote of IPv6 with extension headers is not looked into, and one that is too short for the number says nothing.
 */
import { updateChecksum } from '../checksum.ts';
import { FlowKey } from '../flow-key.ts';
import type { PacketView } from '../packet.ts';
import { PROTOCOL, putU16, putU32, u16, u32 } from '../packet.ts';
import { VNET_NEEDS_CSUM } from './tcp-rewrite.ts';

const ICMP_HEADER_BYTES = 8;
const IPV4_MIN_BYTES = 20;
const IPV6_BYTES = 40;
/** Ports and sequence number: all that RFC 792 promises of what is behind the IP header. */
const QUOTED_TCP_BYTES = 8;
const FRAGMENT_OFFSET = 0x1fff;
/** Destination unreachable, source quench, time exceeded, parameter problem. */
const ICMP_ERRORS = [3, 4, 11, 12];
/** The types of ICMPv6 below it are errors. */
const ICMPV6_FIRST_QUERY = 128;

export class QuotedSegment {
  /** The connection, in the direction of the quoted segment. */
  readonly key = new FlowKey();
  #sequenceAt = 0;

  /** Whether `view` is of an ICMP error that quotes a TCP segment. */
  find(frame: Uint8Array, view: PacketView): boolean {
    if (view.fragment !== 0 || !view.lengthFits) return false;
    const at = view.transportAt;
    const quoteAt = at + ICMP_HEADER_BYTES;
    if (quoteAt + IPV4_MIN_BYTES > view.ipEnd) return false;
    const type = frame[at]!;
    if (view.network === 'ipv4') {
      if (view.protocol !== PROTOCOL.ICMP || !ICMP_ERRORS.includes(type)) return false;
      return this.#findIpv4(frame, view, quoteAt);
    }
    if (view.network !== 'ipv6' || view.protocol !== PROTOCOL.ICMPV6) return false;
    return type < ICMPV6_FIRST_QUERY && this.#findIpv6(frame, view, quoteAt);
  }

  /** Adds to the quoted number. */
  move(frame: Uint8Array, view: PacketView, offset: number): void {
    const before = u32(frame, this.#sequenceAt);
    const after = (before + offset) >>> 0;
    putU32(frame, this.#sequenceAt, after);
    if (view.start > 0 && frame[0]! & VNET_NEEDS_CSUM) return;
    const sumAt = view.transportAt + 2;
    putU16(frame, sumAt, updateChecksum(u16(frame, sumAt), before, after));
  }

  #findIpv4(frame: Uint8Array, view: PacketView, at: number): boolean {
    const headerBytes = (frame[at]! & 0xf) * 4;
    if (frame[at]! >>> 4 !== 4 || headerBytes < IPV4_MIN_BYTES || frame[at + 9] !== PROTOCOL.TCP)
      return false;
    if ((u16(frame, at + 6) & FRAGMENT_OFFSET) !== 0) return false;
    const key = this.key;
    key.clear();
    key.s3 = u32(frame, at + 12) | 0;
    key.d3 = u32(frame, at + 16) | 0;
    return this.#findTcp(frame, view, at + headerBytes);
  }

  #findIpv6(frame: Uint8Array, view: PacketView, at: number): boolean {
    if (at + IPV6_BYTES > view.ipEnd || frame[at]! >>> 4 !== 6 || frame[at + 6] !== PROTOCOL.TCP)
      return false;
    const key = this.key;
    key.clear();
    key.s0 = u32(frame, at + 8) | 0;
    key.s1 = u32(frame, at + 12) | 0;
    key.s2 = u32(frame, at + 16) | 0;
    key.s3 = u32(frame, at + 20) | 0;
    key.d0 = u32(frame, at + 24) | 0;
    key.d1 = u32(frame, at + 28) | 0;
    key.d2 = u32(frame, at + 32) | 0;
    key.d3 = u32(frame, at + 36) | 0;
    return this.#findTcp(frame, view, at + IPV6_BYTES);
  }

  #findTcp(frame: Uint8Array, view: PacketView, at: number): boolean {
    if (at + QUOTED_TCP_BYTES > view.ipEnd) return false;
    const key = this.key;
    key.etherType = view.key.etherType;
    key.vlan = view.key.vlan;
    key.protocol = PROTOCOL.TCP;
    key.ports = u32(frame, at) | 0;
    this.#sequenceAt = at + 4;
    return true;
  }
}
