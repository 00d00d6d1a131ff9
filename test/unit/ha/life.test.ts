/** The life's table is what docs/states/life.md draws; every state can be left, and reached. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { LIFE, live, NEW_LIFE, type LifeEvent } from '../../../src/ha/life/life.ts';
import { BackOff } from '../../../src/ha/life/back-off.ts';
import { VM_STATES, type VmState } from '../../../src/ha/views.ts';

const PAGE = new URL('../../../docs/states/life.md', import.meta.url);

function arrows(): string[] {
  return VM_STATES.flatMap((from) =>
    Object.entries(LIFE[from]).map(([event, to]) => `${from} --> ${to}: ${event}`),
  ).sort();
}

test('docs/states/life.md has every transition and every state, and no other', async () => {
  const text = await readFile(PAGE, 'utf8');
  const drawn = [...text.matchAll(/^ {2}([a-z-]+ --> [a-z-]+: [a-z-]+)$/gm)].map(([, arrow]) => arrow ?? '');
  assert.deepEqual(drawn.sort(), arrows());
  const told = [...text.matchAll(/^\| `([a-z-]+)` +\|/gm)].map(([, state]) => state ?? '');
  assert.deepEqual(told.sort(), [...VM_STATES].sort());
});

test('every state can be reached from down, and down from every state', () => {
  const next = (from: VmState): VmState[] => Object.values(LIFE[from]);
  for (const [begin, goal] of [
    ...VM_STATES.map((to) => ['down', to] as const),
    ...VM_STATES.map((from) => [from, 'down'] as const),
  ]) {
    const seen = new Set<VmState>([begin]);
    for (const state of seen) for (const to of next(state)) seen.add(to);
    assert.ok(seen.has(goal), `${begin} never leads to ${goal}`);
  }
});

test('what is of no concern in a state changes nothing', () => {
  const events: LifeEvent[] = ['back', 'won', 'again', 'stopped', 'whole'];
  for (const event of events) assert.equal(live(NEW_LIFE, event, 'no reason', 1), null);
  const after = live(NEW_LIFE, 'start', 'wanted', 7);
  assert.deepEqual(after, {
    life: { state: 'starting', reason: 'wanted', sinceMs: 7 },
    change: { from: 'down', to: 'starting', reason: 'wanted' },
  });
});

test('pauses double up to their bound, and begin anew after a success', () => {
  const never = new BackOff({ firstMs: 100, longestMs: 1000 }, () => 0);
  assert.deepEqual(
    [never.next(), never.next(), never.next(), never.next(), never.next()],
    [100, 200, 400, 800, 1000],
  );
  never.reset();
  assert.equal(never.next(), 100);
  const shorter = new BackOff({ firstMs: 100, longestMs: 1000 }, () => 1);
  assert.equal(shorter.next(), 75);
});
