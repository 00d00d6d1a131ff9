import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { FlowKey } from '../../../src/net/flow-key.ts';
import { Flow, FlowTable } from '../../../src/net/flow-table.ts';
import { ipv6Text } from '../../../src/net/flow-text.ts';
import { PacketView } from '../../../src/net/packet.ts';
import { arp, ethernet, ipv6, tcp, tcpToGuest, udp, vlan } from './frames.ts';

function keyOf(frame: Uint8Array): FlowKey {
  const view = new PacketView();
  view.parse(frame);
  return view.key;
}

function textOf(frame: Uint8Array): string {
  return new Flow(keyOf(frame)).text;
}

test('flows are named by protocol, both ends and VLANs', () => {
  assert.equal(textOf(tcp()), 'tcp/10.0.2.15:80>10.0.2.2:40000');
  assert.equal(textOf(vlan(5, udp('x'))), 'udp/10.0.2.15:53>10.0.2.2:5000 vlan 5');
  assert.equal(textOf(vlan(7, vlan(5, udp('x')), 0x88a8)), 'udp/10.0.2.15:53>10.0.2.2:5000 vlan 7 vlan 5');
  assert.equal(textOf(ipv6(58, Uint8Array.from([128, 0, 0, 0, 0, 0, 0, 0]))), 'icmpv6/fd00::f>fd00::2');
  const request = Buffer.from(
    '0001080006040001525400000001' + '0a00020f' + '000000000000' + '0a000202',
    'hex',
  );
  assert.equal(
    textOf(ethernet(0x0806, Buffer.concat([request, new Uint8Array(18)]))),
    'arp/10.0.2.15>10.0.2.2',
  );
  assert.equal(textOf(arp()), 'arp/52:54:00:00:00:01>52:54:00:00:00:02');
  assert.equal(
    textOf(ethernet(0x88cc, new Uint8Array(46))),
    'ethertype-0x88cc/52:54:00:00:00:01>52:54:00:00:00:02',
  );
});

test('IPv6 addresses are written as RFC 5952 wants them', () => {
  assert.equal(ipv6Text(0, 0, 0, 1), '::1');
  assert.equal(ipv6Text(0, 0, 0, 0), '::');
  assert.equal(ipv6Text(0x20010db8, 0, 0x00010000, 1), '2001:db8::1:0:0:1');
  assert.equal(ipv6Text(0x20010db8, 1, 0x00010001, 0x00010001), '2001:db8:0:1:1:1:1:1');
});

test('IPv6 extension headers are skipped, a lying one hides what is behind it', () => {
  const view = new PacketView();
  const segment = tcp({ seq: 9, payload: 'abc' }).subarray(34);
  const options = Uint8Array.from([6, 0, 1, 4, 0, 0, 0, 0]);
  assert.equal(view.parse(ipv6(60, Buffer.concat([options, segment]))), true);
  assert.deepEqual([view.isTcp, view.sequence, view.payloadBytes, view.protocol], [true, 9, 3, 6]);
  assert.equal(view.transportAt - view.ipPayloadAt, 8);
  options[1] = 200;
  view.parse(ipv6(60, Buffer.concat([options, segment])));
  assert.deepEqual([view.isTcp, view.lengthFits], [false, false]);
  const fragment = Uint8Array.from([6, 0, 0, 9, 0, 0, 0, 1]);
  view.parse(ipv6(44, Buffer.concat([fragment, segment])));
  assert.deepEqual([view.isTcp, view.fragment, view.protocol, view.key.ports], [false, 9, 6, 0]);
  const chain = Buffer.concat(Array.from({ length: 20 }, () => Uint8Array.from([60, 0, 1, 4, 0, 0, 0, 0])));
  view.parse(ipv6(60, Buffer.concat([chain, segment])));
  assert.deepEqual([view.isTcp, view.lengthFits], [false, false]);
});

test('a frame in the middle of others is read within its bounds', () => {
  const view = new PacketView();
  const [before, frame] = [udp('before'), tcp({ seq: 3, payload: 'abc' })];
  const bytes = Buffer.concat([before, new Uint8Array(10), frame, udp('behind')]);
  const from = before.length;
  const to = from + 10 + frame.length;
  assert.equal(view.parse(bytes, 10, from, to), true);
  assert.deepEqual([view.start, view.payloadAt, view.ipEnd], [from + 10, to - 3, to]);
  view.parse(bytes, 10, from, to - 1);
  assert.equal(view.lengthFits, false);
});

test('the other direction has the reversed key, and only that', () => {
  const reversed = new FlowKey().copyReversed(keyOf(tcp()));
  assert.ok(reversed.equals(keyOf(tcpToGuest())));
  assert.ok(!reversed.equals(keyOf(tcp())));
});

test('a table finds what was put into it and nothing else, whatever the field that differs', () => {
  const word = fc.integer();
  const fields = [
    's0',
    's1',
    's2',
    's3',
    'd0',
    'd1',
    'd2',
    'd3',
    'ports',
    'protocol',
    'etherType',
    'vlan',
  ] as const;
  fc.assert(
    fc.property(fc.array(word, { minLength: 12, maxLength: 12 }), fc.nat(11), word, (words, which, other) => {
      const key = new FlowKey();
      fields.forEach((field, at) => (key[field] = words[at]! | 0));
      const table = new FlowTable();
      const flow = new Flow(key);
      table.insert(flow);
      assert.equal(table.find(new FlowKey().copy(key)), flow);
      const field = fields[which]!;
      const isSame = key[field] === (other | 0);
      key[field] = other | 0;
      assert.equal(table.find(key), isSame ? flow : null);
    }),
  );
});
