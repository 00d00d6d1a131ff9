/** The page's state: what messages make of it, that it stays bounded, and what is remembered of a copy that is gone. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { CheckpointSample, PairPicture, VmPicture } from '../../../src/dashboard/protocol.ts';
import type { HaEvent } from '../../../src/ha/views.ts';
import { pairHealth } from '../../../web/model/health.ts';
import { reduce } from '../../../web/model/reduce.ts';
import {
  ANSWERS_LIMIT,
  EMPTY,
  EVENTS_LIMIT,
  POINTS_LIMIT,
  SAMPLES_LIMIT,
  watchedVm,
} from '../../../web/model/state.ts';
import type { Input, PageState } from '../../../web/model/state.ts';
import { Store } from '../../../web/model/store.ts';
import { emptyPair, vmPicture } from '../../helpers/page-data.ts';

const after = (...inputs: readonly Input[]): PageState =>
  inputs.reduce((state, input) => reduce(state, input, 1000), EMPTY);

const cluster = (...vms: readonly VmPicture[]): Input => ({ type: 'cluster', hosts: [], vms });

const pair = (vm: string, atMs: number): PairPicture => ({ ...emptyPair(vm), atMs });

const sample = (sequence: number, atMs: number): CheckpointSample => ({
  ...{ sequence, atMs, cause: 'timer', pauseMs: 9, heldMs: 20, pages: 100, bytes: 409_600 },
});

const event = (sequence: number): HaEvent => ({
  ...{ version: 1, sequence, time: '2026-11-26T10:00:00Z', host: 'alpha', type: 'note', reason: 'x' },
});

test('the first VM is watched, another on demand, the first again when it is gone', () => {
  const [web, db] = [vmPicture({ name: 'web' }), vmPicture({ name: 'db' })];
  let state = after(cluster(web, db));
  assert.equal(state.watched, 'web');
  state = reduce(state, { type: 'choose', vm: 'db' }, 0);
  assert.equal(watchedVm(state), db);
  assert.equal(reduce(state, cluster(web, db), 0).watched, 'db');
  assert.equal(reduce(state, cluster(web), 0).watched, 'web');
  assert.equal(reduce(state, cluster(), 0).watched, null);
});

test('numbers of a VM that is not watched are not shown, and the watched one begins anew', () => {
  const first = after(cluster(vmPicture({ name: 'web' }), vmPicture({ name: 'db' })));
  assert.equal(reduce(first, { type: 'pair', pair: pair('db', 5) }, 0), first);
  const known = reduce(first, { type: 'pair', pair: pair('web', 5000) }, 2000);
  assert.equal(known.pair?.atMs, 5000);
  assert.equal(known.skewMs, 3000);
  const other = reduce(known, { type: 'choose', vm: 'db' }, 0);
  assert.deepEqual([other.pair, other.points.length, other.samples.length], [null, 0, 0]);
});

test('events, samples, points and answers are bounded', () => {
  let state = after(cluster(vmPicture({ name: 'web' })));
  for (let n = 1; n <= SAMPLES_LIMIT + 50; n++) {
    state = reduce(state, { type: 'pair', pair: pair('web', n) }, 0);
    state = reduce(state, { type: 'checkpoints', vm: 'web', isAll: false, samples: [sample(n, n)] }, 0);
    state = reduce(state, { type: 'events', events: [event(n)] }, 0);
    state = reduce(state, { type: 'asked', id: n, vm: 'web', title: 'Checkpoint now' }, 0);
  }
  assert.equal(state.points.length, POINTS_LIMIT);
  assert.equal(state.samples.length, SAMPLES_LIMIT);
  assert.equal(state.events.length, EVENTS_LIMIT);
  assert.equal(state.answers.length, ANSWERS_LIMIT);
  assert.equal(state.events.at(-1)?.sequence, SAMPLES_LIMIT + 50);
});

test('what is told again after a reconnection is there once', () => {
  const state = after({ type: 'events', events: [event(1), event(2)] });
  const again = reduce(state, { type: 'events', events: [event(1), event(2), event(3)] }, 0);
  assert.deepEqual(
    again.events.map(({ sequence }) => sequence),
    [1, 2, 3],
  );
  let samples = reduce(
    after(cluster(vmPicture({ name: 'web' }))),
    { type: 'checkpoints', vm: 'web', isAll: true, samples: [sample(1, 10), sample(2, 20)] },
    0,
  );
  samples = reduce(
    samples,
    { type: 'checkpoints', vm: 'web', isAll: false, samples: [sample(2, 20), sample(3, 30)] },
    0,
  );
  assert.deepEqual(
    samples.samples.map(({ atMs }) => atMs),
    [10, 20, 30],
  );
});

test('an action that was not answered before the connection ended is not taken for done', () => {
  const asked = after({ type: 'asked', id: 1, vm: 'web', title: 'Kill primary' });
  assert.equal(asked.answers[0]?.text, null);
  const done = reduce(asked, { type: 'answer', id: 1, error: null, text: 'killed' }, 0);
  assert.deepEqual([done.answers[0]?.text, done.answers[0]?.isError], ['killed', false]);
  const lost = reduce(asked, { type: 'link', link: 'lost' }, 0);
  assert.equal(lost.answers[0]?.isError, true);
  assert.equal(reduce(done, { type: 'link', link: 'lost' }, 0).answers[0]?.isError, false);
  assert.equal(reduce(lost, { type: 'dismiss', id: 1 }, 0).answers.length, 0);
});

test('a copy that is gone is remembered until another takes its place', () => {
  const whole = vmPicture({ name: 'web' });
  const killed = vmPicture({ name: 'web', state: 'unprotected', primary: 'beta', secondary: null });
  let state = after(cluster(whole), cluster(killed));
  assert.equal(state.losses.get('web')?.host, 'alpha');
  state = reduce(state, cluster(killed), 0);
  const { primary, secondary } = pairHealth(killed, state.losses.get('web') ?? null);
  assert.deepEqual([primary.host, primary.word], ['beta', 'alone']);
  assert.deepEqual([secondary.host, secondary.word], ['alpha', 'lost']);
  assert.equal(reduce(state, cluster(whole), 0).losses.size, 0);

  const left = vmPicture({ name: 'web', state: 'unprotected', primary: 'alpha', secondary: null });
  assert.equal(after(cluster(whole), cluster(left)).losses.get('web')?.host, 'beta');
  // A page that is opened afterwards knows it from the last failover.
  const lastFailover = { atMs: 5, from: 'alpha', to: 'beta', reason: 'x' };
  assert.equal(after(cluster({ ...killed, lastFailover })).losses.get('web')?.host, 'alpha');
  assert.equal(after(cluster({ ...left, lastFailover })).losses.size, 0);
});

test('the store tells what has changed, and nothing when nothing has', () => {
  const store = new Store(() => 0);
  const seen: string[] = [];
  const stop = store.subscribe((state, before) => seen.push(`${before.link} ${state.link}`));
  store.dispatch({ type: 'link', link: 'open' });
  store.dispatch({ type: 'events', events: [] });
  stop();
  store.dispatch({ type: 'link', link: 'lost' });
  assert.deepEqual(seen, ['connecting open']);
  assert.equal(store.state.link, 'lost');
});
