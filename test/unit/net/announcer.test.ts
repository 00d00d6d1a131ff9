/** When announcements go out. The times are QEMU's; test/interop/net/announce.test.ts compares with it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { Announcer, DEFAULT_ANNOUNCE_TIMES, MAX_ANNOUNCE_SERIES } from '../../../src/net/announcer.ts';

function setUp(t: TestContext): {
  announcer: Announcer;
  said: string[];
  /** Lets time pass; at which milliseconds something was said meanwhile. */
  readonly pass: (ms: number) => number[];
} {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const said: string[] = [];
  const announcer = new Announcer((interfaces) => said.push(interfaces?.join('+') ?? 'all'));
  return {
    announcer,
    said,
    pass: (ms) => {
      const times: number[] = [];
      for (let at = 1; at <= ms; at++) {
        const before = said.length;
        t.mock.timers.tick(1);
        if (said.length > before) times.push(at);
      }
      return times;
    },
  };
}

test('the first at once, the others further and further apart, up to the longest wait', (t) => {
  const { announcer, said, pass } = setUp(t);
  announcer.start(DEFAULT_ANNOUNCE_TIMES, null, null);
  assert.deepEqual(said, ['all']);
  assert.deepEqual(pass(2000), [50, 200, 450, 800]);
  assert.deepEqual(announcer.underWay, []);
  announcer.start({ initial: 10, max: 25, rounds: 5, step: 10 }, null, ['e0', 'e1']);
  assert.deepEqual(pass(2000), [10, 30, 55, 80]);
  assert.deepEqual(said.slice(5), Array<string>(5).fill('e0+e1'));
});

test('a series takes the place of the one with its id, and of no other', (t) => {
  const { announcer, said, pass } = setUp(t);
  const times = { initial: 10, max: 10, rounds: 3, step: 0 };
  announcer.start(times, null, null);
  announcer.start(times, '', ['first']);
  announcer.start(times, 'x', ['x']);
  pass(5);
  announcer.start(times, '', ['second']);
  pass(100);
  const count = (name: string): number => said.filter((each) => each === name).length;
  assert.deepEqual(['all', 'first', 'x', 'second'].map(count), [3, 1, 3, 3]);
  announcer.start(times, 'x', null);
  announcer.start({ ...times, rounds: 0 }, 'x', null);
  assert.deepEqual(announcer.underWay, []);
});

test('series are bounded, a migration has room always, and nothing is said after the end', (t) => {
  const { announcer, said, pass } = setUp(t);
  const times = { initial: 10, max: 10, rounds: 2, step: 0 };
  for (let at = 0; at < MAX_ANNOUNCE_SERIES; at++) announcer.start(times, `${at}`, null);
  assert.throws(() => announcer.start(times, 'one more', null), /are under way/);
  announcer.start(times, '0', null);
  announcer.start(times, null, null);
  const before = said.length;
  announcer.close();
  announcer.close();
  assert.deepEqual(pass(100), []);
  assert.equal(said.length, before);
});
