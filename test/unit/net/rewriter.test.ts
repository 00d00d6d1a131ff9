import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeMappings } from '../../../src/net/filters/mapping-marks.ts';
import { CARRIER_NAMES, options, sack, stamps } from './carriers.ts';
import { udp } from './frames.ts';
import { C, P, S, accept, optionsOf, setUp } from './rewriter-rig.ts';

test('both directions of an accepted connection are mapped, with right checksums', () => {
  const side = setUp();
  accept(side);
  assert.deepEqual(side.out({ seq: S + 1, ack: C + 1, payload: 'hello' }), {
    seq: (P + 1) >>> 0,
    ack: C + 1,
  });
  assert.deepEqual(side.in({ seq: C + 1, ack: P + 6, payload: 'odd' }), { seq: C + 1, ack: S + 6 });
  // Across the wrap of the primary's numbers.
  assert.equal(side.out({ seq: S + 0x2000, ack: C }).seq, (P + 0x2000) >>> 0);
  assert.equal(side.out({ seq: S, ack: C + 1, flags: 'S' }).seq, P, 'a repeated SYN+ACK is mapped by then');
  assert.equal(side.rewriter.stats.rewritten, 5);
});

for (const carrier of CARRIER_NAMES) {
  test(`over ${carrier}: numbers, SACK blocks and timestamps, at odd offsets too`, () => {
    const side = setUp(undefined, carrier);
    // The guest's clock is 1000 behind.
    side.in({ seq: C, flags: 'S', options: options(...stamps(1, 0)) });
    side.out({ seq: S, ack: C + 1, flags: 'S', options: options(...stamps(4000, 1)) });
    side.in({ seq: C + 1, ack: P + 1, options: options(...stamps(2, 5000)) });
    for (const lead of [[], [1], [1, 1, 1]]) {
      const edges = [P + 10, P + 20].map((edge) => edge >>> 0);
      const given = options(...lead, ...stamps(3, 5001), ...sack(...edges));
      assert.deepEqual(side.in({ seq: C + 1, ack: P + 1, options: given, payload: 'odd' }), {
        seq: C + 1,
        ack: S + 1,
      });
      const expected = options(...lead, ...stamps(3, 4001), ...sack(S + 10, S + 20));
      assert.deepEqual(optionsOf(side.guest.at(-1)!), expected);
      side.out({ seq: S + 1, ack: C + 1, options: options(...lead, ...stamps(4002, 3)) });
      assert.deepEqual(optionsOf(side.wire.at(-1)!), options(...lead, ...stamps(5002, 3)));
    }
  });
}

test('a connection that the guest opens is mapped', () => {
  const side = setUp();
  assert.equal(side.out({ seq: S, flags: 'S' }).seq, S);
  assert.equal(side.in({ seq: C, ack: P + 1, flags: 'S' }).ack, S + 1);
  assert.equal(side.out({ seq: S + 1, ack: C + 1 }).seq, (P + 1) >>> 0);
});

test('equal numbers, unknown connections and other protocols pass as they are', () => {
  const side = setUp();
  side.in({ seq: C, flags: 'S' });
  side.out({ seq: P, ack: C + 1, flags: 'S' });
  side.in({ seq: C + 1, ack: P + 1 });
  assert.equal(side.out({ seq: P + 1, ack: C + 1 }).seq, (P + 1) >>> 0);
  assert.equal(side.out({ seq: 77, ack: 1, sourcePort: 9 }).seq, 77);
  side.netdev.sendFromGuest(udp('x'));
  assert.deepEqual(side.wire.at(-1), udp('x'));
  assert.equal(side.rewriter.stats.rewritten, 0);
});

test('after a checkpoint the guest has the numbers of the primary', async () => {
  for (const way of ['commit', 'event'] as const) {
    const side = setUp();
    accept(side);
    if (way === 'commit') await side.rewriter.commit('secondary');
    else side.netdev.notify('checkpoint');
    assert.equal(side.out({ seq: P + 1, ack: C + 1 }).seq, (P + 1) >>> 0);
    assert.equal(side.in({ seq: C, ack: P + 9 }).ack, (P + 9) >>> 0);
    // The loaded guest may repeat its SYN+ACK, with the number that the client knows.
    side.out({ seq: P, ack: C + 1, flags: 'S' });
    assert.equal(side.in({ seq: C + 1, ack: P + 1 }).ack, (P + 1) >>> 0);
  }
});

