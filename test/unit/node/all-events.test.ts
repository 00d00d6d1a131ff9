// The events of all hosts as one stream; what a page makes of it is in test/browser.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { EventQuery } from '../../../src/api/service.ts';
import { ColoError } from '../../../src/base/errors.ts';
import type { HaEvent } from '../../../src/ha/views.ts';
import {
  allEvents,
  type EventHost,
  MAX_OLD_EVENTS,
  MAX_UNREAD_EVENTS,
} from '../../../src/node/all-events.ts';

/** A host with kept events, and a way to tell more. */
class Host implements EventHost {
  readonly name: string;
  readonly asked: (number | undefined)[] = [];
  readonly kept: HaEvent[] = [];
  isAway = false;
  #news: () => void = () => undefined;

  constructor(name: string, ...seconds: number[]) {
    this.name = name;
    for (const second of seconds) this.tell(second);
  }

  tell(second: number): void {
    const time = new Date(second * 1000).toISOString();
    this.kept.push({
      version: 1,
      sequence: this.kept.length + 1,
      time,
      host: this.name,
      type: 'x',
      reason: '',
    });
    this.#news();
  }

  readonly events = async function* (this: Host, { after = 0, follow, signal }: EventQuery) {
    if (this.isAway) throw new ColoError(`${this.name} does not answer`);
    if (follow) this.asked.push(after);
    for (let at = after; ;) {
      while (at < this.kept.length) yield this.kept[at++]!;
      if (!follow || signal?.aborted === true) return;
      await new Promise<void>((resolve) => {
        this.#news = resolve;
        signal?.addEventListener('abort', () => resolve(), { once: true });
      });
    }
  }.bind(this);
}

const of = ({ host, sequence }: HaEvent): string => `${host}${sequence}`;

test('what was kept comes by time, then what is new, from every host that can be asked', async (t) => {
  const [a, b, c] = [new Host('a', 1, 4), new Host('b', 2, 3), new Host('c', 9)];
  c.isAway = true;
  const end = new AbortController();
  t.after(() => end.abort());
  const stream = allEvents(() => Promise.resolve([a, b, c]), end.signal);
  const next = async (): Promise<string> => of((await stream.next()).value as HaEvent);
  assert.deepEqual([await next(), await next(), await next(), await next()], ['a1', 'b1', 'b2', 'a2']);
  const news = next();
  b.tell(10);
  assert.equal(await news, 'b3');
  a.tell(11);
  assert.equal(await next(), 'a3');
  assert.deepEqual([a.asked, b.asked], [[2], [2]], 'nothing is asked for twice');
  const rest = stream.next();
  end.abort();
  assert.equal((await rest).done, true);
});

test('nothing grows without bound', async (t) => {
  const talker = new Host('a', ...Array.from({ length: 3 * MAX_OLD_EVENTS }, (_, at) => at));
  const end = new AbortController();
  t.after(() => end.abort());
  const stream = allEvents(() => Promise.resolve([talker]), end.signal);
  const first = (await stream.next()).value as HaEvent;
  assert.equal(first.sequence, 2 * MAX_OLD_EVENTS + 1);
  let told = 1;
  // The reader stands still while more is told than is kept for it.
  for (let at = 0; at < MAX_UNREAD_EVENTS + 500; at++) talker.tell(1000 + at);
  await new Promise((resolve) => setImmediate(resolve));
  const newest = talker.kept.length;
  for (;;) {
    const { sequence } = (await stream.next()).value as HaEvent;
    told++;
    if (sequence === newest) break;
  }
  assert.ok(told <= MAX_OLD_EVENTS + MAX_UNREAD_EVENTS, String(told));
  end.abort();
  assert.equal((await stream.next()).done, true);
});
