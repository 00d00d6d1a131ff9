/**
 * Conversations through a rewriter: what the client says (`in`), what a secondary's guest says (`out`), and what is left
 * of it in words that name no number: `P` is the primary's initial sequence number, `S` the secondary's, `C` the client's.
 */
import { PacketView } from '../../../src/net/packet.ts';
import type { Carrier } from '../../unit/net/carriers.ts';
import {
  carried,
  carriedToGuest,
  icmpChecksum,
  options,
  sack,
  stamps,
  summed,
  tooLong,
} from '../../unit/net/carriers.ts';
import type { TcpFields } from '../../unit/net/frames.ts';
import { arp, hasRightChecksum, icmp, ipv4, tcp, udp } from '../../unit/net/frames.ts';

export const P = 0xfffffff0;
export const S = 0x12345678;
export const C = 500_000_000;

export type Step =
  | { in: TcpFields }
  | { out: TcpFields }
  | { raw: Uint8Array }
  | { tooLong: TcpFields }
  | 'checkpoint'
  | 'flood';

export interface Conversation {
  readonly carrier?: Carrier;
  readonly steps: readonly Step[];
}

/** The client opens; the secondary's guest answers with S, the primary's with P. */
const OPEN: readonly Step[] = [
  { in: { seq: C, flags: 'S' } },
  { out: { seq: S, ack: C + 1, flags: 'S' } },
  { in: { seq: C + 1, ack: P + 1 } },
];
const TALK: readonly Step[] = [
  { in: { seq: C + 1, ack: P + 1, payload: 'question' } },
  { out: { seq: S + 1, ack: C + 9, payload: 'answer of an odd length' } },
  { in: { seq: C + 9, ack: P + 24 } },
];
const CLOSED: readonly Step[] = [
  { in: { seq: C + 1, ack: P + 1, flags: 'F' } },
  { out: { seq: S + 1, ack: C + 2 } },
  { out: { seq: S + 1, ack: C + 2, flags: 'F' } },
  { in: { seq: C + 2, ack: P + 2 } },
];
const stamped = (value: number, echo: number) => ({ options: options(...stamps(value, echo)) });
const over = (carrier: Carrier): Conversation => ({ carrier, steps: [...OPEN, ...TALK] });

/** A frame whose checksum was wrong before it came here. */
function damaged(): Uint8Array {
  const frame = carriedToGuest('ipv4', { seq: C + 1, ack: P + 1, payload: 'damaged' });
  frame[frame.length - 1]! ^= 1;
  return frame;
}

