import assert from 'node:assert/strict';
import { describe, it, test } from 'node:test';
import { onesSum } from '../../../src/net/checksum.ts';
import type { Direction, FilterHost, NetFilter } from '../../../src/net/filter.ts';
import { MAX_FRAME_BYTES } from '../../../src/net/framing.ts';
import { Netdev } from '../../../src/net/netdev.ts';
import { GUEST_MAC, tcp } from './frames.ts';

/** Writes its name on each packet that passes. */
function tagger(id: string, queue: NetFilter['queue'] = 'all', trace: string[] = []): NetFilter {
  let host: FilterHost | null = null;
  return {
    id,
    typeName: 'test',
    queue,
    enabled: true,
    attached: (to) => (host = to),
    receive(packet: Uint8Array, direction: Direction) {
      trace.push(id);
      if (id !== 'thief') return false;
      host?.passOn(this, packet, direction);
      return true;
    },
    handleEvent: (event) => trace.push(`${id}:${event}`),
    properties: () => ({}),
    close: () => undefined,
  };
}

function setUp(limits: { holdLimitFrames?: number; holdLimitBytes?: number } = {}) {
  const netdev = new Netdev({ id: 'hn0', ...limits });
  const guest: string[] = [];
  const wire: string[] = [];
  netdev.guest = (frame) => guest.push(Buffer.from(frame).toString());
  netdev.wire = (frame) => wire.push(Buffer.from(frame).toString());
  return { netdev, guest, wire };
}

const frame = (text: string): Uint8Array => Buffer.from(text);

test('tx walks head to tail, rx tail to head, and each filter sees its own direction', () => {
  const { netdev, guest, wire } = setUp();
  const trace: string[] = [];
  netdev.insert(tagger('a', 'all', trace));
  netdev.insert(tagger('b', 'tx', trace));
  netdev.insert(tagger('c', 'rx', trace));
  const off = tagger('off', 'all', trace);
  off.enabled = false;
  netdev.insert(off);
  netdev.receiveFromWire(frame('in'));
  assert.deepEqual(trace.splice(0), ['a', 'b']);
  netdev.sendFromGuest(frame('out'));
  assert.deepEqual(trace, ['c', 'a']);
  assert.deepEqual([guest, wire], [['in'], ['out']]);
});

test('positions are head, tail, id=<x> and a bare id, before or behind', () => {
  const { netdev } = setUp();
  netdev.insert(tagger('m'));
  netdev.insert(tagger('tail'), { position: 'tail' });
  netdev.insert(tagger('head'), { position: 'head' });
  netdev.insert(tagger('behind'), { position: 'id=m' });
  netdev.insert(tagger('before'), { position: 'id=m', insert: 'before' });
  netdev.insert(tagger('bare'), { position: 'm', insert: 'before' });
  assert.deepEqual(
    netdev.filters.map((filter) => filter.id),
    ['head', 'before', 'bare', 'm', 'behind', 'tail'],
  );
  const count = netdev.filters.length;
  assert.throws(() => netdev.insert(tagger('x'), { position: 'id=zz' }), {
    message: "filter 'zz' not found",
  });
  assert.throws(() => netdev.insert(tagger('x'), { position: 'zz' }), {
    message: "Parameter 'position' expects 'head', 'tail' or 'id=<id>'",
  });
  assert.throws(() => netdev.insert(tagger('x'), { insert: 'after' }), {
    message: "Parameter 'insert' does not accept value 'after'",
  });
  assert.equal(netdev.filters.length, count);
});

test('what a filter passes on goes behind its own place', () => {
  const { netdev, guest, wire } = setUp();
  const trace: string[] = [];
  netdev.insert(tagger('a', 'all', trace));
  netdev.insert(tagger('thief', 'all', trace));
  netdev.insert(tagger('z', 'all', trace));
  netdev.receiveFromWire(frame('in'));
  assert.deepEqual(trace.splice(0), ['a', 'thief', 'z']);
  netdev.sendFromGuest(frame('out'));
  assert.deepEqual(trace, ['z', 'thief', 'a']);
  assert.deepEqual([guest, wire], [['in'], ['out']]);
});

test('a silent secondary hears only what its filters inject and says nothing', () => {
  const { netdev, guest, wire } = setUp();
  const filter = tagger('f');
  netdev.insert(filter);
  netdev.wireEnabled = false;
  netdev.receiveFromWire(frame('from wire'));
  netdev.sendFromGuest(frame('to wire'));
  netdev.passOn(filter, frame('to wire'), 'rx');
  netdev.announce(new Uint8Array(6));
  netdev.passOn(filter, frame('injected'), 'tx');
  assert.deepEqual([guest, wire], [['injected'], []]);
  netdev.wireEnabled = true;
  netdev.announce(new Uint8Array(6));
  assert.equal(wire.length, 1);
});

test('held frames wait in front of the chain, in order, and go before newer ones', () => {
  const { netdev, guest } = setUp();
  const trace: string[] = [];
  netdev.insert(tagger('a', 'all', trace));
  netdev.hold();
  const reused = Buffer.from('1');
  netdev.receiveFromWire(reused);
  reused.write('X');
  netdev.receiveFromWire(frame('2'));
  assert.deepEqual([trace, guest, netdev.heldFrames], [[], [], 2]);
  netdev.guest = (bytes) => {
    const text = Buffer.from(bytes).toString();
    guest.push(text);
    if (text === '1') netdev.receiveFromWire(frame('3'));
  };
  netdev.release();
  assert.deepEqual(guest, ['1', '2', '3']);
  netdev.receiveFromWire(frame('4'));
  assert.deepEqual(guest, ['1', '2', '3', '4']);
});

