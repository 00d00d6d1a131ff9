import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { announceFrame } from '../../../src/net/announce.ts';
import { ipv4HeaderChecksum, tcpChecksum, updateChecksum } from '../../../src/net/checksum.ts';
import { PacketView, putU32, sequenceDifference, u16, u32 } from '../../../src/net/packet.ts';
import { CLIENT, GUEST, arp, ethernet, hasRightChecksum, tcp, udp } from './frames.ts';

test('a TCP frame is taken apart, padding is not payload', () => {
  const view = new PacketView();
  view.parse(tcp({ seq: 0xfffffff0, ack: 7, flags: 'PF', payload: 'hey', padTo: 64 }));
  assert.ok(view.isComparable && view.isTcp);
  assert.deepEqual(
    [view.sourceAddress, view.destinationAddress, view.sourcePort, view.destinationPort],
    [GUEST, CLIENT, 80, 40_000],
  );
  assert.deepEqual([view.sequence, view.acknowledgment, view.tcpFlags], [0xfffffff0, 7, 0x19]);
  assert.deepEqual([view.payloadAt, view.payloadBytes], [54, 3]);
});

test('a vnet header in front moves everything', () => {
  const frame = tcp({ seq: 5, payload: 'x' });
  const shifted = Buffer.concat([new Uint8Array(12), frame]);
  const view = new PacketView();
  view.parse(shifted, 12);
  assert.deepEqual([view.isTcp, view.sequence, view.payloadAt], [true, 5, 66]);
  assert.equal(view.parse(shifted, 21), false);
});

test('VLAN tags, IPv6 and ARP are recognised and not comparable', () => {
  const view = new PacketView();
  const tagged = ethernet(0x8100, Buffer.concat([Uint8Array.from([0, 5, 8, 0]), tcp().subarray(14)]));
  assert.equal(view.parse(tagged), true);
  assert.deepEqual([view.vlanTags, view.isTcp, view.isComparable], [1, true, false]);
  assert.equal(view.parse(arp()), false);
  assert.equal(view.etherType, 0x0806);
  const six = new Uint8Array(40 + 20);
  six.set([0x60, 0, 0, 0, 0, 20, 6, 64]);
  six[40 + 12] = 0x50;
  assert.equal(view.parse(ethernet(0x86dd, six)), true);
  assert.deepEqual([view.network, view.isTcp, view.payloadBytes], ['ipv6', true, 0]);
});

test('a fragment and a wrong length have no TCP header', () => {
  const view = new PacketView();
  view.parse(udp('abc', { fragment: 0x2000 }));
  assert.deepEqual([view.fragment, view.sourcePort], [0x2000, 0]);
  const short = tcp({ payload: 'abc' });
  view.parse(short.subarray(0, short.length - 1));
  assert.deepEqual([view.network, view.lengthFits, view.isTcp], ['ipv4', false, false]);
});

test('no frame makes the parser read past its end', () => {
  const view = new PacketView();
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 120 }), fc.nat(64), fc.nat(24), (noise, cut, vnet) => {
      const frame = Buffer.concat([tcp({ payload: 'abc' }).subarray(0, cut), noise]);
      view.parse(frame, vnet);
      assert.ok(view.ipEnd <= frame.length || view.network === 'none');
      if (view.isTcp) assert.ok(view.payloadAt + view.payloadBytes <= frame.length && view.payloadBytes >= 0);
    }),
    { numRuns: 500 },
  );
});

test('the IPv4 header checksum of RFC 1071 practice', () => {
  // Wikipedia's worked example: 4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7.
  const header = Buffer.from('450000730000400040110000c0a80001c0a800c7', 'hex');
  assert.equal(ipv4HeaderChecksum(header, 0, 20), 0xb861);
});

test('an updated checksum equals a computed one', () => {
  const view = new PacketView();
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 33 }),
      fc.nat(0xffffffff),
      fc.nat(0xffffffff),
      fc.constantFrom(4, 8, 21, 22, 23),
      (payload, before, after, field) => {
        const options = new Uint8Array(12).fill(1);
        const frame = tcp({ options, payload });
        view.parse(frame);
        const at = view.transportAt + field;
        putU32(frame, at, before);
        const checksum = tcpChecksum(frame, view);
        putU32(frame, at, after);
        const updated = updateChecksum(checksum, before, after, field % 2 === 1);
        // 0 and 0xffff are the same number here.
        assert.equal(updated % 0xffff, tcpChecksum(frame, view) % 0xffff);
      },
    ),
    { numRuns: 300 },
  );
  assert.ok(hasRightChecksum(tcp({ payload: 'odd' })));
});

test('sequence numbers wrap', () => {
  assert.equal(sequenceDifference(2, 0xfffffffe), 4);
  assert.equal(sequenceDifference(0xfffffffe, 2), -4);
});

test('the announcement is a RARP broadcast about the MAC itself', () => {
  const mac = Uint8Array.from([2, 0, 0, 0, 0, 9]);
  const frame = announceFrame(mac);
  assert.equal(frame.length, 60);
  assert.deepEqual([u32(frame, 0), u16(frame, 4)], [0xffffffff, 0xffff]);
  assert.deepEqual([u16(frame, 12), u16(frame, 14), u16(frame, 16), u16(frame, 20)], [0x8035, 1, 0x0800, 3]);
  for (const at of [6, 22, 32]) assert.deepEqual([...frame.subarray(at, at + 6)], [...mac]);
});
