/** By what the demo knows that a pair has ended, and of what. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { PairWatch } from '../../../src/demo/pair-watch.ts';
import type { PairLoss } from '../../../src/demo/pair-watch.ts';
import { Deferred } from '../../../src/base/async.ts';
import { FalseCopy } from '../../helpers/false-copy.ts';

function watched(linkPatienceMs = 5): {
  primary: FalseCopy;
  secondary: FalseCopy;
  told: string[];
  lost: Promise<PairLoss>;
  watch: PairWatch;
} {
  const primary = new FalseCopy('p', '127.0.0.1', 1);
  const secondary = new FalseCopy('s', '127.0.0.2', 2);
  const told: string[] = [];
  const lost = new Deferred<PairLoss>();
  const watch = new PairWatch({ primary, secondary }, linkPatienceMs, {
    silent: () => told.push('silent'),
    back: () => told.push('back'),
    lost: (loss) => {
      told.push(`${loss.victim} ${loss.kind}`);
      lost.resolve(loss);
    },
  });
  return { primary, secondary, told, lost: lost.promise, watch };
}

describe('PairWatch', () => {
  it('hears of a death, once', async () => {
    const { primary, secondary, told, lost } = watched();
    await primary.kill();
    secondary.tell('COLO_EXIT', { reason: 'error', 'x-detail': 'closed' });
    assert.equal((await lost).victim, 'primary');
    await secondary.kill();
    assert.deepEqual(told, ['primary process-dead']);
  });

  it('takes a stopped process for lost at its first silence', () => {
    const { primary, secondary, told } = watched(60_000);
    secondary.freeze();
    primary.tell('COLO_PEER_SILENT');
    assert.deepEqual(told, ['secondary process-frozen']);
  });

  it('waits for a cut link as long as it was told to', async () => {
    const { primary, secondary, told, lost } = watched();
    primary.tell('COLO_PEER_SILENT');
    secondary.tell('COLO_PEER_SILENT');
    assert.deepEqual(told, ['silent']);
    await lost;
    assert.deepEqual(told, ['silent', 'link link-cut']);
  });

  it('sees when the wait is over that it was no cut link', async () => {
    const { primary, secondary, lost } = watched();
    secondary.tell('COLO_PEER_SILENT');
    primary.freeze();
    assert.equal((await lost).kind, 'process-frozen');
  });

  it('is content when both are heard again', () => {
    const { primary, secondary, told, watch } = watched(60_000);
    primary.tell('COLO_PEER_SILENT');
    secondary.tell('COLO_PEER_SILENT');
    primary.tell('COLO_PEER_BACK');
    assert.deepEqual(told, ['silent']);
    secondary.tell('COLO_PEER_BACK');
    assert.deepEqual(told, ['silent', 'back']);
    watch.stop();
  });

  it('takes the end of the channel between two that live for a cut', async () => {
    const { primary, lost } = watched(60_000);
    primary.tell('COLO_EXIT', { reason: 'error', 'x-detail': 'timeout' });
    const { victim, reason } = await lost;
    assert.equal(victim, 'link');
    assert.equal(reason, 'the primary has lost the checkpoint channel (timeout), and both live');
  });

  it('hears nothing of an end that was asked for, nor after it was stopped', async () => {
    const { primary, secondary, told, watch } = watched();
    primary.tell('COLO_EXIT', { reason: 'request' });
    watch.stop();
    await secondary.kill();
    primary.tell('COLO_PEER_SILENT');
    await Promise.resolve();
    assert.deepEqual(told, []);
  });
});
