/** The picture's arithmetic: moods of the copies, arrows, where everything stands, and the charts' columns. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ACTIONS } from '../../../src/dashboard/protocol.ts';
import type { CheckpointSample } from '../../../src/dashboard/protocol.ts';
import { VM_STATES } from '../../../src/ha/views.ts';
import { ACTION_WORDS } from '../../../web/model/actions.ts';
import { ARROWS, arrowsOf, channelNote, heldLines, paceOf } from '../../../web/model/arrows.ts';
import { CHARTS } from '../../../web/model/charts.ts';
import { describePair, pairHealth } from '../../../web/model/health.ts';
import { BOXES, NARROW, WIDE } from '../../../web/model/layout.ts';
import type { Rect } from '../../../web/model/layout.ts';
import { BUCKET_MS, causeColumns, pairColumns, spread, WINDOW_MS } from '../../../web/model/series.ts';
import { EMPTY } from '../../../web/model/state.ts';
import { busyPair, emptyPair, vmPicture } from '../../helpers/page-data.ts';

test('every state has a picture, in words too', () => {
  for (const state of VM_STATES) {
    for (const [primary, secondary] of [
      ['alpha', 'beta'],
      ['alpha', null],
      [null, null],
    ] as const) {
      const vm = vmPicture({ state, primary, secondary });
      const health = pairHealth(vm, null);
      assert.equal(arrowsOf(health, busyPair('web')).length, ARROWS.length);
      const words = describePair(vm, health);
      assert.match(words, /^web: .+ epoch 3\. The primary.+ The secondary/);
      assert.ok(!/null|undefined|NaN/.test(words), words);
    }
  }
});

test('what is silent, lost or joining is told apart', () => {
  const moods = (changes: Parameters<typeof vmPicture>[0]): string => {
    const { primary, secondary } = pairHealth(vmPicture(changes), null);
    return `${primary.mood} ${secondary.mood}`;
  };
  assert.equal(moods({}), 'running following');
  assert.equal(moods({ state: 'suspect' }), 'running silent');
  const onlyBeta = [{ host: 'beta', role: 'secondary', pid: 2 }] as const;
  assert.equal(moods({ state: 'suspect', copies: onlyBeta }), 'silent following');
  assert.equal(moods({ state: 'dissolving', copies: onlyBeta }), 'lost following');
  const onlyAlpha = [{ host: 'alpha', role: 'primary', pid: 1 }] as const;
  assert.equal(moods({ state: 'dissolving', copies: onlyAlpha }), 'running lost');
  const resync = { doneBytes: 1, totalBytes: 4 };
  const copies = [...onlyAlpha, { host: 'beta', role: 'joining', pid: null, resync }] as const;
  const syncing = pairHealth(vmPicture({ state: 'syncing', secondary: null, copies }), null);
  assert.deepEqual(
    [syncing.secondary.mood, syncing.secondary.host, syncing.secondary.resync, syncing.between],
    ['joining', 'beta', 0.25, 'disks'],
  );
});

test('arrows are open while there is somebody at both ends, and move while something flows', () => {
  const open = (state: 'protected' | 'syncing' | 'unprotected'): string =>
    arrowsOf(pairHealth(vmPicture({ state }), null), busyPair('web'))
      .filter((arrow) => arrow.isOpen)
      .map(({ id }) => id)
      .join(' ');
  assert.equal(open('protected'), ARROWS.join(' '));
  assert.equal(open('unprotected'), 'in to-primary primary-out released primary-writes');
  assert.match(open('syncing'), /replication/);
  const still = arrowsOf(pairHealth(vmPicture(), null), emptyPair('web'));
  assert.ok(still.every(({ pace }) => pace === null));
  assert.equal(paceOf(0), null);
  assert.ok((paceOf(1000) ?? 9) < (paceOf(1) ?? 0));
  assert.ok((paceOf(1e12) ?? 0) > 0);
  assert.deepEqual(heldLines(emptyPair('web'), false), []);
  assert.deepEqual(heldLines(busyPair('web'), false), [
    'holds 2 packets, 2.5 kB',
    'held for 400 µs, p99 12 ms',
  ]);
  assert.equal(channelNote(busyPair('web')), '');
  const channel = { checkpointsPerSec: 0, bytesPerSec: 0, silentMs: 2500 };
  assert.equal(channelNote({ ...emptyPair('web'), channel }), 'silent for 2.5 s');
});

test('arrows begin and end at the edges of the boxes that they join, inside the picture', () => {
  const onEdge = ({ x, y, w, h }: Rect, px: number, py: number): boolean =>
    px >= x &&
    px <= x + w &&
    py >= y &&
    py <= y + h &&
    (px === x || px === x + w || py === y || py === y + h);
  for (const layout of [WIDE, NARROW]) {
    for (const id of ARROWS) {
      const { from, to, line } = layout.arrows[id];
      const [x1, y1, x2, y2] = line;
      assert.ok(x1 === x2 || y1 === y2, `${id} is straight`);
      assert.ok(onEdge(layout.boxes[from], x1, y1), `${id} leaves ${from}`);
      assert.ok(onEdge(layout.boxes[to], x2, y2), `${id} reaches ${to}`);
    }
    for (const id of BOXES) {
      const { x, y, w, h } = layout.boxes[id];
      assert.ok(x >= 0 && y >= 0 && x + w <= layout.width && y + h <= layout.height, id);
    }
  }
});

const sample = (atMs: number, cause: string): CheckpointSample => ({
  ...{ sequence: 1, atMs, cause, pauseMs: 9, heldMs: 20, pages: 100, bytes: 409_600 },
});

test('checkpoints are counted by cause, each on top of those before', () => {
  const nowMs = 1_000_000;
  const columns = causeColumns(
    [
      sample(nowMs - 1, 'timer'),
      sample(nowMs - 2, 'mismatch'),
      sample(nowMs - 3, 'timer'),
      sample(1, 'timer'),
    ],
    nowMs,
  );
  assert.equal(columns[0].length, WINDOW_MS / BUCKET_MS);
  const newest = columns.slice(1).map((column) => column.at(-2));
  assert.deepEqual(newest, [3, 3, 3, 2]);
  // What the sources call otherwise is counted all the same.
  assert.equal(causeColumns([sample(nowMs - 1, 'payload')], nowMs)[1]?.at(-2), 1);
});

test('a value that did not change holds from before the window to the present', () => {
  const at = (atMs: number, p50Us: number) => ({
    ...emptyPair('web'),
    ...{ atMs, held: { packets: 0, bytes: 0, p50Us, p99Us: null } },
  });
  assert.deepEqual(
    pairColumns([], 500_000, () => 1),
    [[], []],
  );
  const columns = pairColumns(
    [at(100_000, 1), at(490_000, 2)],
    500_000,
    (point) => point.held?.p50Us ?? null,
  );
  assert.deepEqual(columns, [
    [380, 490, 500],
    [1, 2, 2],
  ]);
  assert.equal(spread([null, null]), null);
  assert.deepEqual(spread([5, null, 1, 3]), { count: 3, last: 3, median: 3, highest: 5 });
});

test('every chart has words, without numbers as well as with', () => {
  const full = {
    ...EMPTY,
    points: [{ ...busyPair('web'), atMs: 400_000 }],
    samples: [sample(400_000, 'timer'), sample(410_000, 'mismatch')],
  };
  for (const chart of CHARTS) {
    for (const state of [EMPTY, full]) {
      const columns = chart.columns(state, 420_000);
      assert.equal(columns.length, chart.lines.length + 1, chart.id);
      const { now, sentence } = chart.words(columns, state);
      assert.match(sentence, /^[A-Z].+\.$/);
      assert.equal(now === '–', state === EMPTY, chart.id);
    }
  }
});

test('every action has its words', () => {
  for (const action of ACTIONS) {
    const { label, says, confirm } = ACTION_WORDS[action];
    assert.ok(label && confirm);
    assert.match(says(vmPicture()), /\.$/);
    assert.ok(!says(vmPicture({ primary: null, secondary: null })).includes('null'));
  }
});
