import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Direction, FilterHost, NetFilter } from '../../../src/net/filter.ts';
import { Netdev } from '../../../src/net/netdev.ts';

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
