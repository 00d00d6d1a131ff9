/** The rewriter and a DHCP client in the guest: each copy is answered with the number that it has drawn. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MAX_DHCP_CLIENTS } from '../../../src/net/filters/dhcp-mapping.ts';
import { RewriterFilter } from '../../../src/net/filters/rewriter.ts';
import { Netdev } from '../../../src/net/netdev.ts';
import { dhcp, dhcpReply, udpChecksum, xidOf } from './dhcp-frames.ts';
import type { DhcpFields } from './dhcp-frames.ts';
import { GUEST_MAC, vlan } from './frames.ts';
import { setUp } from './rewriter-rig.ts';

/** The primary's number, the secondary's, and ones that are neither's. */
const P = 0xfffe0001;
const S = 0x00012345;
const Q = 0x77777777;

const mac = (last: number): Uint8Array => Uint8Array.from([...GUEST_MAC.subarray(0, 5), last]);

function ask(side: ReturnType<typeof setUp>, frame: Uint8Array): void {
  side.netdev.sendFromGuest(frame);
  assert.deepEqual(side.wire.at(-1), new Uint8Array(frame), 'what the guest says is left alone');
}

/** Gives the guest `frame`; what arrives differs in xid and checksum at most. Returns the xid. */
function answer(side: ReturnType<typeof setUp>, frame: Uint8Array): number {
  side.netdev.receiveFromWire(frame);
  const got = side.guest.at(-1)!;
  const { said, right } = udpChecksum(got);
  assert.equal(said, right);
  return xidOf(got);
}

const reply = (xid: number, fields: Partial<DhcpFields> = {}): Uint8Array => dhcpReply({ xid, ...fields });

test('offer and acknowledgment come with the number of the guest, all else as it was', () => {
  const side = setUp();
  ask(side, dhcp({ xid: S }));
  assert.equal(answer(side, reply(P)), S);
  assert.deepEqual(side.guest.at(-1), dhcpReply({ xid: S }), 'as if the server had said it');
  assert.equal(answer(side, reply(P)), S, 'another server');
  ask(side, dhcp({ xid: S, type: 3 }));
  assert.equal(answer(side, reply(P, { type: 5 })), S);
  ask(side, dhcp({ xid: S + 1, type: 3 }));
  assert.equal(answer(side, reply(Q, { type: 5 })), S + 1, 'a renewal has a number of its own');
});

test('without a checksum it stays without, and a sum of zero becomes ones', () => {
  const side = setUp();
  ask(side, dhcp({ xid: S }));
  side.netdev.receiveFromWire(reply(P, { hasChecksum: false }));
  assert.deepEqual(side.guest.at(-1), dhcpReply({ xid: S, hasChecksum: false }));
  // The low half of the number is what makes the sum of the rest up to ones.
  const base = 0x40000000;
  const { right } = udpChecksum(dhcpReply({ xid: base, hasChecksum: false }));
  const xid = base + right;
  assert.equal(udpChecksum(dhcpReply({ xid })).said, 0xffff);
  ask(side, dhcp({ xid }));
  assert.equal(answer(side, reply(P)), xid);
  assert.equal(udpChecksum(side.guest.at(-1)!).said, 0xffff);
});

test('what is not the answer passes', () => {
  const side = setUp();
  assert.equal(answer(side, reply(P)), P, 'nobody has asked');
  ask(side, dhcp({ xid: S }));
  assert.equal(answer(side, reply(Q, { chaddr: mac(9) })), Q, 'another client');
  assert.equal(answer(side, reply(Q, { chaddr: GUEST_MAC.subarray(0, 5) })), Q, 'a shorter address');
  assert.equal(answer(side, reply(Q, { htype: 6 })), Q, 'another hardware');
  assert.equal(answer(side, reply(Q, { op: 1 })), Q, 'a question');
  assert.equal(answer(side, reply(Q, { cookie: 1 })), Q, 'no cookie');
  assert.equal(answer(side, reply(Q, { destinationPort: 67 })), Q, 'to a relay');
  assert.equal(answer(side, vlan(7, reply(Q))), Q, 'another VLAN');
  assert.equal(answer(side, reply(P)), S, 'and none of them was taken for it');
  assert.equal(answer(side, reply(Q)), Q, 'only the first number is');
  assert.equal(answer(side, reply(P)), S);
  ask(side, dhcp({ xid: S }));
  assert.equal(answer(side, reply(Q)), S, 'until the guest asks again');
});

