/**
 * The cases of docs/compare.md: frames of both guests by the name of the table's row. Each has a peer of its own, so that
 * one comparer can take them all. Where nothing else is said, the secondary's packets have another IP id, TTL and window
 * than the primary's, as two guests' have.
 */
import { PROTOCOL, putU16 } from '../../../src/net/packet.ts';
import { dhcp } from '../../unit/net/dhcp-frames.ts';
import type { DhcpFields } from '../../unit/net/dhcp-frames.ts';
import { GUEST_MAC, bytesOf, ethernet, ipv4, ipv6, tcp, udp, vlan } from '../../unit/net/frames.ts';
import type { Ipv4Fields, TcpFields, UdpFields } from '../../unit/net/frames.ts';
import type { Outcome, Step } from './compare-bench.ts';
import { hexOf } from './compare-bench.ts';

export interface CompareCase {
  readonly name: string;
  readonly steps: (to: Peer) => Step[];
}

/** Builds frames to one peer. */
export class Peer {
  readonly destination: number;
  readonly #number: number;

  constructor(number: number) {
    this.#number = number;
    this.destination = 0x0a010000 + number;
  }

  p(fields: TcpFields): Step {
    return ['primary', tcp({ destination: this.destination, ...fields })];
  }

  s(fields: TcpFields): Step {
    return ['secondary', tcp({ destination: this.destination, id: 77, ttl: 9, window: 55, ...fields })];
  }

  pUdp(payload: string | Uint8Array, fields: UdpFields = {}): Step {
    return ['primary', udp(payload, { destination: this.destination, ...fields })];
  }

  sUdp(payload: string | Uint8Array, fields: UdpFields = {}): Step {
    return ['secondary', udp(payload, { destination: this.destination, id: 77, ttl: 9, ...fields })];
  }

  /** A client's message to this peer as the server. */
  dhcp(fields: DhcpFields): Uint8Array {
    return dhcp({ destination: this.destination, ...fields });
  }

  ip(protocol: number, body: string | Uint8Array, fields: Ipv4Fields = {}): Uint8Array {
    return ipv4(protocol, bytesOf(body), { destination: this.destination, ...fields });
  }

