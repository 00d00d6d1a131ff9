/** The log of events: kept over restarts and damage, bounded on disk and in memory, followed by readers fast and slow. */
import assert from 'node:assert/strict';
import { appendFile, mkdtemp, readFile, rm, stat, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import { EventLog, MAX_EVENT_BYTES, MAX_KEPT_EVENTS, type NewEvent } from '../../../src/api/events.ts';
import type { EventQuery } from '../../../src/api/service.ts';
import type { HaEvent } from '../../../src/ha/views.ts';

let top = '';
before(async () => {
  top = await mkdtemp(path.join(tmpdir(), 'events-'));
});
after(() => rm(top, { recursive: true, force: true }));
const newFolder = (): Promise<string> => mkdtemp(path.join(top, 'log-'));

const NOTE: NewEvent = { type: 'note', reason: 'something' };

async function all(log: EventLog, query: Partial<EventQuery> = {}): Promise<HaEvent[]> {
  const events: HaEvent[] = [];
  for await (const event of log.read({ follow: false, ...query })) events.push(event);
  return events;
}
const numbers = (events: readonly HaEvent[]): number[] => events.map(({ sequence }) => sequence);

test('events are numbered, kept, and numbered on after a restart', async () => {
  const folder = await newFolder();
  const first = EventLog.open(folder, 'alpha');
  const added = first.add({ type: 'state', vm: 'web1', from: 'syncing', to: 'protecting', reason: 'copied' });
  assert.deepEqual([added.sequence, added.host, added.version], [1, 'alpha', 1]);
  assert.match(added.time, /^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
  first.add({ ...NOTE, vm: 'web2', data: { bytes: 5 } });
  first.close();
  const second = EventLog.open(folder, 'alpha');
  assert.equal(second.add(NOTE).sequence, 3);
  const events = await all(second);
  assert.deepEqual(events[0], added);
  assert.deepEqual(numbers(events), [1, 2, 3]);
  assert.deepEqual(numbers(await all(second, { after: 1 })), [2, 3]);
  assert.deepEqual(numbers(await all(second, { after: 3 })), []);
  assert.deepEqual(numbers(await all(second, { vm: 'web2' })), [2]);
  // A reader of a log that is no more.
  assert.deepEqual(numbers(await all(second, { after: 99 })), [1, 2, 3]);
  second.close();
});

test('a torn last line is skipped, wherever it is torn, and nothing is appended to it', async () => {
  const folder = await newFolder();
  const file = path.join(folder, 'events.jsonl');
  const log = EventLog.open(folder, 'alpha');
  log.add(NOTE);
  const whole = (await stat(file)).size;
  log.add({ ...NOTE, reason: 'the last one, with a snowman ☃' });
  log.close();
  const text = await readFile(file);
  for (let length = whole; length < text.length; length++) {
    await rm(file);
    await appendFile(file, text);
    await truncate(file, length);
    const again = EventLog.open(folder, 'alpha');
    // Without its newline alone it is whole.
    const isWhole = length === text.length - 1;
    assert.equal(again.add(NOTE).sequence, isWhole ? 3 : 2, `torn at ${length}`);
    again.close();
    const third = EventLog.open(folder, 'alpha');
    assert.deepEqual(numbers(await all(third)), isWhole ? [1, 2, 3] : [1, 2]);
    third.close();
  }
});

test('whatever the file holds, the log opens and goes on', async () => {
  const folder = await newFolder();
  const file = path.join(folder, 'events.jsonl');
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    fc.string().map((text) => Buffer.from(`${text}\n{"version":1,"sequence":1e99}\n[]\nnull\n`)),
  );
  await fc.assert(
    fc.asyncProperty(bytes, async (content) => {
      await rm(file, { force: true });
      await appendFile(file, content);
      const log = EventLog.open(folder, 'alpha');
      const added = log.add(NOTE);
      assert.deepEqual((await all(log)).at(-1), added);
      log.close();
      const again = EventLog.open(folder, 'alpha');
      assert.deepEqual((await all(again)).at(-1), added);
      again.close();
    }),
    { numRuns: 40 },
  );
});

test('the files are bounded, and what the older one holds is still read', async () => {
  const folder = await newFolder();
  const maxFileBytes = 2_000;
  const log = EventLog.open(folder, 'alpha', { maxFileBytes });
  for (let count = 0; count < 100; count++) log.add(NOTE);
  log.close();
  for (const name of ['events.jsonl', 'events.1.jsonl']) {
    const { size } = await stat(path.join(folder, name));
    assert.ok(size > 0 && size <= maxFileBytes, `${name}: ${size}`);
  }
  const again = EventLog.open(folder, 'alpha', { maxFileBytes });
  const kept = numbers(await all(again));
  assert.equal(kept.at(-1), 100);
  assert.ok(kept.length > 10 && kept.length < 40, `${kept.length} kept`);
  assert.deepEqual(
    kept,
    Array.from(kept, (_, at) => 100 - kept.length + 1 + at),
  );
  // Somebody who has seen 5 is told what is missing.
  const [gap, next] = await all(again, { after: 5 });
  assert.deepEqual([gap?.type, gap?.sequence, next?.sequence], ['gap', kept[0]! - 1, kept[0]]);
  assert.match(gap?.reason ?? '', new RegExp(`^${kept[0]! - 6} events were dropped`));
  again.close();
});

test('a reader that follows gets each event once, until its signal', async () => {
  const log = EventLog.open(await newFolder(), 'alpha');
  log.add(NOTE);
  const enough = new AbortController();
  const seen: number[] = [];
  for await (const { sequence } of log.read({ follow: true, signal: enough.signal })) {
    seen.push(sequence);
    if (sequence < 5) {
      // At once, and when it waits already.
      if (sequence % 2 === 0) log.add(NOTE);
      else setImmediate(() => log.add(NOTE));
    } else setImmediate(() => enough.abort());
  }
  assert.deepEqual(seen, [1, 2, 3, 4, 5]);
  log.close();
});

test('a reader that follows ends when the log is closed', async () => {
  const log = EventLog.open(await newFolder(), 'alpha');
  setImmediate(() => log.close());
  assert.deepEqual(await all(log, { follow: true }), []);
  // What happens while the daemon ends is no failure.
  assert.equal(log.add(NOTE).sequence, 1);
});

test('a reader that is too slow is told how many it has missed; memory is bounded', async () => {
  const log = EventLog.open(await newFolder(), 'alpha');
  log.add(NOTE);
  const reader = log.read({ follow: true });
  assert.equal(((await reader.next()).value as HaEvent).sequence, 1);
  for (let count = 0; count < MAX_KEPT_EVENTS + 1_000; count++) log.add(NOTE);
  const gap = (await reader.next()).value as HaEvent;
  assert.equal(gap.type, 'gap');
  const missed = Number(/^(\d+) events/.exec(gap.reason)?.[1]);
  assert.equal(((await reader.next()).value as HaEvent).sequence, 2 + missed);
  assert.ok((await all(log)).length < MAX_KEPT_EVENTS + 300);
  log.close();
});

test('an event too long for a line, or of what is not JSON, loses its data and is kept', async () => {
  const folder = await newFolder();
  const log = EventLog.open(folder, 'alpha');
  log.add({ ...NOTE, data: { text: 'x'.repeat(MAX_EVENT_BYTES) } });
  const circle: Record<string, unknown> = {};
  circle['self'] = circle;
  log.add({ ...NOTE, data: circle });
  log.add({ ...NOTE, reason: 'x'.repeat(2 * MAX_EVENT_BYTES) });
  log.close();
  const again = EventLog.open(folder, 'alpha');
  const events = await all(again);
  assert.deepEqual(numbers(events), [1, 2, 3]);
  for (const { data, reason } of events)
    assert.ok(data?.['isCut'] === true && reason.length <= MAX_EVENT_BYTES);
  again.close();
});
