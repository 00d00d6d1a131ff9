/** A DHCP client's transaction number and seconds are held against nobody; all the rest is compared. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { putU16, putU32 } from '../../../src/net/packet.ts';
import { withRig } from './compare-rig.ts';
import type { Rig } from './compare-rig.ts';
import { SECS, XID, dhcp, dhcpReply } from './dhcp-frames.ts';
import type { DhcpFields } from './dhcp-frames.ts';
import { vlan } from './frames.ts';

const count = (rig: Rig): number => rig.released().length;
const P: DhcpFields = { xid: 0x11223344, secs: 0 };
const S: DhcpFields = { xid: 0x55667788, secs: 3 };

test('messages that differ in xid and secs only are the same, in any order and VLAN', () =>
  withRig((rig) => {
    const wraps = [(frame: Uint8Array) => frame, (frame: Uint8Array) => vlan(5, frame)];
    for (const [at, wrap] of wraps.entries()) {
      const message = (fields: DhcpFields, type: number): Uint8Array => wrap(dhcp({ ...fields, type }));
      rig.primary.giveFrame(message(P, 1));
      rig.secondary.giveFrame(message(S, 1));
      assert.equal(count(rig), 1);
      rig.secondary.giveFrame(message(S, 3));
      rig.primary.giveFrame(message(P, 3));
      assert.equal(count(rig), 1);
      // These are found by their hash.
      for (const type of [4, 7, 8]) rig.primary.giveFrame(message(P, type));
      for (const type of [8, 4, 7]) rig.secondary.giveFrame(message(S, type));
      assert.equal(count(rig), 3, `wrap ${at}`);
    }
    assert.deepEqual(rig.requests, []);
  }));

test('a byte beside them asks for a checkpoint, and is named', async () => {
  const base = dhcp(P);
  const byteAt = (at: number): Uint8Array => {
    const other = dhcp(S);
    other[at]! ^= 0x10;
    return other;
  };
  for (const at of [XID - 4, XID - 3, XID - 1, SECS + 2, XID + 24, base.length - 2]) {
    await withRig((rig) => {
      rig.primary.giveFrame(base);
      rig.secondary.giveFrame(byteAt(at));
      assert.equal(count(rig), 0);
      assert.equal(rig.requests[0]?.cause, 'payload', `byte ${at}`);
      assert.equal(rig.requests[0].difference?.packetOffset, at);
    });
  }
});

/** Pairs whose numbers count, as in any other datagram. */
const OTHERS: Record<string, (fields: DhcpFields) => Uint8Array> = {
  'a reply of the guest to a client': dhcpReply,
  'op of a reply': (fields) => dhcp({ ...fields, op: 2 }),
  'no cookie': (fields) => dhcp({ ...fields, cookie: 0x63825364 }),
  'another source port': (fields) => dhcp({ ...fields, sourcePort: 69 }),
  'another destination port': (fields) => dhcp({ ...fields, destinationPort: 68 }),
  'an address of no bytes': (fields) => dhcp({ ...fields, chaddr: new Uint8Array(0) }),
  'an address of 17 bytes': (fields) => dhcp({ ...fields, chaddr: new Uint8Array(17) }),
  'a first fragment': (fields) => dhcp({ ...fields, fragment: 0x2000 }),
  'a UDP length that is short': (fields) => {
    const frame = dhcp(fields);
    putU16(frame, 38, 248);
    return frame;
  },
  'a message that is cut off behind the options': (fields) => {
    const frame = dhcp(fields).subarray(0, 14 + 20 + 8 + 239);
    putU16(frame, 16, frame.length - 14);
    putU16(frame, 38, frame.length - 34);
    return frame;
  },
};

for (const [name, make] of Object.entries(OTHERS)) {
  test(`xid and secs are compared: ${name}`, async () => {
    for (const [at, write] of [
      [XID, (frame: Uint8Array) => putU32(frame, XID, 0x91223344)],
      [SECS, (frame: Uint8Array) => putU16(frame, SECS, 0x8000)],
    ] as const) {
      await withRig((rig) => {
        const frame = make(P);
        const other = Uint8Array.from(frame);
        write(other);
        rig.primary.giveFrame(frame);
        rig.secondary.giveFrame(other);
        assert.equal(count(rig), 0);
        assert.equal(rig.requests[0]?.difference?.packetOffset, at);
      });
    }
  });
}