  /** An IPv6 packet to this peer. */
  ip6(nextHeader: number, body: Uint8Array, hopLimit = 64): Uint8Array {
    const frame = ipv6(nextHeader, body);
    frame[14 + 7] = hopLimit;
    putU16(frame, 14 + 38, 0x1000 + this.#number);
    return frame;
  }

  tcp6(fields: TcpFields, hopLimit = 64): Uint8Array {
    return this.ip6(PROTOCOL.TCP, tcp(fields).subarray(34), hopLimit);
  }

  udp6(payload: string, hopLimit = 64): Uint8Array {
    return this.ip6(PROTOCOL.UDP, udp(payload).subarray(34), hopLimit);
  }

  arp(operation: number, targetMac = 0): Uint8Array {
    const body = new Uint8Array(46);
    body.set([0, 1, 8, 0, 6, 4, 0, operation]);
    body.set(GUEST_MAC, 8);
    body.set([10, 0, 2, 15], 14);
    body.fill(targetMac, 18, 24);
    body.set([10, 1, this.#number >>> 8, this.#number & 0xff], 24);
    return ethernet(0x0806, body);
  }
}

const both = (frame: Uint8Array, twin = frame): Step[] => [
  ['primary', frame],
  ['secondary', twin],
];
const alone = (frame: Uint8Array): Step[] => [['primary', frame]];

/** `frame` with some bytes replaced. */
function patched(frame: Uint8Array, at: number, ...bytes: number[]): Uint8Array {
  const copy = Uint8Array.from(frame);
  copy.set(bytes, at);
  return copy;
}

const ICMP_ECHO = Uint8Array.from([8, 0, 0, 0, 0, 1, 0, 1, 112, 105, 110, 103]);
const MORE = 0x2000;
const TCP_AT = 34;

export const TCP_CASES: readonly CompareCase[] = [
  {
    name: 'SYN and ACK of both, other initial numbers',
    steps: (to) => [
      to.p({ seq: 1000, ack: 501, flags: 'S' }),
      to.s({ seq: 9000, ack: 501, flags: 'S' }),
      to.p({ seq: 1001, ack: 511 }),
      to.s({ seq: 1001, ack: 511 }),
    ],
  },
  { name: 'SYN of the primary, nothing of the secondary', steps: (to) => [to.p({ seq: 1000, flags: 'S' })] },
  {
    name: 'SYN of the primary, some other segment of the secondary',
    steps: (to) => [to.p({ seq: 1000, flags: 'S' }), to.s({ seq: 500, ack: 1 })],
  },
  {
    name: 'SYN of both to one place, from other source ports',
    steps: (to) => [
      to.p({ seq: 1000, flags: 'S', sourcePort: 50_001, destinationPort: 80 }),
      to.s({ seq: 9000, flags: 'S', sourcePort: 50_002, destinationPort: 80 }),
    ],
  },
  {
    name: 'SYN of both, then a SYN with another number of both',
    steps: (to) => [
      to.p({ seq: 1000, flags: 'S' }),
      to.s({ seq: 1000, flags: 'S' }),
      to.p({ seq: 70_000, flags: 'S' }),
      to.s({ seq: 80_000, flags: 'S' }),
    ],
  },
  {
    name: 'SYN with other options (MSS, window scale)',
    steps: (to) => [
      to.p({ seq: 1000, ack: 7, flags: 'S', options: Uint8Array.of(2, 4, 5, 180) }),
      to.s({ seq: 2000, ack: 7, flags: 'S', options: Uint8Array.of(2, 4, 4, 0, 3, 3, 7, 0) }),
    ],
  },
  {
    name: 'the same segment',
    steps: (to) => [to.p({ seq: 100, ack: 1, payload: 'abc' }), to.s({ seq: 100, ack: 1, payload: 'abc' })],
  },
  {
    name: 'the same segment, the secondary first',
    steps: (to) => [to.s({ seq: 100, ack: 1, payload: 'abc' }), to.p({ seq: 100, ack: 1, payload: 'abc' })],
  },
  {
    name: 'one segment against two',
    steps: (to) => [
      to.p({ seq: 100, ack: 1, payload: '0123456789' }),
      to.s({ seq: 100, ack: 1, payload: '0123' }),
      to.s({ seq: 104, ack: 1, payload: '456789' }),
    ],
  },
  {
    name: 'two segments against one',
    steps: (to) => [
      to.p({ seq: 100, ack: 1, payload: '0123' }),
      to.p({ seq: 104, ack: 1, payload: '456789' }),
      to.s({ seq: 100, ack: 1, payload: '0123456789' }),
    ],
  },
  {
    name: 'two segments against two that are cut elsewhere',
    steps: (to) => [
      to.p({ seq: 100, ack: 1, payload: '0123' }),
      to.p({ seq: 104, ack: 1, payload: '456789' }),
      to.s({ seq: 100, ack: 1, payload: '012345' }),
      to.s({ seq: 106, ack: 1, payload: '6789' }),
    ],
  },
  {
    name: 'segments out of order, of either side',
    steps: (to) => [
      to.p({ seq: 97, ack: 1, payload: 'xyz' }),
      to.s({ seq: 97, ack: 1, payload: 'xyz' }),
      to.p({ seq: 103, ack: 1, payload: 'def' }),
      to.p({ seq: 100, ack: 1, payload: 'abc' }),
      to.s({ seq: 103, ack: 1, payload: 'def' }),
      to.s({ seq: 100, ack: 1, payload: 'abc' }),
    ],
  },
  {
    name: 'segments out of order, of either side, the first ones of a connection that was not seen to begin',
    steps: (to) => [
      to.p({ seq: 103, ack: 1, payload: 'def' }),
      to.p({ seq: 100, ack: 1, payload: 'abc' }),
      to.s({ seq: 103, ack: 1, payload: 'def' }),
      to.s({ seq: 100, ack: 1, payload: 'abc' }),
    ],
  },
  {
    name: 'sequence numbers that wrap',
    steps: (to) => [
      to.p({ seq: 0xffff_fffe, ack: 1, payload: '0123456789' }),
      to.s({ seq: 0xffff_fffe, ack: 1, payload: '01' }),
      to.s({ seq: 0, ack: 1, payload: '23456789' }),
    ],
  },
  {
    name: 'three segments that wait, the last one first; then a checkpoint',
    steps: (to) => [106, 100, 103].map((seq) => to.p({ seq, ack: 1, payload: 'abc' })),
  },
  {
    name: 'different bytes',
    steps: (to) => [to.p({ seq: 100, ack: 1, payload: 'abc' }), to.s({ seq: 100, ack: 1, payload: 'abX' })],
  },
  {
    name: 'different bytes behind equal ones, cut elsewhere',
    steps: (to) => [
      to.p({ seq: 100, ack: 1, payload: '012345' }),
      to.s({ seq: 100, ack: 1, payload: '012' }),
      to.s({ seq: 103, ack: 1, payload: '3X5' }),
    ],
  },
  {
    name: 'five different segments, one after the other',
    steps: (to) =>
      [0, 1, 2, 3, 4].flatMap((n) => [
        to.p({ seq: 100 + n, ack: 1, payload: 'p' }),
        to.s({ seq: 100 + n, ack: 1, payload: 's' }),
      ]),
  },
  {
    name: 'equal bytes at a far sequence number',
    steps: (to) => [
      to.p({ seq: 100, ack: 1, payload: 'abc' }),
      to.s({ seq: 5000, ack: 1, payload: 'abcdef' }),
    ],
  },
  {
    name: 'a repeated segment of the primary, nothing more of the secondary',
    steps: (to) => [
      to.p({ seq: 100, ack: 1, payload: 'abc' }),
      to.s({ seq: 100, ack: 1, payload: 'abc' }),
      to.p({ seq: 100, ack: 1, payload: 'abc', id: 2 }),
    ],
  },
  {
    name: 'a repeated segment of the secondary',
    steps: (to) => [
      to.p({ seq: 100, ack: 1, payload: 'abc' }),
      to.s({ seq: 100, ack: 1, payload: 'abc' }),
      to.s({ seq: 100, ack: 1, payload: 'abc' }),
      to.p({ seq: 103, ack: 1, payload: 'def' }),
      to.s({ seq: 103, ack: 1, payload: 'def' }),
    ],
  },
  {
    name: 'a pure ACK of both',
    steps: (to) => [to.p({ seq: 100, ack: 50 }), to.s({ seq: 100, ack: 50 })],
  },
  {
    name: 'a pure ACK of the primary, nothing of the secondary',
    steps: (to) => [to.p({ seq: 100, ack: 50 })],
  },
  {
    name: 'a pure ACK that is ahead of the secondary',
    steps: (to) => [to.p({ seq: 100, ack: 50 }), to.s({ seq: 100, ack: 40 })],
  },
  {
    name: 'a pure ACK that is behind the secondary',
    steps: (to) => [to.p({ seq: 100, ack: 40 }), to.s({ seq: 100, ack: 50 })],
  },
  {
    name: 'the same bytes, the acknowledgment ahead, the same cut',
    steps: (to) => [to.p({ seq: 100, ack: 50, payload: 'abc' }), to.s({ seq: 100, ack: 40, payload: 'abc' })],
  },
  {
    name: 'the same bytes, the acknowledgment ahead, cut elsewhere',
    steps: (to) => [
      to.p({ seq: 100, ack: 50, payload: 'abc' }),
      to.s({ seq: 100, ack: 40, payload: 'abcdef' }),
    ],
  },
  {
    name: 'FIN of both',
    steps: (to) => [
      to.p({ seq: 100, ack: 1, payload: 'abc', flags: 'F' }),
      to.s({ seq: 100, ack: 1, payload: 'abc', flags: 'F' }),
    ],
  },
  {
    name: 'FIN of the primary with the last bytes, of the secondary only the bytes so far',
    steps: (to) => [
      to.p({ seq: 100, ack: 1, payload: 'abc', flags: 'F' }),
      to.s({ seq: 100, ack: 1, payload: 'abc' }),
    ],
  },
  {
    name: 'FIN of the primary only',
    steps: (to) => [to.p({ seq: 100, ack: 1, flags: 'F' }), to.s({ seq: 100, ack: 1 })],
  },
  {
    name: 'data behind the FIN of the secondary',
    steps: (to) => [
      to.p({ seq: 100, ack: 1, payload: 'abcdef' }),
      to.s({ seq: 100, ack: 1, payload: 'abc', flags: 'F' }),
    ],
  },
  {
    name: 'RST of both',
    steps: (to) => [to.p({ seq: 100, ack: 1, flags: 'R' }), to.s({ seq: 100, ack: 1, flags: 'R' })],
  },
  {
    name: 'RST of the primary only',
    steps: (to) => [to.p({ seq: 100, ack: 1, flags: 'R' }), to.s({ seq: 100, ack: 1 })],
  },
  {
    name: 'RST with a payload, of both',
    steps: (to) => [
      to.p({ seq: 100, ack: 1, flags: 'R', payload: 'why' }),
      to.s({ seq: 100, ack: 1, flags: 'R', payload: 'why' }),
    ],
  },
  {
    name: 'a segment without flags and bytes, an acknowledgment of the secondary',
    steps: (to) => [to.p({ seq: 100 }), to.s({ seq: 100, ack: 1 })],
  },
  {
    name: 'bytes long before all that was compared, nothing of the secondary there',
    steps: (to) => [
      to.p({ seq: 5_000_000, ack: 1, payload: 'abc' }),
      to.s({ seq: 5_000_000, ack: 1, payload: 'abc' }),
      to.p({ seq: 100, ack: 1, payload: 'new' }),
      to.s({ seq: 5_000_003, ack: 1 }),
    ],
  },
  {
    name: 'RST of the secondary, data of the primary',
    steps: (to) => [to.p({ seq: 100, ack: 1, payload: 'abc' }), to.s({ seq: 100, ack: 1, flags: 'R' })],
  },
  {
    name: 'other windows, PSH, time stamps and other options, IP id, TTL',
    steps: (to) => [
      to.p({ seq: 100, ack: 1, payload: 'abc', flags: 'P', options: stamps(1), window: 9 }),
      to.s({ seq: 100, ack: 1, payload: 'abc', options: stamps(99) }),
    ],
  },
  {
    name: 'a wrong TCP checksum of one side',
    steps: (to) => {
      const frame = to.p({ seq: 100, ack: 1, payload: 'abc' });
      return [['primary', patched(frame[1], TCP_AT + 16, 1, 2)], to.s({ seq: 100, ack: 1, payload: 'abc' })];
    },
  },
  {
    name: 'Ethernet padding behind a short segment, on one side only',
    steps: (to) => [
      to.p({ seq: 100, ack: 1, payload: 'a', padTo: 60 }),
      to.s({ seq: 100, ack: 1, payload: 'a' }),
    ],
  },
];

/** NOP, NOP, time stamps (RFC 7323). */
function stamps(value: number): Uint8Array {
  return Uint8Array.of(1, 1, 8, 10, 0, 0, 0, value, 0, 0, 0, 1);
}

export const DATAGRAM_CASES: readonly CompareCase[] = [
  { name: 'UDP: the same datagram, other IP id and TTL', steps: (to) => [to.pUdp('a'), to.sUdp('a')] },
  { name: 'UDP: the same datagram, the secondary first', steps: (to) => [to.sUdp('a'), to.pUdp('a')] },
  { name: 'UDP: different bytes', steps: (to) => [to.pUdp('aa'), to.sUdp('ab')] },
  { name: 'UDP: different length', steps: (to) => [to.sUdp('aaa'), to.pUdp('aa')] },
  {
    name: 'UDP: another checksum',
    steps: (to) => [to.pUdp('a'), ['secondary', patched(to.sUdp('a')[1], TCP_AT + 6, 1, 2)]],
  },
  {
    name: 'DHCP of the guest: another xid, other secs',
    steps: (to) => both(to.dhcp({ xid: 0x1111, secs: 0 }), to.dhcp({ xid: 0x2222, secs: 3 })),
  },
  {
    name: 'DHCP of the guest: another xid, another option',
    steps: (to) => both(to.dhcp({ xid: 0x1111, type: 1 }), to.dhcp({ xid: 0x2222, type: 3 })),
  },
  {
    name: 'UDP: A and B of both, in one order',
    steps: (to) => [to.pUdp('A'), to.pUdp('B'), to.sUdp('A'), to.sUdp('B')],
  },
  {
    name: 'UDP: A and B of the primary, B and A of the secondary',
    steps: (to) => [to.pUdp('A'), to.pUdp('B'), to.sUdp('B'), to.sUdp('A')],
  },
  {
    name: 'UDP: three datagrams that wait; then a checkpoint',
    steps: (to) => [to.pUdp('A'), to.pUdp('B'), to.pUdp('C')],
  },
  {
    name: 'UDP: one more datagram of the secondary, in front',
    steps: (to) => [to.sUdp('X'), to.pUdp('A'), to.sUdp('A')],
  },
  {
    name: 'UDP: the same datagram twice, the secondary once',
    steps: (to) => [to.pUdp('A'), to.pUdp('A', { id: 2 }), to.sUdp('A')],
  },
  {
    name: 'UDP: five different datagrams, one after the other',
    steps: (to) => [0, 1, 2, 3, 4].flatMap((n) => [to.pUdp(`p${n}`), to.sUdp(`s${n}`)]),
  },
  {
    name: 'UDP: Ethernet padding on one side only',
    steps: (to) => [to.pUdp('a', { padTo: 60 }), to.sUdp('a')],
  },
  {
    name: 'ICMP: the same echo',
    steps: (to) => both(to.ip(1, ICMP_ECHO), to.ip(1, ICMP_ECHO, { id: 5, ttl: 9 })),
  },
  {
    name: 'ICMP: another echo',
    steps: (to) => both(to.ip(1, ICMP_ECHO), to.ip(1, patched(ICMP_ECHO, 7, 9))),
  },
  { name: 'GRE: the same packet', steps: (to) => both(to.ip(47, 'tunnel')) },
  {
    name: 'GRE: the same, other IP id and TTL',
    steps: (to) => both(to.ip(47, 'tunnel'), to.ip(47, 'tunnel', { id: 5, ttl: 9 })),
  },
  {
    name: 'GRE: the same, other Ethernet addresses',
    steps: (to) => both(to.ip(47, 'tunnel'), patched(to.ip(47, 'tunnel'), 0, 2, 2, 2)),
  },
  { name: 'GRE: different bytes', steps: (to) => both(to.ip(47, 'tunnel'), to.ip(47, 'tunneX')) },
  { name: 'SCTP: the same packet', steps: (to) => both(to.ip(132, 'a chunk of it')) },
  { name: 'IGMP: the same packet', steps: (to) => both(to.ip(2, 'membership')) },
  {
    name: 'fragments of UDP: the first of both, other IP ids',
    steps: (to) => [to.pUdp('12345678', { fragment: MORE }), to.sUdp('12345678', { fragment: MORE })],
  },
  {
    name: 'fragments of UDP: a later one of both',
    steps: (to) =>
      both(to.ip(17, 'later bytes', { fragment: 3 }), to.ip(17, 'later bytes', { fragment: 3, id: 8 })),
  },
  {
    name: 'fragments of UDP: the same bytes at another offset',
    steps: (to) => both(to.ip(17, 'later bytes', { fragment: 3 }), to.ip(17, 'later bytes', { fragment: 4 })),
  },
  {
    name: 'fragments of UDP: two that overlap, of both',
    steps: (to) =>
      [MORE, MORE | 1].flatMap((fragment) =>
        both(to.ip(17, '0123456789abcdef', { fragment }), to.ip(17, '0123456789abcdef', { fragment, id: 9 })),
      ),
  },
  {
    name: 'fragments of UDP: other bytes where two overlap, on one side',
    steps: (to) => [
      ...both(to.ip(17, '0123456789abcdef', { fragment: MORE })),
      ...both(to.ip(17, '89abcdef', { fragment: 1 }), to.ip(17, '89XXcdef', { fragment: 1 })),
    ],
  },
  {
    name: 'fragments of TCP: both of a segment, on both sides',
    steps: (to) => {
      const segment = to.p({ seq: 100, ack: 1, payload: '0123456789abcdefghij' })[1].subarray(TCP_AT);
      return [
        ...both(to.ip(6, segment.subarray(0, 32), { fragment: MORE })),
        ...both(to.ip(6, segment.subarray(32), { fragment: 4 })),
      ];
    },
  },
];

export const OTHER_CASES: readonly CompareCase[] = [
  { name: 'ARP: a request, nothing of the secondary', steps: (to) => alone(to.arp(1)) },
  { name: 'ARP: a request of both', steps: (to) => both(to.arp(1)) },
  {
    name: 'ARP: a request of both, then again of the primary',
    steps: (to) => [...both(to.arp(1)), ...alone(to.arp(1))],
  },
  { name: 'ARP: another answer of the secondary', steps: (to) => both(to.arp(2, 1), to.arp(2, 9)) },
  {
    name: 'IPv6 TCP: the same bytes, other hop limit',
    steps: (to) =>
      both(to.tcp6({ seq: 5, ack: 1, payload: 'abc' }), to.tcp6({ seq: 5, ack: 1, payload: 'abc' }, 9)),
  },
  {
    name: 'IPv6 TCP: one segment against two',
    steps: (to) => [
      ['primary', to.tcp6({ seq: 5, ack: 1, payload: 'abcdef' })],
      ['secondary', to.tcp6({ seq: 5, ack: 1, payload: 'abc' })],
      ['secondary', to.tcp6({ seq: 8, ack: 1, payload: 'def' })],
    ],
  },
  {
    name: 'IPv6 TCP: different bytes',
    steps: (to) =>
      both(to.tcp6({ seq: 5, ack: 1, payload: 'abc' }), to.tcp6({ seq: 5, ack: 1, payload: 'abX' })),
  },
  {
    name: 'IPv6 TCP: nothing of the secondary',
    steps: (to) => alone(to.tcp6({ seq: 5, ack: 1, payload: 'abc' })),
  },
  { name: 'IPv6 UDP: the same datagram', steps: (to) => both(to.udp6('abc'), to.udp6('abc', 9)) },
  { name: 'IPv6 UDP: different bytes', steps: (to) => both(to.udp6('abc'), to.udp6('abX')) },
  {
    name: 'ICMPv6: an echo reply of both',
    steps: (to) => both(to.ip6(58, Uint8Array.of(129, 0, 0, 0, 0, 1, 0, 1))),
  },
  {
    name: 'ICMPv6: a neighbour solicitation of both, then again of the primary',
    steps: (to) => {
      const frame = to.ip6(
        58,
        Uint8Array.from([135, 0, 0, 0, 0, 0, 0, 0, 0xfd, ...new Uint8Array(14), 2]),
        255,
      );
      return [...both(frame), ...alone(frame)];
    },
  },
  {
    name: 'VLAN: a tagged datagram, nothing of the secondary',
    steps: (to) => alone(vlan(5, to.pUdp('a')[1])),
  },
  {
    name: 'VLAN: the same datagram in one VLAN',
    steps: (to) => both(vlan(5, to.pUdp('a')[1]), vlan(5, to.sUdp('a')[1])),
  },
  {
    name: 'VLAN: the same datagram in two VLANs',
    steps: (to) => both(vlan(5, to.pUdp('a')[1]), vlan(6, to.sUdp('a')[1])),
  },
  {
    name: 'VLAN: a tagged TCP segment of both, cut elsewhere',
    steps: (to) => [
      ['primary', vlan(5, to.p({ seq: 5, ack: 1, payload: 'abcd' })[1])],
      ['secondary', vlan(5, to.s({ seq: 5, ack: 1, payload: 'ab' })[1])],
      ['secondary', vlan(5, to.s({ seq: 7, ack: 1, payload: 'cd' })[1])],
    ],
  },
  {
    name: 'LLDP and other EtherTypes, of both',
    steps: () => both(ethernet(0x88cc, new Uint8Array(46).fill(7))),
  },
];

export const MALFORMED_CASES: readonly CompareCase[] = [
  { name: 'a frame of 17 bytes, nothing of the secondary', steps: () => alone(new Uint8Array(17).fill(1)) },
  { name: 'a frame of 17 bytes, of both', steps: () => both(new Uint8Array(17).fill(2)) },
  {
    name: 'an IPv4 header that the frame cuts off, nothing of the secondary',
    steps: (to) => alone(to.pUdp('a')[1].subarray(0, 30)),
  },
  {
    name: 'IP version 5 behind EtherType IPv4, of both',
    steps: (to) => both(patched(to.pUdp('a')[1], 14, 0x55)),
  },
  { name: 'an IPv4 header length of 16, of both', steps: (to) => both(patched(to.pUdp('a')[1], 14, 0x44)) },
  {
    name: 'an IPv4 total length of 0, TCP, of both',
    steps: (to) => both(patched(to.p({ seq: 100, ack: 1, payload: 'abc' })[1], 16, 0, 0)),
  },
  {
    name: 'an IPv4 total length that leaves bytes out, those of the two differ',
    steps: (to) => {
      const frame = patched(to.p({ seq: 100, ack: 1, payload: 'abcdef' })[1], 16, 0, 43);
      return both(frame, patched(frame, frame.length - 1, 0));
    },
  },
  {
    name: 'a UDP datagram with a total length that is longer than the frame, of both',
    steps: (to) => both(patched(to.pUdp('a')[1], 16, 9, 9)),
  },
  {
    name: 'a TCP header that the packet cuts off, of both',
    steps: (to) => both(to.p({ seq: 100, ack: 1 })[1].subarray(0, 40)),
  },
  {
    name: 'a TCP data offset of 0, of both',
    steps: (to) => both(patched(to.p({ seq: 100, ack: 1, payload: 'abc' })[1], TCP_AT + 12, 0)),
  },
  {
    name: 'a TCP data offset beyond the packet, of both',
    steps: (to) => both(patched(to.p({ seq: 100, ack: 1 })[1], TCP_AT + 12, 0xf0)),
  },
];

/**
 * What became of the primary's frames, in the words of the table. `order` is only spoken of when it is not that of
 * arrival.
 */
export function verdictOf(steps: readonly Step[], outcome: Outcome): string {
  const primary = steps.flatMap(([side, frame]) => (side === 'primary' ? [hexOf(frame)] : []));
  const released = outcome.released.flat();
  const words: string[] = [];
  if (released.length === primary.length) {
    const isAlone = steps.every(([side], at) => side === 'secondary' || outcome.released[at]!.length > 0);
    words.push(isAlone && steps[0]![0] === 'primary' ? 'passes' : 'released');
  } else if (released.length === 0) words.push('held');
  else words.push(`${released.length} of ${primary.length} released`);
  if (outcome.requests === 1) words.push('asks');
  else if (outcome.requests > 1) words.push(`asks ${outcome.requests} times`);
  const all = [...released, ...outcome.flushed];
  const inOrder = primary.filter((frame) => all.includes(frame));
  if (all.length === inOrder.length && all.some((frame, at) => frame !== inOrder[at]))
    words.push('in another order');
  if (all.length < primary.length) words.push(`${primary.length - all.length} lost`);
  return words.join(', ');
}