test('after a failover old connections stay mapped, new ones are not', () => {
  const side = setUp();
  accept(side);
  side.netdev.notify('failover');
  assert.equal(side.out({ seq: S + 5, ack: C }).seq, (P + 5) >>> 0);
  side.in({ seq: C, flags: 'S', sourcePort: 41_000 });
  side.out({ seq: 999, ack: C + 1, flags: 'S', destinationPort: 41_000 });
  assert.equal(side.in({ seq: C + 1, ack: 1000, sourcePort: 41_000 }).ack, 1000);
  // A new connection under the old name.
  side.in({ seq: C + 70_000, flags: 'S' });
  side.out({ seq: 5000, ack: C + 70_001, flags: 'S' });
  assert.equal(side.in({ seq: C + 70_001, ack: 5001 }).ack, 5001);
  assert.equal(side.rewriter.flows, 0);
});

test('a stray SYN does not lose the mapping', () => {
  const side = setUp();
  accept(side);
  side.in({ seq: C + 9999, flags: 'S' });
  assert.equal(side.out({ seq: S + 1, ack: C + 1 }).seq, (P + 1) >>> 0);
});

test('a promoted secondary hands its mappings to the next one', async () => {
  const promoted = setUp();
  accept(promoted);
  promoted.netdev.notify('failover');
  const marks = promoted.rewriter.stopped('primary');
  assert.equal(marks.length, 1);
  assert.ok(marks.every((mark) => mark.stream.length <= 256));
  const next = setUp();
  await next.rewriter.peerMarks('secondary', marks);
  await next.rewriter.commit('secondary');
  next.netdev.notify('checkpoint');
  assert.equal(next.out({ seq: S + 1, ack: C + 1 }).seq, (P + 1) >>> 0);
  assert.equal(next.in({ seq: C + 1, ack: P + 1 }).ack, S + 1);
  // One that was given up changes nothing.
  await next.rewriter.peerMarks('secondary', []);
  next.rewriter.resumed();
  assert.equal(next.out({ seq: S + 1, ack: C + 1 }).seq, (P + 1) >>> 0);
});

test('closed connections are not handed on, and a peer cannot break the marks', () => {
  const side = setUp();
  accept(side);
  side.out({ seq: S + 1, ack: C + 1, flags: 'F' });
  side.in({ seq: C + 1, ack: P + 2, flags: 'F' });
  assert.equal(side.rewriter.stopped('primary').length, 1);
  side.out({ seq: S + 2, ack: C + 2 });
  assert.deepEqual(side.rewriter.stopped('primary'), []);
  assert.deepEqual(decodeMappings('hn0', [{ stream: 'rewriter/hn0/zz', bytes: 1 }]), []);
  assert.deepEqual(decodeMappings('hn0', [{ stream: 'rewriter/hn0/', bytes: 1 }]), []);
  const entry = `4${'0'.repeat(32)}ffffffff${'0'.repeat(16)}`;
  for (const tail of ['', '4', 'zz', '6' + '0'.repeat(103), entry.slice(1)]) {
    const found = decodeMappings('hn0', [{ stream: `rewriter/hn0/${entry}${tail}`, bytes: 1 }]);
    assert.deepEqual(
      found.map(({ offset }) => offset),
      [0xffffffff],
    );
  }
});

test('a full table gives up the mapping that was not used for longest', () => {
  const side = setUp(2);
  accept(side);
  for (const port of [1001, 1002]) {
    side.out({ seq: S + 1, ack: C + 1 });
    side.out({ seq: 1, flags: 'S', destinationPort: port });
  }
  assert.deepEqual([side.rewriter.flows, side.rewriter.stats.evicted], [2, 1]);
  assert.equal(side.out({ seq: S + 1, ack: C + 1 }).seq, (P + 1) >>> 0);
});
