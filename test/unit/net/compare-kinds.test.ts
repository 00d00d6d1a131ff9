/** What is compared of each kind of frame, what is held against nobody, and what may be repeated. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { putU16 } from '../../../src/net/packet.ts';
import { withRig } from './compare-rig.ts';
import type { Rig } from './compare-rig.ts';
import { arpFor, bytesOf, ethernet, ipv4, ipv6, keyOf, tcp, udp, vlan } from './frames.ts';

const count = (rig: Rig): number => rig.released().length;
const causes = (rig: Rig): string[] => rig.requests.map(({ cause }) => cause);

/** An IPv6 frame whose traffic class, flow label and hop limit are `other`. */
function sixWith(frame: Uint8Array, other: number): Uint8Array {
  const copy = Uint8Array.from(frame);
  copy.set([0x60 | (other & 0xf), other, other, other], 14);
  copy[21] = other;
  return copy;
}

function tcpSix(fields: Parameters<typeof tcp>[0]): Uint8Array {
  return ipv6(6, tcp(fields).subarray(34));
}

function icmp6(type: number, text: string): Uint8Array {
  return ipv6(58, Uint8Array.from([type, 0, 0, 0, 0, 0, 0, 0, ...bytesOf(text)]));
}

/** The IPv6 fragment header in front of `text`. */
function fragment6(id: number, offset: number, text: string): Uint8Array {
  const header = new Uint8Array(8);
  header[0] = 17;
  putU16(header, 2, (offset << 3) | 1);
  putU16(header, 6, id);
  return ipv6(44, Buffer.concat([header, bytesOf(text)]));
}

test('TCP over IPv6 and in VLANs is compared as a stream', () =>
  withRig((rig) => {
    for (const wrap of [
      (frame: Uint8Array): Uint8Array => frame,
      (frame: Uint8Array): Uint8Array => vlan(5, frame),
      (frame: Uint8Array): Uint8Array => vlan(9, vlan(5, frame), 0x88a8),
    ]) {
      rig.primary.giveFrame(wrap(sixWith(tcpSix({ seq: 100, ack: 1, payload: 'abcdef' }), 3)));
      rig.secondary.giveFrame(wrap(sixWith(tcpSix({ seq: 100, ack: 2, payload: 'abc', window: 9 }), 7)));
      assert.equal(count(rig), 0);
      rig.secondary.giveFrame(wrap(tcpSix({ seq: 103, ack: 2, payload: 'def' })));
      assert.equal(count(rig), 1);
    }
    assert.equal(rig.compare.connections, 3, 'a VLAN is part of the name');
    const priority = vlan(5 | 0x6000, tcpSix({ seq: 106, ack: 2, payload: 'x' }));
    rig.primary.giveFrame(priority);
    rig.secondary.giveFrame(vlan(5, tcpSix({ seq: 106, ack: 2, payload: 'x' })));
    assert.equal(count(rig), 1, 'its priority is not');
    assert.deepEqual(rig.requests, []);
  }));

test('a UDP checksum is held against nobody, its payload is', () =>
  withRig((rig) => {
    for (const frame of [udp('same'), ipv6(17, udp('same').subarray(34))]) {
      const other = Uint8Array.from(frame);
      const at = frame.length - 4 - 2;
      putU16(other, at, 0x1234);
      rig.primary.giveFrame(frame);
      rig.secondary.giveFrame(other);
      assert.equal(count(rig), 1);
      rig.secondary.giveFrame(other);
      rig.primary.giveFrame(frame);
      assert.equal(count(rig), 1);
    }
    assert.equal(rig.requests.length, 0);
    rig.primary.giveFrame(udp('same'));
    rig.secondary.giveFrame(udp('sane'));
    assert.deepEqual(rig.requests[0]?.difference, {
      packetOffset: 44,
      payloadOffset: 10,
      primaryByte: 0x6d,
      secondaryByte: 0x6e,
    });
  }));

