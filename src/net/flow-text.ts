/**
 * Flows and addresses in words, for logs, events and queries. IPv6 addresses as RFC 5952 (4) writes them. Not for hot
 * paths.
 */
import { MALFORMED_KIND } from './flow-key.ts';
import type { FlowKey } from './flow-key.ts';

const ETHERTYPE_IPV4 = 0x0800;
const ETHERTYPE_ARP = 0x0806;
const ETHERTYPE_IPV6 = 0x86dd;
const VLAN_TAG = 0x1000;
const VLAN_ID_BITS = 0xfff;

const PROTOCOL_NAMES: Readonly<Record<number, string>> = {
  1: 'icmp',
  6: 'tcp',
  17: 'udp',
  33: 'dccp',
  47: 'gre',
  50: 'esp',
  51: 'ah',
  58: 'icmpv6',
  132: 'sctp',
  136: 'udplite',
};

/** An IPv4 address held as u32 (or i32), in dotted form. */
export function ipv4Text(address: number): string {
  return `${address >>> 24}.${(address >>> 16) & 0xff}.${(address >>> 8) & 0xff}.${address & 0xff}`;
}

/** Four words, most significant first. The longest run of zero groups is shortened, the first of equals. */
export function ipv6Text(a: number, b: number, c: number, d: number): string {
  const groups = [a, b, c, d].flatMap((word) => [word >>> 16, word & 0xffff]);
  let best = -1;
  let bestLength = 1;
  for (let at = 0; at < groups.length; at++) {
    let length = 0;
    while (at + length < groups.length && groups[at + length] === 0) length++;
    if (length > bestLength) {
      best = at;
      bestLength = length;
    }
  }
  const text = (from: number, to?: number): string =>
    groups
      .slice(from, to)
      .map((group) => group.toString(16))
      .join(':');
  return best < 0 ? text(0) : `${text(0, best)}::${text(best + bestLength)}`;
}

/** Six bytes: the low half of `high`, then `low`. */
export function macText(high: number, low: number): string {
  const bytes = [high >>> 8, high, low >>> 24, low >>> 16, low >>> 8, low];
  return bytes.map((byte) => (byte & 0xff).toString(16).padStart(2, '0')).join(':');
}

/** What carries the flow: `tcp`, `icmpv6`, `arp`, `ip-99`, `ethertype-0x88cc`. */
export function protocolText({ etherType, protocol }: FlowKey): string {
  if (etherType === ETHERTYPE_ARP) return 'arp';
  if (etherType !== ETHERTYPE_IPV4 && etherType !== ETHERTYPE_IPV6) {
    return `ethertype-0x${etherType.toString(16).padStart(4, '0')}`;
  }
  return PROTOCOL_NAMES[protocol] ?? `ip-${protocol}`;
}

/** The VLANs, outermost first. */
export function vlansOf(key: FlowKey): number[] {
  const tags = [key.vlan >>> 13, key.vlan];
  return tags.filter((tag) => (tag & VLAN_TAG) !== 0).map((tag) => tag & VLAN_ID_BITS);
}

export function sourceText(key: FlowKey): string {
  if (isStation(key)) return macText(key.s2, key.s3);
  return isSix(key) ? ipv6Text(key.s0, key.s1, key.s2, key.s3) : ipv4Text(key.s3);
}

export function destinationText(key: FlowKey): string {
  if (isStation(key)) return macText(key.d2, key.d3);
  return isSix(key) ? ipv6Text(key.d0, key.d1, key.d2, key.d3) : ipv4Text(key.d3);
}

/** `tcp/10.0.2.15:80>10.0.2.2:40000`, `udp/[fd00::1]:53>[fd00::2]:99 vlan 5`, `arp/10.0.2.15>10.0.2.2`. */
export function flowText(key: FlowKey): string {
  const end = (address: string, port: number): string => {
    if (key.ports === 0) return address;
    return isSix(key) ? `[${address}]:${port}` : `${address}:${port}`;
  };
  const from = end(sourceText(key), key.ports >>> 16);
  const to = end(destinationText(key), key.ports & 0xffff);
  const vlans = vlansOf(key).map((id) => ` vlan ${id}`);
  return `${protocolText(key)}/${from}>${to}${vlans.join('')}`;
}

function isSix({ etherType }: FlowKey): boolean {
  return etherType === ETHERTYPE_IPV6;
}

/** Known by its Ethernet addresses. */
function isStation(key: FlowKey): boolean {
  if (key.kind === MALFORMED_KIND) return true;
  const { etherType } = key;
  if (etherType === ETHERTYPE_IPV6) return false;
  if (etherType !== ETHERTYPE_IPV4 && etherType !== ETHERTYPE_ARP) return true;
  // From a PacketView, a malformed IPv4 or ARP packet.
  return (key.s2 | key.d2) !== 0 && (key.s3 | key.d3) !== 0;
}
