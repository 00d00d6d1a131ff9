// What the primary's monitor counts, as the picture's rates and the charts' samples; and monitors that tell less.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ColoError } from '../../../src/base/errors.ts';
import { CheckpointLog, KEPT_SAMPLES } from '../../../src/dashboard/checkpoint-log.ts';
import { emptyPicture, PairNumbers } from '../../../src/dashboard/pair-numbers.ts';
import type { AskPrimary } from '../../../src/dashboard/source.ts';
import { FalseSource } from '../../helpers/dashboard-source.ts';

async function setUp(): Promise<{
  source: FalseSource;
  ask: AskPrimary;
  numbers: PairNumbers;
  pass: (ms: number) => void;
}> {
  const source = new FalseSource();
  let now = 0;
  return {
    source,
    ask: await source.primary('web'),
    numbers: new PairNumbers('web', () => now),
    pass: (ms) => (now += ms),
  };
}

test('two looks make a rate', async () => {
  const { source, ask, numbers, pass } = await setUp();
  const first = await numbers.look(ask, 40);
  assert.deepEqual(
    [first.mirror, first.released, first.replication, first.channel],
    [null, null, null, null],
  );
  assert.ok(first.held);
  pass(500);
  source.traffic(10);
  const flow = { framesPerSec: 20, bytesPerSec: 20_000 };
  const picture = await numbers.look(ask, 41);
  assert.equal(numbers.isPrimary, true);
  for (const arrow of ['mirror', 'primaryOut', 'secondaryOut', 'released'] as const) {
    assert.deepEqual(picture[arrow], flow, arrow);
  }
  assert.deepEqual(picture.replication, { bytesPerSec: 81_920, writesPerSec: 20, inFlight: 1 });
  assert.deepEqual(picture.channel, { checkpointsPerSec: 2, bytesPerSec: 0, silentMs: 40 });
  assert.deepEqual(picture.held, { packets: 2, bytes: 2512, p50Us: 390, p99Us: 2110 });
  // Checkpoints are averaged over more than one look.
  pass(500);
  assert.equal((await numbers.look(ask, 41)).channel?.checkpointsPerSec, 1);
});

test('counts that begin anew make no rate', async () => {
  const { source, ask, numbers, pass } = await setUp();
  source.traffic(100);
  await numbers.look(ask, 40);
  source.killPrimary();
  source.protect();
  source.traffic(10);
  pass(500);
  assert.equal((await numbers.look(ask, 0)).mirror, null);
  source.traffic(10);
  pass(500);
  assert.equal((await numbers.look(ask, 0)).mirror?.framesPerSec, 20);
});

test('an older monitor: what it does not tell is null, and it is not asked again', async () => {
  const { source, ask, numbers, pass } = await setUp();
  source.unknown.add('query-colo-traffic').add('query-colo-compare');
  await numbers.look(ask, null);
  pass(500);
  const asked = source.asked.qmp;
  const picture = await numbers.look(ask, null);
  assert.deepEqual(picture, emptyPicture('web', picture.atMs));
  assert.equal(source.asked.qmp, asked + 1);
  // Other failures are the asker's.
  source.fail(new ColoError('gone'));
  await assert.rejects(numbers.look(ask, null), { message: 'gone' });
});

test('answers that are none', async () => {
  for (const answer of [
    null,
    7,
    'x',
    [],
    [[]],
    { frames: 'many' },
    [{ frames: [] }],
    { filters: {}, replication: 3 },
  ]) {
    const numbers = new PairNumbers('web');
    const ask = (): Promise<unknown> => Promise.resolve(answer);
    await numbers.look(ask, null);
    const { mirror, released, channel } = await numbers.look(ask, null);
    assert.deepEqual([mirror, released, channel], [null, null, null]);
    assert.deepEqual(await new CheckpointLog().look(ask), []);
  }
});

test('checkpoints: first all, then those that are new, and all again of another primary', async () => {
  const { source, ask } = await setUp();
  const log = new CheckpointLog();
  assert.equal((await log.look(ask))?.length, 40);
  assert.deepEqual(await log.look(ask), []);
  source.checkpoint('mismatch');
  const news = await log.look(ask);
  assert.deepEqual(
    news?.map(({ sequence, cause }) => [sequence, cause]),
    [[41, 'mismatch']],
  );
  assert.deepEqual([log.samples.length, log.count], [41, 41]);
  source.killPrimary();
  assert.equal(await log.look(ask), null);
  assert.equal(log.samples.length, 0);
  for (let n = 0; n < KEPT_SAMPLES + 10; n++) source.checkpoint();
  await log.look(ask);
  assert.equal(log.samples.length, KEPT_SAMPLES);
  assert.equal(log.samples.at(-1)?.sequence, KEPT_SAMPLES + 10);
});

test('checkpoints of a monitor that tells all each time, or none', async () => {
  const { source, ask } = await setUp();
  source.unknown.add('after');
  const log = new CheckpointLog();
  assert.equal((await log.look(ask))?.length, 40);
  source.checkpoint();
  assert.equal((await log.look(ask))?.length, 1);
  source.killPrimary();
  assert.equal(await log.look(ask), null);
  source.unknown.add('query-colo-checkpoints');
  assert.deepEqual(await new CheckpointLog().look(ask), []);
});
