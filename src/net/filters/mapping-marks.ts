/**
 * A rewriter's mappings as stream marks, the one thing of a participant's that travels with a checkpoint. A promoted
 * secondary keeps mapping the connections it took over; when it protects itself with a new secondary, that one loads
 * the same guest and must map the same connections, or they die at the next failover. QEMU has no such transfer.
 *
 * Mark: `rewriter/<netdev>/` and as many entries as fit its length; `bytes` is their number. An entry is a digit, `4` or
 * `6`, and hexadecimal words of eight digits: source and destination address (one word each, or four), ports, state,
 * offset, clock (before the handshake is over: the stamp of the guest's SYN), the guest's initial sequence number.
 * Directions are those of the guest's output.
 */
import type { StreamMark } from '../../base/participant.ts';
import { FlowKey } from '../flow-key.ts';
import { ETHERTYPE, PROTOCOL } from '../packet.ts';
import type { HandshakeState } from './tcp-mapping.ts';
import { NO_STAMP, TcpMapping } from './tcp-mapping.ts';

/** The longest name of a stream that a peer takes. */
const MAX_STREAM_CHARS = 256;
const ENTRY = /^(?:4([0-9a-f]{56})|6([0-9a-f]{104}))/;
/** A peer may drop marks past 256; the newest connections are worth most. */
export const MAX_MAPPING_MARKS = 128;

/** The word `state`: two VLAN tags as in a FlowKey, the state of the handshake, whether the guest's SYN and its stamp are known. */
const VLAN_BITS = 0x03ff_ffff;
const STATE_SHIFT = 26;
const STATES: readonly HandshakeState[] = ['established', 'synReceived', 'synSent'];
const HAS_SYN = 1 << 28;
const HAS_STAMP = 1 << 29;

/** `mappings`: oldest first. */
export function encodeMappings(netdevId: string, mappings: Iterable<TcpMapping>): StreamMark[] {
  const start = prefix(netdevId);
  const established: string[] = [];
  const unfinished: string[] = [];
  for (const mapping of mappings) {
    if (mapping.isPlain || mapping.isClosed) continue;
    (mapping.state === 'established' ? established : unfinished).push(encode(mapping));
  }
  const marks: StreamMark[] = [];
  let group = '';
  let count = 0;
  // The newest first, and those that may never become connections last.
  for (const entry of [...unfinished, ...established].reverse()) {
    if (start.length + entry.length > MAX_STREAM_CHARS) break;
    if (start.length + group.length + entry.length > MAX_STREAM_CHARS) {
      marks.push({ stream: start + group, bytes: count });
      if (marks.length === MAX_MAPPING_MARKS) return marks;
      group = '';
      count = 0;
    }
    group += entry;
    count++;
  }
  if (count > 0) marks.push({ stream: start + group, bytes: count });
  return marks;
}

/** The mappings for `netdevId` among a peer's marks; what is malformed is left out. */
export function decodeMappings(netdevId: string, marks: readonly StreamMark[]): TcpMapping[] {
  const start = prefix(netdevId);
  const mappings: TcpMapping[] = [];
  for (const { stream } of marks.slice(0, MAX_MAPPING_MARKS * 2)) {
    if (!stream.startsWith(start)) continue;
    let rest = stream.slice(start.length);
    for (let entry = ENTRY.exec(rest); entry !== null; entry = ENTRY.exec(rest)) {
      mappings.push(decode(rest[0] === '6', entry[1] ?? entry[2] ?? ''));
      rest = rest.slice(entry[0].length);
    }
  }
  // Oldest first, as they were kept.
  return mappings.reverse();
}

function encode(mapping: TcpMapping): string {
  const { s0, s1, s2, s3, d0, d1, d2, d3, ports, vlan, etherType } = mapping.key;
  const isSix = etherType === ETHERTYPE.IPV6;
  const { guestSyn, guestStamp } = mapping;
  const hasStamp = mapping.state !== 'established' && guestStamp !== NO_STAMP;
  const state =
    vlan |
    (STATES.indexOf(mapping.state) << STATE_SHIFT) |
    (guestSyn === null ? 0 : HAS_SYN) |
    (hasStamp ? HAS_STAMP : 0);
  const addresses = isSix ? [s0, s1, s2, s3, d0, d1, d2, d3] : [s3, d3];
  const words = [
    ...addresses,
    ports,
    state,
    mapping.offset,
    hasStamp ? guestStamp : mapping.clock,
    guestSyn ?? 0,
  ];
  return (isSix ? '6' : '4') + words.map((word) => (word >>> 0).toString(16).padStart(8, '0')).join('');
}

function decode(isSix: boolean, digits: string): TcpMapping {
  let at = 0;
  const word = (): number => parseInt(digits.slice(at, (at += 8)), 16);
  const key = new FlowKey();
  key.etherType = isSix ? ETHERTYPE.IPV6 : ETHERTYPE.IPV4;
  key.protocol = PROTOCOL.TCP;
  if (isSix) {
    for (const field of ['s0', 's1', 's2'] as const) key[field] = word() | 0;
    key.s3 = word() | 0;
    for (const field of ['d0', 'd1', 'd2'] as const) key[field] = word() | 0;
  } else {
    key.s3 = word() | 0;
  }
  key.d3 = word() | 0;
  key.ports = word() | 0;
  const state = word();
  key.vlan = state & VLAN_BITS;
  const mapping = new TcpMapping(key);
  mapping.state = STATES[(state >>> STATE_SHIFT) & 3] ?? 'established';
  mapping.offset = word();
  const clock = word();
  if (state & HAS_STAMP) mapping.guestStamp = clock;
  else mapping.clock = clock;
  const guestSyn = word();
  mapping.guestSyn = state & HAS_SYN ? guestSyn : null;
  return mapping;
}

function prefix(netdevId: string): string {
  return `rewriter/${netdevId}/`;
}
