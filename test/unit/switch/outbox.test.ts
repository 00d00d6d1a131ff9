import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Outbox, type OutboxLimits } from '../../../src/switch/outbox.ts';
import { frame, framed, mac, textOf } from './frames.ts';

const LIMITS: OutboxLimits = { queueBytes: 4 * 1024 * 1024, recordBytes: 256 * 1024, recordMs: 250 };

/** An outbox on a stream that takes everything, or, once stuck, queues everything. */
function setUp(limits: Partial<OutboxLimits> = {}) {
  const written: Uint8Array[] = [];
  const state = { writableLength: 0, isStuck: false, now: 0 };
  const stream = {
    get writableLength() {
      return state.writableLength;
    },
    write(bytes: Uint8Array) {
      written.push(bytes);
      if (state.isStuck) state.writableLength += bytes.length;
      return !state.isStuck;
    },
  };
  const outbox = new Outbox(stream, { ...LIMITS, ...limits }, () => state.now);
  return { outbox, state, written };
}

const numbered = (n: number): Uint8Array => frame(mac(1), mac(2), String(n));

void test('a burst is one write, framed, and the caller may reuse its buffer', () => {
  const { outbox, written } = setUp();
  const bytes = frame(mac(1), mac(2), 'a');
  outbox.push(bytes);
  const expected = Buffer.concat([framed(bytes), framed(frame(mac(1), mac(2), 'bb'))]);
  bytes.fill(0);
  outbox.push(frame(mac(1), mac(2), 'bb'));
  outbox.flush();
  outbox.flush();
  assert.equal(written.length, 1);
  assert.deepEqual(Buffer.from(written[0]!), expected);
});

void test('frames of every size pass unchanged through the ends of slabs', () => {
  const { outbox, written } = setUp({ queueBytes: Infinity });
  const sent: Buffer[] = [];
  for (const size of [14, 1514, 65_000, 69_632, 60, 1514, 64_000, 2000, 14]) {
    const bytes = new Uint8Array(size).fill(size & 0xff);
    assert.ok(outbox.push(bytes));
    sent.push(framed(bytes));
  }
  outbox.flush();
  assert.deepEqual(Buffer.concat(written), Buffer.concat(sent));
});

void test('beyond its bound frames are dropped, and taken again once the socket has caught up', () => {
  const { outbox, state } = setUp({ queueBytes: 100 });
  state.isStuck = true;
  let taken = 0;
  while (outbox.push(numbered(taken))) {
    taken++;
    outbox.flush();
    assert.ok(taken < 10);
  }
  assert.equal(taken, 5);
  state.writableLength = 0;
  assert.ok(outbox.push(numbered(9)));
});

void test('the record has the frames of the last 250 ms, pending ones too', () => {
  const { outbox, state, written } = setUp();
  for (let i = 0; i < 10; i++) {
    state.now = i * 100;
    outbox.push(numbered(i));
    outbox.flush();
  }
  outbox.push(numbered(10));
  assert.deepEqual(outbox.recent().map(textOf), ['7', '8', '9', '10']);
  assert.equal(written.length, 10, 'asking writes nothing');
});

void test('while the peer does not read, age does not count', () => {
  const { outbox, state } = setUp();
  state.isStuck = true;
  outbox.push(numbered(0));
  outbox.flush();
  state.now = 10_000;
  assert.deepEqual(outbox.recent().map(textOf), ['0']);
  outbox.drained();
  assert.deepEqual(outbox.recent(), []);
});

void test('the record is bounded in bytes: the newest frames stay', () => {
  const { outbox } = setUp({ recordBytes: 19 * 3 });
  for (let i = 0; i < 9; i++) {
    outbox.push(numbered(i));
    outbox.flush();
  }
  assert.deepEqual(outbox.recent().map(textOf), ['6', '7', '8']);
});

void test('without a record nothing is remembered', () => {
  const { outbox } = setUp({ recordBytes: 0 });
  outbox.push(numbered(1));
  outbox.flush();
  assert.deepEqual(outbox.recent(), []);
});
