/** The rewriter in the corners of TCP: what opens, ends and outlives a connection in unusual ways. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeMappings, encodeMappings } from '../../../src/net/filters/mapping-marks.ts';
import { RewriterFilter } from '../../../src/net/filters/rewriter.ts';
import { TcpMapping } from '../../../src/net/filters/tcp-mapping.ts';
import { Netdev } from '../../../src/net/netdev.ts';
import { PacketView } from '../../../src/net/packet.ts';
import {
  CARRIER_NAMES,
  carried,
  carriedToGuest,
  icmpChecksum,
  options,
  stamps,
  tooLong,
} from './carriers.ts';
import { hasRightChecksum, ipv4, tcp } from './frames.ts';
import { C, P, S, accept, optionsOf, setUp } from './rewriter-rig.ts';

const stamped = (value: number, echo: number) => ({ options: options(...stamps(value, echo)) });

test('both sides open at once: SYN and SYN cross, and any of the acknowledgments is learned from', () => {
  for (const flags of ['S', '']) {
    const side = setUp();
    side.out({ seq: S, flags: 'S' });
    side.in({ seq: C, flags: 'S' });
    assert.equal(side.out({ seq: S, ack: C + 1, flags: 'S' }).seq, S);
    const seq = flags === 'S' ? C : C + 1;
    assert.equal(side.in({ seq, ack: P + 1, flags }).ack, S + 1);
    assert.equal(side.out({ seq: S + 1, ack: C + 1 }).seq, (P + 1) >>> 0);
  }
});

test('a refused connection is refused in the numbers of the guest', () => {
  const side = setUp();
  side.out({ seq: S, flags: 'S' });
  assert.deepEqual(side.in({ seq: 0, ack: P + 1, flags: 'R' }), { seq: 0, ack: S + 1 });
  // The guest tries again from the same port.
  assert.equal(side.out({ seq: S + 70, flags: 'S' }).seq, S + 70);
  assert.equal(side.in({ seq: C, ack: P + 901, flags: 'S' }).ack, S + 71);
  assert.equal(side.out({ seq: S + 71, ack: C + 1 }).seq, (P + 901) >>> 0);
});

test('what an older connection has left behind is not learned from', () => {
  const side = setUp();
  side.out({ seq: S, flags: 'S' });
  // The client still knows the old connection and says where it stands (RFC 793 3.4, figure 10).
  assert.equal(side.in({ seq: 9000, ack: 777 }).ack, 777);
  assert.equal(side.out({ seq: 777, flags: 'R' }).seq, 777);
  assert.equal(side.out({ seq: S, flags: 'S' }).seq, S, 'the SYN is repeated');
  assert.equal(side.in({ seq: C, ack: P + 1, flags: 'S' }).ack, S + 1);

  const other = setUp();
  other.in({ seq: C, flags: 'S' });
  other.out({ seq: S, ack: C + 1, flags: 'S' });
  assert.equal(other.in({ seq: C - 50_000, ack: 777, payload: 'late' }).ack, 777);
  assert.equal(other.in({ seq: C + 1, ack: P + 1 }).ack, S + 1);
});

test('a SYN+ACK that is never answered, and a SYN cookie that changes', () => {
  const side = setUp();
  side.in({ seq: C, flags: 'S' });
  side.out({ seq: S, ack: C + 1, flags: 'S' });
  side.out({ seq: S, ack: C + 1, flags: 'S' });
  // The client repeats its SYN, and the guest, which keeps nothing, chooses another number.
  side.in({ seq: C, flags: 'S' });
  assert.equal(side.out({ seq: S + 4096, ack: C + 1, flags: 'S' }).seq, S + 4096);
  assert.equal(side.in({ seq: C + 1, ack: P + 1 }).ack, S + 4097);
  // Given up by the client; a new SYN comes much later.
  const late = setUp();
  late.in({ seq: C, flags: 'S' });
  late.out({ seq: S, ack: C + 1, flags: 'S' });
  late.in({ seq: C + 1, flags: 'R' });
  late.in({ seq: C + 99_999, flags: 'S' });
  late.out({ seq: S + 5, ack: C + 100_000, flags: 'S' });
  assert.equal(late.in({ seq: C + 100_000, ack: P + 8 }).ack, S + 6);
});

test('a RST has the number that its cause calls for', () => {
  const side = setUp();
  accept(side);
  // An acknowledgment of what was never sent is answered with its own number (RFC 793 3.4).
  const { ack } = side.in({ seq: C + 1, ack: P + 5000 });
  assert.equal(side.out({ seq: ack, flags: 'R' }).seq, (P + 5000) >>> 0);
  // A SYN under the old name, to a guest that refuses: no number of the guest's is in the answer.
  side.in({ seq: C + 77_777, flags: 'S' });
  assert.deepEqual(side.out({ seq: 0, ack: C + 77_778, flags: 'R' }), { seq: 0, ack: C + 77_778 });
  // The guest aborts.
  assert.equal(side.out({ seq: S + 1, ack: C + 1, flags: 'R' }).seq, (P + 1) >>> 0);
  assert.equal(side.in({ seq: C + 1, ack: P + 1, payload: 'x' }).ack, S + 1, 'answered by another RST');
});

test("a client's RST that the guest does not believe ends nothing", () => {
  const side = setUp();
  accept(side);
  side.in({ seq: C + 900_000, flags: 'R' });
  assert.deepEqual(side.rewriter.stopped('primary'), []);
  assert.equal(side.out({ seq: S + 1, ack: C + 1 }).seq, (P + 1) >>> 0, 'a challenge ACK');
  assert.equal(side.rewriter.stopped('primary').length, 1);
});

test('half closed, probed, and reused while the guest waits for the last segments', () => {
  const side = setUp();
  accept(side);
  side.in({ seq: C + 1, ack: P + 1, flags: 'F' });
  assert.equal(side.out({ seq: S + 1, ack: C + 2, payload: 'still talking' }).seq, (P + 1) >>> 0);
  // Keep-alive and window probes are one number behind.
  assert.equal(side.in({ seq: C + 1, ack: P + 14 }).ack, S + 14);
  assert.equal(side.out({ seq: S + 13, ack: C + 2 }).seq, (P + 13) >>> 0);
  assert.equal(side.rewriter.stopped('primary').length, 1, 'half of it is open');
  side.out({ seq: S + 14, ack: C + 2, flags: 'F' });
  assert.equal(side.in({ seq: C + 2, ack: P + 15 }).ack, S + 15);
  assert.deepEqual(side.rewriter.stopped('primary'), []);
  assert.equal(side.out({ seq: S + 14, ack: C + 2, flags: 'F' }).seq, (P + 14) >>> 0, 'repeated');
  // A new SYN, beyond the old numbers.
  side.in({ seq: C + 70_000, flags: 'S' });
  assert.equal(side.out({ seq: S + 65_551, ack: C + 70_001, flags: 'S' }).seq, S + 65_551);
  assert.equal(side.in({ seq: C + 70_001, ack: P + 900 }).ack, S + 65_552);
  assert.equal(side.rewriter.stopped('primary').length, 1);
});

test('a handshake that a failover cuts in two ends in the numbers that the client saw', () => {
  for (const answered of [P, S]) {
    const side = setUp();
    side.in({ seq: C, flags: 'S' });
    side.out({ seq: S, ack: C + 1, flags: 'S' });
    side.netdev.notify('failover');
    assert.equal(side.in({ seq: C + 1, ack: answered + 1 }).ack, S + 1);
    assert.equal(side.out({ seq: S + 1, ack: C + 1 }).seq, (answered + 1) >>> 0);
  }
});

test('timestamps follow the client: what the guest says is never older than what the client has heard', () => {
  const side = setUp();
  // A connection from before the checkpoint: its numbers are right, its clock is 300 behind the primary's.
  side.in({ seq: C, ack: P, ...stamped(50, 10_000) });
  assert.equal(side.out({ seq: P, ack: C, ...stamped(9700, 50) }).seq, P);
  assert.deepEqual(optionsOf(side.wire.at(-1)!), stamped(10_000, 50).options);
  side.in({ seq: C, ack: P, ...stamped(60, 10_100) });
  assert.deepEqual(optionsOf(side.guest.at(-1)!), stamped(60, 9800).options);
  side.netdev.notify('failover');
  side.out({ seq: P, ack: C, ...stamped(9900, 60) });
  assert.deepEqual(optionsOf(side.wire.at(-1)!), stamped(10_200, 60).options);
  // From now on the client repeats what this guest says; a wrong echo moves nothing.
  side.in({ seq: C, ack: P, ...stamped(70, 20_000) });
  side.out({ seq: P, ack: C, ...stamped(9901, 70) });
  assert.deepEqual(optionsOf(side.wire.at(-1)!), stamped(10_201, 70).options);
  assert.equal(side.rewriter.stopped('primary').length, 1, 'and it is handed on');
});

test('a connection whose clocks agree, or have nothing to do with each other, is left alone', () => {
  for (const guestStamp of [10_000, 10_001, 500_000_000]) {
    const side = setUp();
    side.in({ seq: C, ack: P, ...stamped(50, 10_000) });
    side.out({ seq: P, ack: C, ...stamped(guestStamp, 50) });
    side.in({ seq: C, ack: P, ...stamped(51, 10_000) });
    assert.equal(side.rewriter.stats.rewritten, 0);
  }
});

test('of several SYNs the first stamp counts: a connection that the guest opens is not refused as too old', () => {
  const side = setUp();
  side.out({ seq: S, flags: 'S', ...stamped(5000, 0) });
  side.out({ seq: S, flags: 'S', ...stamped(6000, 0) });
  side.in({ seq: C, ack: P + 1, flags: 'S', ...stamped(50, 9_000) });
  assert.deepEqual(optionsOf(side.guest.at(-1)!), stamped(50, 5000).options);
});

test('mappings of every kind travel, and what is cut short is left out', () => {
  for (const carrier of CARRIER_NAMES) {
    const view = new PacketView();
    view.parse(carried(carrier, {}));
    const mappings = (['established', 'synReceived', 'synSent'] as const).map((state, index) => {
      view.key.ports = index + 1;
      const mapping = new TcpMapping(view.key);
      mapping.state = state;
      mapping.offset = 0xffff0000 + index;
      if (state === 'established') mapping.clock = 0x80000000;
      if (state === 'synSent') mapping.guestStamp = 0xfedcba98;
      mapping.guestSyn = index === 0 ? null : 0xfffffffe;
      return mapping;
    });
    const marks = encodeMappings('hn0', mappings);
    assert.ok(marks.every(({ stream }) => stream.length <= 256));
    const told = (mapping: TcpMapping) => {
      const { key, state, offset, clock, guestSyn, guestStamp } = mapping;
      return { key: structuredClone(key), state, offset, clock, guestSyn, guestStamp };
    };
    const found = decodeMappings('hn0', marks);
    const byPort = (a: TcpMapping, b: TcpMapping): number => a.key.ports - b.key.ports;
    assert.deepEqual(found.sort(byPort).map(told), mappings.map(told), carrier);
    assert.deepEqual(decodeMappings('hn1', marks), []);
  }
});

test('of more mappings than fit the newest travel', () => {
  const view = new PacketView();
  view.parse(carried('ipv6', {}));
  const mappings = Array.from({ length: 1000 }, (_, index) => {
    view.key.ports = index;
    const mapping = new TcpMapping(view.key);
    mapping.offset = 1;
    return mapping;
  });
  const found = decodeMappings('hn0', encodeMappings('hn0', mappings));
  assert.equal(found.length, 256);
  assert.deepEqual([found[0]!.key.ports, found.at(-1)!.key.ports], [744, 999]);
  assert.deepEqual(encodeMappings('x'.repeat(250), mappings), []);
});

test('a full table gives up what has ended before what is idle', () => {
  const side = setUp(2);
  accept(side);
  side.out({ seq: 1, flags: 'S', destinationPort: 1001 });
  side.in({ seq: 0, ack: 2, flags: 'R', sourcePort: 1001 });
  side.out({ seq: 1, flags: 'S', destinationPort: 1002 });
  assert.equal(side.out({ seq: S + 1, ack: C + 1 }).seq, (P + 1) >>> 0);
  assert.deepEqual([side.rewriter.flows, side.rewriter.stats.evicted], [2, 1]);
});

test('behind a vnet header: a partial checksum and the bytes of a long segment stay as they are', () => {
  for (const needsSum of [0, 1]) {
    const netdev = new Netdev({ id: 'hn0', vnetHeaderBytes: 12 });
    netdev.hasVnetWire = true;
    const wire: Uint8Array[] = [];
    const guest: Uint8Array[] = [];
    netdev.wire = (frame) => wire.push(new Uint8Array(frame));
    netdev.guest = (frame) => guest.push(new Uint8Array(frame));
    netdev.insert(new RewriterFilter('r', { queue: 'all', enabled: true, vnetHdrSupport: true }));
    const withHeader = (frame: Uint8Array): Uint8Array =>
      Buffer.concat([Uint8Array.from([needsSum, 1, ...new Uint8Array(10)]), frame]);
    netdev.receiveFromWire(withHeader(carriedToGuest('ipv4', { seq: C, flags: 'S' })));
    netdev.sendFromGuest(withHeader(carried('ipv4', { seq: S, ack: C + 1, flags: 'S' })));
    netdev.receiveFromWire(withHeader(carriedToGuest('ipv4', { seq: C + 1, ack: P + 1 })));
    const long = carried('ipv4', { seq: S + 1, ack: C + 1, payload: new Uint8Array(60_000).fill(3) });
    netdev.sendFromGuest(withHeader(long));
    const moved = wire.at(-1)!.subarray(12);
    const view = new PacketView();
    view.parse(moved);
    assert.equal(view.sequence, (P + 1) >>> 0);
    const sumAt = view.transportAt + 16;
    if (needsSum === 1) assert.deepEqual(moved.subarray(sumAt, sumAt + 2), long.subarray(sumAt, sumAt + 2));
    else assert.ok(hasRightChecksum(moved));
    assert.deepEqual(moved.subarray(view.payloadAt), long.subarray(view.payloadAt));
    assert.deepEqual([...wire.at(-1)!.subarray(0, 12)], [needsSum, 1, ...new Uint8Array(10)]);
  }
});

test('an ICMP error quotes the number by which the guest knows its segment', () => {
  for (const carrier of ['ipv4', 'ipv4 with options', 'ipv4 in a vlan', 'ipv6', 'ipv6 in a vlan'] as const) {
    const side = setUp(undefined, carrier);
    accept(side);
    // Also no more than the ports and the number.
    for (const bytes of [1000, carrier.startsWith('ipv6') ? 48 : carrier === 'ipv4 with options' ? 32 : 28]) {
      const said = (base: number): Uint8Array =>
        tooLong(carried(carrier, { seq: base + 1, ack: C + 1, payload: 'long' }), bytes);
      const error = said(P);
      side.netdev.receiveFromWire(error);
      const arrived = side.guest.at(-1)!;
      const view = new PacketView();
      view.parse(arrived);
      const { transportAt: at, network } = view;
      const quotedIp = at + 8;
      const quotedTcp = quotedIp + (network === 'ipv6' ? 40 : (arrived[quotedIp]! & 0xf) * 4);
      const expected = new Uint8Array(error);
      expected.set(carried('ipv4', { seq: S + 1 }).subarray(38, 42), quotedTcp + 4);
      const sum = icmpChecksum(expected, at, network === 'ipv6');
      expected.set([sum >>> 8, sum & 0xff], at + 2);
      assert.deepEqual(arrived, expected, carrier);
    }
    // Of another connection, or cut off in front of the number.
    const passed = side.rewriter.stats.rewritten;
    side.netdev.receiveFromWire(tooLong(carried(carrier, { seq: P, destinationPort: 9 })));
    side.netdev.receiveFromWire(tooLong(carried(carrier, { seq: P + 1 }), 27));
    assert.equal(side.rewriter.stats.rewritten, passed);
  }
});

test('fragments, and headers that do not fit their packet, pass as they are', () => {
  const side = setUp();
  accept(side);
  const whole = tcp({ seq: S + 1, ack: C + 1, payload: 'x' });
  const cut = new Uint8Array(whole);
  cut[17] = 0xff;
  for (const frame of [ipv4(6, whole.subarray(34), { fragment: 0x2000 }), cut, whole.subarray(0, 50)]) {
    side.netdev.sendFromGuest(frame);
    assert.deepEqual(side.wire.at(-1), new Uint8Array(frame));
  }
});
