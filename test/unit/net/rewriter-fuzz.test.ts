/**
 * filter-rewriter against a hostile guest and hostile clients: each frame comes out once, as long as it was, changed in
 * its TCP header only, and its checksum is as right as it was before. COLO_FUZZ=N makes it N times as long.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { tcpChecksum } from '../../../src/net/checksum.ts';
import { RewriterFilter } from '../../../src/net/filters/rewriter.ts';
import { Netdev } from '../../../src/net/netdev.ts';
import { ETHERTYPE, PROTOCOL, PacketView, u16 } from '../../../src/net/packet.ts';
import { ipv6, tcp } from './frames.ts';
import { Dice } from '../../helpers/dice.ts';
import { FUZZ, hostileFrame } from './hostile-frames.ts';

const MAX_FLOWS = 16;

function setUp() {
  const netdev = new Netdev({ id: 'hn0' });
  const out: Uint8Array[] = [];
  netdev.guest = (frame) => out.push(new Uint8Array(frame));
  netdev.wire = (frame) => out.push(new Uint8Array(frame));
  const rewriter = new RewriterFilter('rew0', {
    queue: 'all',
    enabled: true,
    vnetHdrSupport: false,
    maxFlows: MAX_FLOWS,
  });
  netdev.insert(rewriter);
  return { netdev, rewriter, out };
}

/** The frame with both ends exchanged: addresses, and ports where they usually are. */
function turned(frame: Uint8Array): Uint8Array {
  const copy = Uint8Array.from(frame);
  const isSix = u16(frame, 12) === ETHERTYPE.IPV6;
  const [at, length] = isSix ? [22, 16] : [26, 4];
  const portsAt = at + 2 * length;
  if (frame.length < portsAt + 4) return copy;
  copy.set(frame.subarray(at, at + length), at + length);
  copy.set(frame.subarray(at + length, portsAt), at);
  copy.set(frame.subarray(portsAt, portsAt + 2), portsAt + 2);
  copy.set(frame.subarray(portsAt + 2, portsAt + 4), portsAt);
  return copy;
}

/** A client's acknowledgment with SACK blocks, at odd offsets too. */
function selective(dice: Dice): Uint8Array {
  const lead = dice.roll(4);
  const options = new Uint8Array(40).fill(1);
  options.set([5, 2 + 8 * (1 + dice.roll(4)), ...dice.bytes(32)], lead);
  const frame = tcp({
    sourcePort: 80 + dice.roll(3),
    seq: dice.roll(2 ** 32),
    ack: dice.roll(2 ** 32),
    options,
  });
  return turned(frame);
}

function handshake(dice: Dice): Uint8Array {
  const fields = { sourcePort: 80 + dice.roll(3), seq: dice.roll(2 ** 32), ack: 1001, flags: 'S' };
  return dice.once(2) ? tcp(fields) : ipv6(PROTOCOL.TCP, tcp(fields).subarray(34));
}

/** Ones' complement distance of a segment's checksum from the right one. */
function checksumError(frame: Uint8Array, view: PacketView): number {
  return (u16(frame, view.transportAt + 16) + 0xffff - tcpChecksum(frame, view)) % 0xffff;
}

function check(before: Uint8Array, after: Uint8Array, what: string): void {
  assert.equal(after.length, before.length, what);
  if (Buffer.from(before).equals(Buffer.from(after))) return;
  const [was, is] = [new PacketView(), new PacketView()];
  was.parse(before);
  is.parse(after);
  assert.ok(was.isTcp && is.isTcp, `${what}: only segments are changed`);
  for (const [at, byte] of before.entries()) {
    const isHeader = at >= was.transportAt + 4 && at < was.payloadAt;
    assert.ok(isHeader || after[at] === byte, `${what}: byte ${at} is none of its business`);
  }
  assert.deepEqual([is.tcpFlags, is.tcpHeaderBytes], [was.tcpFlags, was.tcpHeaderBytes], what);
  assert.equal(checksumError(after, is), checksumError(before, was), `${what}: the checksum`);
}

test('hostile frames both ways', async () => {
  let changed = 0;
  for (let seed = 1; seed <= 60 * FUZZ; seed++) {
    const dice = new Dice(seed);
    const { netdev, rewriter, out } = setUp();
    for (let step = 0; step < 300; step++) {
      const what = `seed ${seed}, step ${step}`;
      // Handshakes often enough for mappings to be there.
      const make = dice.pick([handshake, selective, hostileFrame, hostileFrame, hostileFrame]);
      const frame = make(dice);
      const given = dice.once(2) ? turned(frame) : frame;
      out.length = 0;
      if (dice.once(2)) netdev.sendFromGuest(given);
      else netdev.receiveFromWire(given);
      assert.equal(out.length, 1, what);
      check(given, out[0]!, what);
      assert.ok(rewriter.flows <= MAX_FLOWS, what);
      if (dice.once(100)) netdev.notify(dice.pick(['checkpoint', 'failover']));
      if (dice.once(100)) {
        const marks = rewriter.stopped('primary');
        await rewriter.peerMarks('secondary', marks);
        await rewriter.commit('secondary');
      }
    }
    changed += rewriter.stats.rewritten;
    netdev.remove(rewriter);
    rewriter.close();
  }
  assert.ok(changed > 100 * FUZZ, `${changed} frames rewritten: too few to be of use`);
});
