import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DEFAULT_HOLD_LIMITS, Hold } from '../../../src/switch/hold.ts';
import { BROADCAST, frame, mac, NOBODY, textOf } from './frames.ts';

const texts = (frames: Uint8Array[]): string[] => frames.map(textOf);

void test('what was unread and what came since is released in order, once', (t) => {
  const hold = new Hold();
  t.after(() => hold.close());
  assert.equal(hold.active, false);
  hold.portClosed([mac(1)], [frame(mac(9), mac(1), 'unread'), frame(mac(9), NOBODY, 'a flood for others')]);
  assert.equal(hold.active, true);
  assert.ok(hold.keepUnicast(mac(1), frame(mac(9), mac(1), 'later')));
  hold.keepGroup(frame(mac(9), BROADCAST, 'who has'));
  assert.ok(hold.keepUnicast(mac(1), frame(mac(9), mac(1), 'last')));
  assert.equal(hold.keepUnicast(NOBODY, frame(mac(9), NOBODY)), false);
  assert.deepEqual(texts(hold.release(mac(1))), ['unread', 'later', 'who has', 'last']);
  assert.equal(hold.active, false);
  assert.deepEqual(hold.release(mac(1)), []);
});

void test('a kept frame is a copy', (t) => {
  const hold = new Hold();
  t.after(() => hold.close());
  hold.portClosed([mac(1)], []);
  const bytes = frame(mac(9), mac(1), 'before');
  hold.keepUnicast(mac(1), bytes);
  bytes.fill(0x21, 14);
  assert.deepEqual(texts(hold.release(mac(1))), ['before']);
});

void test('each address of a dead port is released on its own, group frames with the first', (t) => {
  const hold = new Hold();
  t.after(() => hold.close());
  hold.portClosed([mac(1), mac(2)], [frame(mac(9), BROADCAST, 'all')]);
  hold.keepUnicast(mac(1), frame(mac(9), mac(1), 'one'));
  hold.keepUnicast(mac(2), frame(mac(9), mac(2), 'two'));
  assert.deepEqual(texts(hold.release(mac(2))), ['all', 'two']);
  hold.keepGroup(frame(mac(9), BROADCAST, 'flooded to the successor already'));
  assert.deepEqual(texts(hold.release(mac(1))), ['one']);
});

void test('nothing is kept beyond the window', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const hold = new Hold();
  hold.portClosed([mac(1)], []);
  hold.keepUnicast(mac(1), frame(mac(9), mac(1)));
  t.mock.timers.tick(DEFAULT_HOLD_LIMITS.windowMs - 1);
  assert.equal(hold.active, true);
  t.mock.timers.tick(1);
  assert.equal(hold.active, false);
  assert.equal(hold.keepUnicast(mac(1), frame(mac(9), mac(1))), false);
  assert.deepEqual(hold.counters, { kept: 1, delivered: 0, expired: 1, dropped: 0 });
});

void test('bounded for each address and as a whole, the oldest frames stay', (t) => {
  const hold = new Hold({ ...DEFAULT_HOLD_LIMITS, windowMs: 60_000, bytesPerMac: 1000, bytesTotal: 1500 });
  t.after(() => hold.close());
  hold.portClosed([mac(1), mac(2)], []);
  for (let i = 0; i < 100; i++) hold.keepUnicast(mac(1), frame(mac(9), mac(1), String(i)));
  const keptByOne = hold.counters.kept;
  assert.ok(keptByOne > 0 && keptByOne * (14 + 64) <= 1000);
  for (let i = 0; i < 100; i++) hold.keepUnicast(mac(2), frame(mac(9), mac(2), String(i)));
  assert.ok(hold.counters.kept > keptByOne && hold.counters.kept * (14 + 64) <= 1500);
  assert.equal(hold.counters.kept + hold.counters.dropped, 200);
  assert.equal(texts(hold.release(mac(1)))[0], '0');
  // What was released makes room.
  assert.ok(hold.keepUnicast(mac(2), frame(mac(9), mac(2), 'more')));
  assert.equal(texts(hold.release(mac(2))).at(-1), 'more');
});
