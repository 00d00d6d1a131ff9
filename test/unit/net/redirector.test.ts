import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MirrorFilter } from '../../../src/net/filters/mirror.ts';
import { RedirectorFilter } from '../../../src/net/filters/redirector.ts';
import { ReplayRing } from '../../../src/net/filters/replay-ring.ts';
import { RewriterFilter } from '../../../src/net/filters/rewriter.ts';
import { Netdev } from '../../../src/net/netdev.ts';
import { PacketView, TCP_FLAG } from '../../../src/net/packet.ts';
import { payloadText, tcp, tcpToGuest } from './frames.ts';
import { MemoryChardev, framed } from './memory-chardev.ts';

const text = (frame: Uint8Array): string => Buffer.from(frame).toString();
const frame = (letters: string): Uint8Array => Buffer.from(letters);

function setUp() {
  const netdev = new Netdev({ id: 'hn0' });
  const guest: string[] = [];
  const wire: string[] = [];
  netdev.guest = (bytes) => guest.push(text(bytes));
  netdev.wire = (bytes) => wire.push(text(bytes));
  return { netdev, guest, wire };
}

test('a mirror copies and lets pass; a peer that is absent or slow costs copies only', () => {
  const { netdev, guest } = setUp();
  const out = new MemoryChardev('mirror0');
  const mirror = new MirrorFilter('m0', { queue: 'tx', enabled: true, outdev: out, vnetHdrSupport: false });
  netdev.insert(mirror);
  netdev.receiveFromWire(frame('one'));
  out.full = true;
  netdev.receiveFromWire(frame('two'));
  out.full = false;
  out.connected = false;
  netdev.receiveFromWire(frame('three'));
  assert.deepEqual(guest, ['one', 'two', 'three']);
  assert.deepEqual(out.frames().map(text), ['one']);
  assert.deepEqual(mirror.stats, { mirrored: 1, lost: 2 });
});

test("a mirror's mark on the primary is what it has written", () => {
  const { netdev } = setUp();
  const out = new MemoryChardev('mirror0');
  const mirror = new MirrorFilter('m0', { queue: 'tx', enabled: true, outdev: out, vnetHdrSupport: true });
  netdev.insert(mirror);
  netdev.receiveFromWire(frame('one'));
  assert.deepEqual(mirror.stopped('primary'), [{ stream: 'mirror0:1>peer:2', bytes: 11 }]);
  assert.deepEqual(mirror.stopped('secondary'), []);
  assert.deepEqual(out.frames(true).map(text), ['one']);
});

function redirector(
  netdev: Netdev,
  queue: 'rx' | 'tx' | 'all',
  ends: { indev?: MemoryChardev; outdev?: MemoryChardev; now?: () => number },
): RedirectorFilter {
  const filter = new RedirectorFilter('f', {
    queue,
    enabled: true,
    indev: ends.indev ?? null,
    outdev: ends.outdev ?? null,
    vnetHdrSupport: false,
    ...(ends.now && { now: ends.now }),
  });
  netdev.insert(filter);
  return filter;
}

test('a redirector takes packets out, and drops them without a peer', () => {
  const { netdev, wire } = setUp();
  const outdev = new MemoryChardev('red1');
  redirector(netdev, 'rx', { outdev });
  netdev.sendFromGuest(frame('a'));
  outdev.connected = false;
  netdev.sendFromGuest(frame('b'));
  assert.deepEqual([wire, outdev.frames().map(text)], [[], ['a']]);
});

test('without outdev it lets pass; what comes from indev goes on behind its place, both ways for queue=all', () => {
  for (const queue of ['tx', 'rx', 'all'] as const) {
    const { netdev, guest, wire } = setUp();
    const indev = new MemoryChardev('red0');
    const filter = redirector(netdev, queue, { indev });
    netdev.sendFromGuest(frame('own'));
    filter.enabled = false;
    indev.giveFrame(frame('injected'));
    assert.deepEqual(guest, queue === 'rx' ? [] : ['injected']);
    assert.deepEqual(wire, queue === 'tx' ? ['own'] : ['own', 'injected']);
  }
});