test('fragments: the same piece of the same payload, whatever its identification', () =>
  withRig((rig) => {
    rig.primary.giveFrame(fragment6(1, 0, 'piece'));
    rig.secondary.giveFrame(fragment6(2, 0, 'piece'));
    assert.equal(count(rig), 1);
    const first = (id: number): Uint8Array =>
      ipv4(6, tcp({ payload: 'x' }).subarray(34), { fragment: 0x2000, id });
    rig.primary.giveFrame(first(1));
    rig.secondary.giveFrame(first(2));
    assert.equal(count(rig), 1);
    assert.deepEqual(rig.requests, []);
    rig.primary.giveFrame(fragment6(3, 1, 'piece'));
    rig.secondary.giveFrame(fragment6(3, 2, 'piece'));
    assert.deepEqual([count(rig), causes(rig)], [0, ['protocol']]);
  }));

test('a whole segment and a fragment between the same addresses are two flows', () =>
  withRig((rig) => {
    const ports = { sourcePort: 0, destinationPort: 0 };
    const piece = ipv4(6, tcp({ ...ports, payload: 'x' }).subarray(34), { fragment: 0x2000 });
    rig.primary.giveFrame(piece);
    rig.secondary.giveFrame(tcp({ ...ports, seq: 5, ack: 1, payload: 'stream' }));
    rig.primary.giveFrame(tcp({ ...ports, seq: 5, ack: 1, payload: 'stream' }));
    assert.deepEqual([rig.compare.connections, count(rig)], [2, 1]);
    rig.secondary.giveFrame(piece);
    assert.equal(count(rig), 1);
  }));

test('a neighbour discovery message that waits holds up no echo reply', () =>
  withRig((rig) => {
    rig.primary.giveFrame(icmp6(135, 'who?'));
    rig.primary.giveFrame(icmp6(143, 'a listener'));
    rig.primary.giveFrame(icmp6(129, 'pong'));
    rig.secondary.giveFrame(icmp6(129, 'pong'));
    assert.equal(count(rig), 1);
    rig.secondary.giveFrame(icmp6(143, 'a listener'));
    rig.secondary.giveFrame(icmp6(135, 'who?'));
    assert.equal(count(rig), 2);
  }));

test('ARP: the first of its kind waits for its twin, padding is no part of it', () =>
  withRig((rig) => {
    const padded = Uint8Array.from(arpFor(2));
    padded.fill(0xee, 42);
    rig.primary.giveFrame(padded);
    assert.equal(count(rig), 0);
    rig.secondary.giveFrame(arpFor(3));
    rig.secondary.giveFrame(arpFor(2, 2));
    assert.equal(count(rig), 0, 'another address, another operation');
    rig.secondary.giveFrame(arpFor(2));
    assert.equal(count(rig), 1);
    const elsewhere = Uint8Array.from(arpFor(2));
    elsewhere[5] = 0x77;
    rig.primary.giveFrame(elsewhere);
    assert.equal(count(rig), 0, 'to another station');
  }));

test('a statement that has left may be repeated; what the secondary says beyond is forgotten', () =>
  withRig(async (rig) => {
    rig.primary.giveFrame(arpFor(2));
    rig.secondary.giveFrame(arpFor(2));
    assert.equal(count(rig), 1);
    rig.primary.giveFrame(arpFor(2));
    assert.deepEqual([count(rig), rig.compare.stats.repeated], [1, 1]);
    rig.primary.giveFrame(icmp6(135, 'other flow'));
    assert.equal(count(rig), 0);
    await rig.checkpoint();
    assert.equal(count(rig), 1);
    rig.primary.giveFrame(icmp6(135, 'other flow'));
    rig.primary.giveFrame(arpFor(2));
    assert.equal(count(rig), 2, 'a checkpoint vouches, and takes nothing back');

    for (let at = 0; at < 100; at++) rig.secondary.giveFrame(arpFor(9));
    assert.ok(rig.compare.secondaryPackets <= 16);
    rig.clock.ms = 5000;
    rig.compare.scan();
    assert.deepEqual(
      [rig.requests.length, rig.compare.secondaryPackets, rig.compare.stats.ignored],
      [0, 0, 16],
    );
  }));