export const CONVERSATIONS: Readonly<Record<string, Conversation>> = {
  'the client opens, and both talk': { steps: [...OPEN, ...TALK] },
  'both guests chose the same number': {
    steps: [
      OPEN[0]!,
      { out: { seq: P, ack: C + 1, flags: 'S' } },
      OPEN[2]!,
      { out: { seq: P + 1, ack: C + 1 } },
    ],
  },
  'a SYN and data are repeated': {
    steps: [OPEN[0]!, OPEN[0]!, OPEN[1]!, OPEN[1]!, OPEN[2]!, ...TALK, ...TALK],
  },
  'a SYN cookie changes with a repeated SYN': {
    steps: [OPEN[0]!, { out: { seq: S - 4096, ack: C + 1, flags: 'S' } }, ...OPEN, ...TALK],
  },
  'the client closes first': { steps: [...OPEN, ...CLOSED] },
  'the guest closes first, half of it stays open': {
    steps: [
      ...OPEN,
      { out: { seq: S + 1, ack: C + 1, flags: 'F' } },
      { in: { seq: C + 1, ack: P + 2, payload: 'more' } },
      { out: { seq: S + 2, ack: C + 5 } },
      { in: { seq: C + 5, ack: P + 2, flags: 'F' } },
      { out: { seq: S + 2, ack: C + 6 } },
    ],
  },
  'the port is used again': {
    steps: [
      ...OPEN,
      ...CLOSED,
      { in: { seq: C + 70_000, flags: 'S' } },
      { out: { seq: S + 9, ack: C + 70_001, flags: 'S' } },
      { in: { seq: C + 70_001, ack: P + 501 } },
      { out: { seq: S + 10, ack: C + 70_001, payload: 'anew' } },
    ],
  },
  'keep-alive and window probes': {
    steps: [
      ...OPEN,
      { in: { seq: C, ack: P + 1 } },
      { out: { seq: S, ack: C + 1 } },
      { out: { seq: S + 1, ack: C + 1, window: 0 } },
    ],
  },
  'the client resets': {
    steps: [...OPEN, { in: { seq: C + 1, flags: 'R' } }, { in: { seq: C + 1, ack: P + 1, flags: 'R' } }],
  },
  'the guest resets, and says what it has received': {
    steps: [...OPEN, { out: { seq: S + 1, ack: C + 1, flags: 'R' } }],
  },
  'UDP, ICMP and ARP': { steps: [{ raw: udp('x') }, { raw: icmp('x') }, { raw: arp() }] },
  'a short packet, padded': {
    steps: [
      ...OPEN,
      { out: { seq: S + 1, ack: C + 1, padTo: 60 } },
      { in: { seq: C + 1, ack: P + 1, padTo: 60 } },
    ],
  },
  'an unknown connection': { steps: [{ out: { seq: S, ack: C } }, { in: { seq: C, ack: P } }] },
  'a checkpoint is loaded': {
    steps: [...OPEN, 'checkpoint', { out: { seq: P + 1, ack: C + 1 } }, { in: { seq: C + 1, ack: P + 1 } }],
  },

  'the guest opens': {
    steps: [
      { out: { seq: S, flags: 'S' } },
      { in: { seq: C, ack: P + 1, flags: 'S' } },
      { out: { seq: S + 1, ack: C + 1 } },
    ],
  },
  'the guest opens and is refused': {
    steps: [{ out: { seq: S, flags: 'S' } }, { in: { seq: 0, ack: P + 1, flags: 'R' } }],
  },
  'both open at once': {
    steps: [
      { out: { seq: S, flags: 'S' } },
      { in: { seq: C, flags: 'S' } },
      { out: { seq: S, ack: C + 1, flags: 'S' } },
      { in: { seq: C, ack: P + 1, flags: 'S' } },
      { out: { seq: S + 1, ack: C + 1 } },
    ],
  },
  'a SYN+ACK is repeated after the handshake': { steps: [...OPEN, OPEN[1]!] },
  'selective acknowledgments': {
    steps: [
      ...OPEN,
      { in: { seq: C + 1, ack: P + 1, options: options(1, 1, ...sack(P + 101, P + 201)) } },
      { in: { seq: C + 1, ack: P + 1, options: options(1, ...sack(P + 101, P + 201)) } },
    ],
  },
  timestamps: {
    steps: [
      { in: { seq: C, flags: 'S', ...stamped(10, 0) } },
      { out: { seq: S, ack: C + 1, flags: 'S', ...stamped(4000, 10) } },
      { in: { seq: C + 1, ack: P + 1, ...stamped(11, 5000) } },
      { out: { seq: S + 1, ack: C + 1, ...stamped(4001, 11) } },
    ],
  },
  'the guest resets without an acknowledgment': { steps: [...OPEN, { out: { seq: S + 1, flags: 'R' } }] },
  'the guest refuses a SYN under an old name': {
    steps: [
      ...OPEN,
      { in: { seq: C + 70_000, flags: 'S' } },
      { out: { seq: 0, ack: C + 70_001, flags: 'R' } },
    ],
  },
  'a stray SYN in the middle of a connection': {
    steps: [
      ...OPEN,
      { in: { seq: C + 70_000, flags: 'S' } },
      { out: { seq: S + 1, ack: C + 1 } },
      { in: { seq: C + 1, ack: P + 1 } },
      { out: { seq: S + 1, ack: C + 1 } },
    ],
  },
  'a late segment of an older connection during the handshake': {
    steps: [OPEN[0]!, OPEN[1]!, { in: { seq: C - 90_000, ack: P + 901 } }, OPEN[2]!],
  },
  'a checksum that was wrong before': { steps: [...OPEN, { raw: damaged() }] },
  'IPv4 options': over('ipv4 with options'),
  'a VLAN tag': over('ipv4 in a vlan'),
  IPv6: over('ipv6'),
  'IPv6 with extension headers': over('ipv6 with extension headers'),
  'a first fragment': {
    steps: [
      ...OPEN,
      {
        raw: ipv4(6, tcpSegment({ seq: C + 1, ack: P + 1 }), {
          source: 0x0a000202,
          destination: 0x0a00020f,
          fragment: 0x2000,
        }),
      },
    ],
  },
  'an ICMP error about a segment of the guest': {
    steps: [...OPEN, { tooLong: { seq: P + 1, ack: C + 1, payload: 'long' } }],
  },
  'a flood of SYNs': { steps: [...OPEN, 'flood', { out: { seq: S + 1, ack: C + 1 } }] },
};