test('indev is read again after a reconnect, half a frame is forgotten, an oversized one ends the connection', () => {
  const { netdev, guest } = setUp();
  const indev = new MemoryChardev('red0');
  redirector(netdev, 'tx', { indev });
  indev.give(framed(frame('half')).subarray(0, 6));
  indev.disconnect();
  indev.reconnect();
  indev.giveFrame(frame('whole'));
  assert.deepEqual(guest, ['whole']);
  assert.throws(() => indev.give(Buffer.from('ffffffff', 'hex')), /4294967295/);
  indev.giveFrame(frame('deaf'));
  indev.disconnect();
  indev.reconnect();
  indev.giveFrame(frame('again'));
  assert.deepEqual(guest, ['whole', 'again']);
});

test('the same chardev cannot be taken twice, and a failed redirector leaves nothing taken', () => {
  const indev = new MemoryChardev('in');
  const outdev = new MemoryChardev('out');
  outdev.attach({ onData: () => undefined }, 'somebody');
  const options = { queue: 'all', enabled: true, indev, outdev, vnetHdrSupport: false } as const;
  assert.throws(() => new RedirectorFilter('f', options), { message: "chardev 'out' is already in use" });
  assert.equal(indev.user, null);
});

const incoming = 'peer:2>red0:1';

test('a secondary discards the input that a loaded checkpoint contains, and keeps what is newer', async () => {
  const { netdev, guest } = setUp();
  const indev = new MemoryChardev('red0');
  const filter = redirector(netdev, 'tx', { indev });
  indev.giveFrame(frame('1'));
  filter.stopping('secondary');
  indev.giveFrame(frame('2'));
  indev.giveFrame(frame('3'));
  indev.giveFrame(frame('4'));
  assert.deepEqual(guest, ['1']);
  assert.deepEqual(filter.stopped('secondary'), []);
  await filter.peerMarks('secondary', [
    { stream: 'another', bytes: 1000 },
    { stream: incoming, bytes: 15 },
  ]);
  await filter.commit('secondary');
  filter.resumed('secondary');
  assert.deepEqual(guest, ['1', '4']);
  assert.equal(filter.stats.discarded, 2);
});

test('while the first state travels its input is read and discarded', async () => {
  const { netdev, guest } = setUp();
  const indev = new MemoryChardev('red0');
  const filter = redirector(netdev, 'tx', { indev });
  await filter.start('secondary');
  filter.stopping('secondary');
  indev.giveFrame(frame('1'));
  assert.equal(indev.bytesIn, 5, 'so that the mirror can go on');
  await filter.peerMarks('secondary', [{ stream: incoming, bytes: 10 }]);
  indev.giveFrame(frame('2'));
  indev.giveFrame(frame('3'));
  assert.equal(indev.bytesIn, 5);
  await filter.commit('secondary');
  filter.resumed('secondary');
  assert.deepEqual(guest, ['3']);
  filter.stopping('secondary');
  indev.giveFrame(frame('4'));
  assert.deepEqual(guest, ['3'], 'later checkpoints do not read on');
});

test('a checkpoint that is not loaded discards nothing: the previous state needs that input', async () => {
  for (const end of ['failover', 'resumed'] as const) {
    const { netdev, guest } = setUp();
    const indev = new MemoryChardev('red0');
    const filter = redirector(netdev, 'tx', { indev });
    filter.stopping('secondary');
    indev.giveFrame(frame('2'));
    await filter.peerMarks('secondary', [{ stream: incoming, bytes: 5 }]);
    if (end === 'failover') await filter.stop('secondary', true);
    else filter.resumed('secondary');
    assert.deepEqual(guest, ['2']);
  }
});