test('only the last few statements of a flow may be repeated, and a new one times out as any packet', () =>
  withRig((rig) => {
    const message = (at: number): Uint8Array => icmp6(136, `number ${at}`);
    for (let at = 0; at < 5; at++) {
      rig.secondary.giveFrame(message(at));
      rig.primary.giveFrame(message(at));
    }
    assert.equal(count(rig), 5);
    rig.primary.giveFrame(message(0));
    assert.equal(count(rig), 0);
    for (let at = 1; at < 5; at++) rig.primary.giveFrame(message(at));
    assert.equal(count(rig), 4, 'they pass the one that waits');
    rig.clock.ms = 3001;
    rig.compare.scan();
    assert.deepEqual(causes(rig), ['timeout']);
  }));

test('what is no IP is compared from the Ethernet header on', () =>
  withRig((rig) => {
    rig.primary.giveFrame(ethernet(0x88cc, bytesOf('aaaa')));
    rig.secondary.giveFrame(ethernet(0x88cc, bytesOf('aaba')));
    assert.deepEqual(rig.requests[0], {
      cause: 'payload',
      flow: 'ethertype-0x88cc/52:54:00:00:00:01>52:54:00:00:00:02',
      key: keyOf(ethernet(0x88cc, bytesOf('aaaa'))),
      difference: { packetOffset: 16, payloadOffset: 16, primaryByte: 0x61, secondaryByte: 0x62 },
    });
  }));

test('frames shorter than any header, and vnet headers that are none', () =>
  withRig(
    (rig) => {
      for (const vnet of [0, 5, 12, 21, 0xffffffff]) {
        const frame = new Uint8Array(13).fill(vnet & 0xff);
        rig.primary.giveFrame(frame, vnet);
        assert.equal(count(rig), 0);
        rig.secondary.giveFrame(frame, vnet);
        assert.equal(count(rig), 1);
      }
      const long = Buffer.concat([new Uint8Array(21), udp('x')]);
      rig.primary.giveFrame(long, 21);
      const other = Uint8Array.from(long);
      other[3] = 9;
      rig.secondary.giveFrame(other, 21);
      assert.deepEqual(rig.requests[0]?.difference, {
        packetOffset: 3,
        payloadOffset: 3,
        primaryByte: 0,
        secondaryByte: 9,
      });
    },
    { vnetHdrSupport: true },
  ));

test('the largest super-frame, with vnet headers of different lengths', () =>
  withRig(
    (rig) => {
      const payload = Buffer.alloc(65_483, 'super');
      const frame = tcp({ seq: 1, ack: 1, payload });
      rig.primary.giveFrame(Buffer.concat([new Uint8Array(10), frame]), 10);
      for (let at = 0; at < payload.length; at += 1448) {
        const segment = tcp({ seq: 1 + at, ack: 1, payload: payload.subarray(at, at + 1448) });
        rig.secondary.giveFrame(Buffer.concat([new Uint8Array(12), segment]), 12);
      }
      assert.equal(rig.released()[0]?.length, 10 + frame.length);
      const largest = Buffer.alloc(69_632, 7);
      rig.secondary.giveFrame(largest, 12);
      rig.primary.giveFrame(largest, 12);
      assert.equal(rig.released()[0]?.length, 69_632);
      assert.deepEqual(rig.requests, []);
    },
    { vnetHdrSupport: true },
  ));

test('two guests that choose different ports for one connection are found at once', () =>
  withRig(async (rig) => {
    rig.primary.giveFrame(tcp({ sourcePort: 1000, destinationPort: 80, flags: 'S', seq: 1 }));
    rig.secondary.giveFrame(tcp({ sourcePort: 1000, destinationPort: 443, flags: 'S', seq: 1 }));
    assert.deepEqual(causes(rig), [], 'to another port');
    rig.secondary.giveFrame(tcp({ sourcePort: 1001, destinationPort: 80, flags: 'S', seq: 1 }));
    assert.equal(rig.requests[0]?.cause, 'new-connection');
    assert.equal(rig.requests[0].flow, 'tcp/10.0.2.15:1000>10.0.2.2:80');
    assert.equal(rig.compare.stats.requestsByCause['new-connection'], 1);
    rig.compare.scan();
    assert.deepEqual(causes(rig), ['new-connection', 'new-connection'], 'again, while it is so');
    await rig.checkpoint();
    assert.equal(count(rig), 1);
    rig.compare.scan();
    assert.equal(rig.requests.length, 2);
    // The secondary now is the primary's copy: a flow of that is known to it.
    rig.secondary.giveFrame(tcp({ sourcePort: 1002, destinationPort: 80, flags: 'S', seq: 1 }));
    rig.primary.giveFrame(tcp({ sourcePort: 1002, destinationPort: 80, flags: 'S', seq: 1 }));
    assert.deepEqual([count(rig), rig.requests.length], [1, 2]);
  }));