function tcpSegment(fields: TcpFields): Uint8Array {
  return tcp({
    source: 0x0a000202,
    destination: 0x0a00020f,
    sourcePort: 40_000,
    destinationPort: 80,
    ...fields,
  }).subarray(34);
}

/** The frame of a step, with the client's port in it: each conversation has one of its own. */
export function frameOf(step: Exclude<Step, string>, carrier: Carrier, port: number): Uint8Array {
  if ('out' in step) return carried(carrier, { destinationPort: port, ...step.out });
  if ('in' in step) return carriedToGuest(carrier, { sourcePort: port, ...step.in });
  if ('tooLong' in step) return tooLong(carried(carrier, { destinationPort: port, ...step.tooLong }));
  const frame = new Uint8Array(step.raw);
  const view = new PacketView();
  view.parse(frame);
  if (view.protocol !== 6) return frame;
  const wasRight = hasRightChecksum(frame);
  frame.set([port >>> 8, port & 0xff], view.transportAt);
  return wasRight || !view.isTcp ? summed(frame) : frame;
}

/** What TCP says in a frame, in words; where the bytes tell more than the words can, `other bytes` are added. */
export function words(frame: Uint8Array | undefined, given: Uint8Array): string {
  if (frame === undefined) return 'nothing';
  const view = new PacketView();
  view.parse(frame);
  const isFragment = view.fragment !== 0 && view.protocol === 6;
  if (view.protocol === 1 && frame[view.transportAt] === 3) {
    const at = view.transportAt + 32;
    const sum = icmpChecksum(frame, view.transportAt, false);
    const isRight = sum === ((frame[view.transportAt + 2]! << 8) | frame[view.transportAt + 3]!);
    return `quoted seq ${named(new DataView(frame.buffer, frame.byteOffset).getUint32(at))}${isRight ? '' : ', wrong checksum'}`;
  }
  if (!view.isTcp && !isFragment) return Buffer.from(frame).equals(given) ? 'as given' : 'other bytes';
  const read = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  const tcpAt = view.transportAt;
  const said: string[] = [];
  const flags = frame[tcpAt + 13]!;
  if (frame[tcpAt]! === 0 && frame[tcpAt + 1] === 80) said.push(`seq ${named(read.getUint32(tcpAt + 4))}`);
  else if (flags & 16) said.push(`ack ${named(read.getUint32(tcpAt + 8))}`);
  for (let at = tcpAt + 20; !isFragment && at < view.payloadAt && frame[at] !== 0;) {
    const length = frame[at] === 1 ? 1 : Math.max(2, frame[at + 1]!);
    if (frame[at] === 5) said.push(`sack ${named(read.getUint32(at + 2))}..${named(read.getUint32(at + 6))}`);
    if (frame[at] === 8) said.push(`stamps ${read.getUint32(at + 2)} ${read.getUint32(at + 6)}`);
    at += length;
  }
  if (isFragment) {
    const sum = (bytes: Uint8Array): number => (bytes[tcpAt + 16]! << 8) | bytes[tcpAt + 17]!;
    said.push(sum(frame) === sum(given) ? 'old checksum' : 'new checksum');
  } else if (!hasRightChecksum(frame)) {
    said.push('wrong checksum');
  }
  return said.join(', ');
}

function named(value: number): string {
  if (value === 0) return '0';
  for (const [name, base] of Object.entries({ P, S, C })) {
    const distance = (value - base) | 0;
    if (Math.abs(distance) <= 100_000)
      return distance === 0 ? name : `${name}${distance > 0 ? '+' : '-'}${Math.abs(distance)}`;
  }
  return 'another number';
}