test('a hold in the middle of a release keeps the rest in order', () => {
  const { netdev, guest } = setUp();
  netdev.hold();
  for (const text of ['1', '2', '3']) netdev.receiveFromWire(frame(text));
  netdev.guest = (bytes) => {
    guest.push(Buffer.from(bytes).toString());
    if (guest.length === 1) {
      netdev.receiveFromWire(frame('4'));
      netdev.hold();
    }
  };
  netdev.release();
  assert.deepEqual([guest, netdev.heldFrames], [['1'], 3]);
  netdev.release();
  assert.deepEqual(guest, ['1', '2', '3', '4']);
});

test('the hold queue drops its oldest past either bound', () => {
  const { netdev, guest } = setUp({ holdLimitFrames: 3, holdLimitBytes: 10 });
  netdev.hold();
  for (const text of ['a', 'b', 'c', 'd']) netdev.receiveFromWire(frame(text));
  netdev.receiveFromWire(frame('eeeeeeeee'));
  netdev.release();
  assert.deepEqual([guest, netdev.stats.holdDropped], [['d', 'eeeeeeeee'], 3]);
});

test('a link that is down passes nothing, and events reach every filter', () => {
  const { netdev, guest, wire } = setUp();
  const trace: string[] = [];
  netdev.insert(tagger('a', 'rx', trace));
  netdev.linkDown = true;
  netdev.receiveFromWire(frame('x'));
  netdev.sendFromGuest(frame('y'));
  assert.deepEqual([guest, wire, trace], [[], [], []]);
  netdev.notify('failover');
  assert.deepEqual(trace, ['a:failover']);
});

void describe('packets with a virtio-net header', () => {
  const whole = Uint8Array.from(tcp({ payload: 'x', seq: 1, ack: 2 }));
  const left = Buffer.concat([Buffer.of(1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0), whole]);
  // The pseudo header's sum, as a driver leaves it.
  left.writeUInt16BE(onesSum(Uint8Array.of(0, 6, 0, 21), 0, 4, onesSum(whole, 26, 34)), 12 + 50);

  it('lose it, and are made whole, where the wire knows none', () => {
    const netdev = new Netdev({ id: 'hn0', vnetHeaderBytes: 12 });
    const [guest, wire]: [Uint8Array[], Uint8Array[]] = [[], []];
    netdev.guest = (packet) => guest.push(Uint8Array.from(packet));
    netdev.wire = (packet) => wire.push(Uint8Array.from(packet));
    netdev.sendFromGuest(Uint8Array.from(left));
    assert.deepEqual(wire, [whole]);
    netdev.receiveFromWire(whole);
    assert.deepEqual(guest, [Uint8Array.from([...new Uint8Array(12), ...whole])]);
    netdev.hold();
    netdev.receiveFromWire(whole);
    netdev.release();
    assert.deepEqual(guest[1], guest[0]);
    // One that waits goes as well.
    netdev.holdOutput();
    netdev.sendFromGuest(Uint8Array.from(left));
    assert.equal(wire.length, 1);
    netdev.releaseOutput();
    assert.deepEqual(wire[1], whole);
    netdev.announce(GUEST_MAC);
    assert.equal(wire[2]?.length, 60);
    assert.deepEqual(wire[2].subarray(6, 12), GUEST_MAC);
    const large = Buffer.concat([
      Buffer.of(1, 1, 0, 0, 232, 3, 34, 0, 16, 0, 0, 0),
      tcp({ payload: new Uint8Array(2500) }),
    ]);
    netdev.sendFromGuest(large);
    assert.deepEqual(
      wire.slice(3).map(({ length }) => length),
      [1054, 1054, 554],
    );
    assert.equal(netdev.stats.toWire, 6);
    netdev.sendFromGuest(Buffer.of(0, 9, ...new Uint8Array(60)));
    netdev.sendFromGuest(new Uint8Array(12));
    assert.deepEqual([wire.length, netdev.stats.discarded], [6, 2]);
    netdev.receiveFromWire(new Uint8Array(MAX_FRAME_BYTES - 11));
    assert.equal(netdev.stats.discarded, 3);
  });

  it('keep it where the wire has one too', () => {
    const netdev = new Netdev({ id: 'hn0', vnetHeaderBytes: 12 });
    netdev.hasVnetWire = true;
    const [guest, wire]: [Uint8Array[], Uint8Array[]] = [[], []];
    netdev.guest = (packet) => guest.push(Uint8Array.from(packet));
    netdev.wire = (packet) => wire.push(Uint8Array.from(packet));
    netdev.sendFromGuest(left);
    netdev.receiveFromWire(left);
    netdev.announce(GUEST_MAC);
    assert.deepEqual(wire[0], Uint8Array.from(left));
    assert.deepEqual(guest, [Uint8Array.from(left)]);
    assert.equal(wire[1]?.length, 72);
  });
});