test('a guest that is answered with its own number is answered with no other', () => {
  const side = setUp();
  ask(side, dhcp({ xid: S }));
  assert.equal(answer(side, reply(S)), S);
  assert.equal(answer(side, reply(Q)), Q);
  assert.equal(side.rewriter.stats.rewritten, 0);
});

test('VLANs and clients are apart, and a few are remembered', () => {
  const side = setUp();
  ask(side, vlan(5, dhcp({ xid: S })));
  ask(side, dhcp({ xid: S + 1 }));
  assert.equal(answer(side, vlan(5 | 0x6000, reply(P))), S, 'whatever its priority');
  assert.equal(answer(side, reply(P)), S + 1);
  for (let n = 0; n < MAX_DHCP_CLIENTS; n++) ask(side, dhcp({ xid: S + n, chaddr: mac(100 + n) }));
  assert.equal(answer(side, reply(P)), P, 'the oldest has made room');
  for (let n = 0; n < MAX_DHCP_CLIENTS; n++) {
    assert.equal(answer(side, reply(P, { chaddr: mac(100 + n) })), S + n);
  }
});

test('a checkpoint brings the number of the primary', async () => {
  for (const take of [
    (rewriter: RewriterFilter) => rewriter.commit('secondary'),
    (rewriter: RewriterFilter) => {
      rewriter.handleEvent('checkpoint');
      return Promise.resolve();
    },
  ]) {
    const side = setUp();
    ask(side, dhcp({ xid: S }));
    assert.equal(answer(side, reply(P)), S);
    await take(side.rewriter);
    assert.equal(answer(side, reply(P)), P);
  }
});

test('after a failover what is mapped stays so until the guest asks itself', () => {
  const side = setUp();
  ask(side, dhcp({ xid: S }));
  ask(side, dhcp({ xid: S, chaddr: mac(9) }));
  assert.equal(answer(side, reply(P)), S);
  side.rewriter.handleEvent('failover');
  assert.equal(answer(side, reply(P)), S);
  assert.equal(answer(side, reply(Q, { chaddr: mac(9) })), S, 'the answer was on its way');
  ask(side, dhcp({ xid: S }));
  assert.equal(answer(side, reply(P)), P);
  assert.equal(answer(side, reply(S)), S);
  assert.equal(answer(side, reply(Q, { chaddr: mac(9) })), S, 'each client for itself');
});

test('a partial checksum behind a vnet header is left to the NIC', () => {
  for (const needsChecksum of [1, 0]) {
    const netdev = new Netdev({ id: 'hn0', vnetHeaderBytes: 12 });
    netdev.hasVnetWire = true;
    const guest: Uint8Array[] = [];
    netdev.guest = (frame) => guest.push(new Uint8Array(frame));
    netdev.wire = () => undefined;
    netdev.insert(new RewriterFilter('r', { queue: 'all', enabled: true, vnetHdrSupport: true }));
    const header = new Uint8Array(12);
    netdev.sendFromGuest(Buffer.concat([header, dhcp({ xid: S })]));
    header[0] = needsChecksum;
    const frame = reply(P);
    netdev.receiveFromWire(Buffer.concat([header, frame]));
    const got = guest[0]!;
    assert.equal(xidOf(got, 12), S);
    const { said, right } = udpChecksum(got, 12);
    assert.equal(said, needsChecksum === 1 ? udpChecksum(frame).said : right);
  }
});