test('marks are of one connection: after a reconnect nothing is discarded', async () => {
  const { netdev, guest } = setUp();
  const indev = new MemoryChardev('red0');
  const filter = redirector(netdev, 'tx', { indev });
  filter.stopping('secondary');
  await filter.peerMarks('secondary', [{ stream: incoming, bytes: 100 }]);
  indev.disconnect();
  indev.reconnect('red0b');
  await filter.commit('secondary');
  filter.resumed('secondary');
  indev.giveFrame(frame('new'));
  assert.deepEqual(guest, ['new']);
});

test('at failover a secondary turns off and says again what it said since the checkpoint, if it is young', async () => {
  const { netdev, wire } = setUp();
  const outdev = new MemoryChardev('red1');
  let nowMs = 0;
  const filter = redirector(netdev, 'rx', { outdev, now: () => nowMs });
  await filter.start('secondary');
  netdev.wireEnabled = false;
  netdev.sendFromGuest(frame('before the checkpoint'));
  await filter.commit('secondary');
  netdev.sendFromGuest(frame('old'));
  nowMs = 600;
  netdev.sendFromGuest(frame('young 1'));
  netdev.sendFromGuest(frame('young 2'));
  netdev.wireEnabled = true;
  netdev.notify('failover');
  assert.deepEqual(wire, ['young 1', 'young 2']);
  assert.equal(filter.enabled, false);
  netdev.sendFromGuest(frame('own'));
  netdev.notify('failover');
  assert.deepEqual(wire, ['young 1', 'young 2', 'own']);
});

test('at failover no connection begins a second time: the client may know it by the number of the primary', async () => {
  const { netdev } = setUp();
  const wire: Uint8Array[] = [];
  netdev.wire = (bytes) => wire.push(new Uint8Array(bytes));
  const mirrored = new MemoryChardev('red0');
  redirector(netdev, 'tx', { indev: mirrored });
  const filter = redirector(netdev, 'rx', { outdev: new MemoryChardev('red1') });
  netdev.insert(new RewriterFilter('rew0', { queue: 'all', enabled: true, vnetHdrSupport: false }));
  await filter.start('secondary');
  netdev.wireEnabled = false;
  // Two clocks that are 1.4 ms apart: the secondary's initial number lies in the window of the primary's connection.
  const primary = 1_000_000;
  const secondary = primary + 22_199;
  mirrored.giveFrame(tcpToGuest({ seq: 500, flags: 'S' }));
  netdev.sendFromGuest(tcp({ seq: secondary, ack: 501, flags: 'S' }));
  mirrored.giveFrame(tcpToGuest({ seq: 501, ack: primary + 1, payload: 'question' }));
  netdev.sendFromGuest(tcp({ seq: secondary + 1, ack: 509, payload: 'answer' }));
  // One of its own, which the primary's guest has opened under another number.
  netdev.sendFromGuest(tcp({ sourcePort: 81, seq: secondary, flags: 'S' }));
  netdev.wireEnabled = true;
  netdev.notify('failover');
  const view = new PacketView();
  const said = wire.map((bytes) => {
    view.parse(bytes);
    return [view.sequence, view.tcpFlags & TCP_FLAG.SYN, payloadText(bytes)];
  });
  assert.deepEqual(said, [[primary + 1, 0, 'answer']]);
});

test('a primary replays nothing', () => {
  const { netdev, wire } = setUp();
  redirector(netdev, 'rx', { outdev: new MemoryChardev('compare0') });
  netdev.sendFromGuest(frame('x'));
  netdev.notify('failover');
  assert.deepEqual(wire, []);
});

test('the replay ring is bounded by bytes and by age', () => {
  const ring = new ReplayRing(100, 1000);
  for (let at = 0; at < 500; at++) ring.push(new Uint8Array(100), at);
  assert.equal(ring.size, 10);
  assert.equal(ring.take(495 + 100).length, 5);
  assert.equal(ring.size, 0);
});
