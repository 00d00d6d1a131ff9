// Events on their way to the monitors, with QEMU's rate limits.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { VmEvents } from '../../../src/vm/events.ts';
import type { VmEvent } from '../../../src/vm/events.ts';

function listening(): { events: VmEvents; seen: string[] } {
  const events = new VmEvents();
  const seen: string[] = [];
  events.subscribe(({ event, data }) => seen.push(`${event} ${JSON.stringify(data)}`));
  return { events, seen };
}
const bad = (node: string, sector: number): Record<string, unknown> => ({
  'node-name': node,
  'sector-num': sector,
});

test('QUORUM_REPORT_BAD: the first goes at once, a second of them becomes the latest, for each node', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const { events, seen } = listening();
  const text = (node: string, sector: number): string =>
    `QUORUM_REPORT_BAD ${JSON.stringify(bad(node, sector))}`;
  for (const sector of [1, 2, 3]) {
    for (const node of ['a', 'b']) events.emit('QUORUM_REPORT_BAD', bad(node, sector));
  }
  assert.deepEqual(seen, [text('a', 1), text('b', 1)]);
  t.mock.timers.tick(999);
  assert.equal(seen.length, 2);
  t.mock.timers.tick(1);
  assert.deepEqual(seen.slice(2), [text('a', 3), text('b', 3)]);
  // The merged one opens a second of its own.
  events.emit('QUORUM_REPORT_BAD', bad('a', 4));
  assert.equal(seen.length, 4);
  t.mock.timers.tick(1000);
  assert.deepEqual(seen.slice(4), [text('a', 4)]);
  // A quiet second closes it.
  t.mock.timers.tick(2000);
  events.emit('QUORUM_REPORT_BAD', bad('a', 5));
  assert.deepEqual(seen.slice(5), [text('a', 5)]);
  events.close();
});

test('QUORUM_FAILURE is limited as one, other events are not', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const { events, seen } = listening();
  events.emit('QUORUM_FAILURE', { reference: 'a' });
  events.emit('QUORUM_FAILURE', { reference: 'b' });
  for (let i = 0; i < 3; i++) events.emit('STOP');
  assert.deepEqual(seen, [
    'QUORUM_FAILURE {"reference":"a"}',
    'STOP undefined',
    'STOP undefined',
    'STOP undefined',
  ]);
  events.close();
  t.mock.timers.tick(5000);
  assert.equal(seen.length, 4, 'nothing is told after the end');
});

test('COLO_COMPARE_REQUEST is limited for each comparer, the latest of a second is told', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const { events, seen } = listening();
  const asked = (id: string, cause: string): string =>
    `COLO_COMPARE_REQUEST ${JSON.stringify({ id, cause })}`;
  for (const cause of ['payload', 'length', 'timeout']) {
    for (const id of ['comp0', 'comp1']) events.emit('COLO_COMPARE_REQUEST', { id, cause });
  }
  assert.deepEqual(seen, [asked('comp0', 'payload'), asked('comp1', 'payload')]);
  t.mock.timers.tick(1000);
  assert.deepEqual(seen.slice(2), [asked('comp0', 'timeout'), asked('comp1', 'timeout')]);
  events.close();
});

test('a listener that left hears no more; the time is the wall clock’s', () => {
  const events = new VmEvents();
  const seen: VmEvent[] = [];
  const leave = events.subscribe((event) => seen.push(event));
  const before = Math.floor(Date.now() / 1000);
  events.emit('STOP');
  leave();
  events.emit('RESUME');
  assert.deepEqual(
    seen.map(({ event }) => event),
    ['STOP'],
  );
  const { seconds, microseconds } = seen[0]!.timestamp;
  assert.ok(seconds >= before && seconds <= Date.now() / 1000);
  assert.ok(microseconds >= 0 && microseconds < 1_000_000);
});