test('small changes of order between two guests cost nothing', () =>
  withRig((rig) => {
    for (const letter of 'ABCD') rig.primary.giveFrame(udp(letter));
    for (const letter of 'BDCA') rig.secondary.giveFrame(udp(letter));
    const order = rig.released().map((frame) => String.fromCharCode(frame.at(-1)!));
    assert.deepEqual([order, causes(rig)], [['A', 'B', 'C', 'D'], []]);
    for (const letter of 'AAB') rig.primary.giveFrame(udp(letter));
    rig.secondary.giveFrame(udp('A'));
    assert.equal(count(rig), 1, 'equal ones, the oldest first');
    rig.secondary.giveFrame(udp('X'));
    assert.deepEqual(causes(rig), ['payload'], 'nobody has said that');
    rig.secondary.giveFrame(udp('Y'));
    assert.equal(rig.compare.stats.mismatches, 1, 'one difference, not one for each packet');
    rig.compare.scan();
    assert.deepEqual(causes(rig), ['payload', 'payload']);
    assert.equal(rig.compare.stats.mismatches, 1);
  }));

test('an epoch is cut for every kind, and what is held travels whole', () =>
  withRig(
    async (rig) => {
      const kinds = (mark: string): Uint8Array[] => [
        icmp6(136, mark),
        icmp6(128, mark),
        fragment6(1, 0, mark),
        ethernet(0x88cc, bytesOf(mark)),
        vlan(5, udp(mark)),
        tcpSix({ seq: 100, ack: 1, payload: mark }),
        Buffer.from(mark),
      ];
      const first = kinds('closed');
      for (const frame of [arpFor(2), ...first]) rig.primary.giveFrame(frame);
      rig.compare.stopped('primary');
      for (const frame of first) rig.secondary.giveFrame(frame);
      await rig.compare.peerMarks('primary', rig.secondaryMark());
      rig.compare.resumed('primary');
      // The next epoch: said by both before the commit, and kept apart.
      const next = kinds('after!');
      next[5] = tcpSix({ seq: 106, ack: 1, payload: 'after!' });
      for (const frame of next) rig.primary.giveFrame(frame);
      for (const frame of next) rig.secondary.giveFrame(frame);
      const held = await rig.compare.heldOutput();
      const texts = (frames: readonly Uint8Array[]): string[] =>
        frames.map((frame) => Buffer.from(frame).toString('hex')).sort();
      assert.deepEqual(texts(held.map(({ frame }) => frame)), texts([arpFor(2), ...first]));
      assert.deepEqual(rig.released(), []);
      await rig.compare.commit('primary');
      assert.deepEqual(texts(rig.released()), texts([arpFor(2), ...first, ...next]));
      assert.equal(rig.requests.length, 0);
      assert.deepEqual([rig.compare.heldPackets, rig.compare.heldBytes], [0, 0]);
      // The buffers have been used again since.
      for (const frame of first) rig.primary.giveFrame(frame);
      assert.deepEqual(texts(held.map(({ frame }) => frame)), texts([arpFor(2), ...first]));
    },
    { findOutputNetdev: () => 'hn0' },
  ));

test('a secondary that floods with ARP asks for nothing and fills nothing for good', () =>
  withRig(
    (rig) => {
      for (let at = 0; at < 1000; at++) {
        const frame = arpFor(2);
        frame.set([at >> 8, at], 40);
        rig.secondary.giveFrame(frame);
      }
      assert.deepEqual([rig.compare.connections, rig.requests.length], [64, 0]);
      rig.secondary.giveFrame(udp('x'));
      rig.primary.giveFrame(udp('x'));
      assert.equal(count(rig), 1);
    },
    { maxFlows: 64 },
  ));
