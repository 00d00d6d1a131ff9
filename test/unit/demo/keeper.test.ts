/** What becomes of the demo's pair, whatever happens to it: with copies that are no processes. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { handOver } from '../../../src/demo/hands-on.ts';
import { BLOWS } from '../../../src/demo/offers.ts';
import { GuestLostError } from '../../../src/demo/pairing.ts';
import { tellStory } from '../../../src/demo/story.ts';
import { Deferred } from '../../../src/base/async.ts';
import { FalseDemo } from '../../helpers/false-copy.ts';

function refuse(text: string): never {
  throw new Error(text);
}

/** A pair that is whole, and who goes on when it is over. */
async function whole(): Promise<FalseDemo> {
  const demo = new FalseDemo().booted();
  await demo.keeper.makeWhole();
  return demo;
}

async function goOn(demo: FalseDemo): Promise<void> {
  const loss = await demo.keeper.nextLoss();
  assert.ok(loss);
  await demo.keeper.goOn(loss);
}

describe('the keeper of a pair', () => {
  it('tells the life of the VM step by step', async () => {
    const demo = await whole();
    await demo.keeper.strike('kill-primary');
    await goOn(demo);
    assert.deepEqual(demo.states, [
      ...['starting', 'unprotected', 'syncing', 'protecting', 'protected', 'dissolving', 'unprotected'],
    ]);
    assert.deepEqual(demo.done, ['secondary secondary-1 alone, alive: secondary-1']);
    assert.equal(demo.keeper.primary?.name, 'secondary-1');
    assert.equal(demo.keeper.secondary, null);
    assert.deepEqual(demo.failovers, [{ killed: 'primary', ms: 7 }]);
    const { from, to } = demo.keeper.lastFailover ?? {};
    assert.deepEqual([from, to], ['127.0.0.1', '127.0.0.2']);
    assert.deepEqual(demo.lines, [
      'generation 1: protected by secondary-1 (pid 101) on 127.0.0.2',
      'generation 1: killed the primary (SIGKILL); secondary-1 answered after 7 ms',
    ]);
  });

  it('sends away who looked at a secondary that has taken over', async () => {
    const demo = await whole();
    const { secondary } = demo;
    await demo.keeper.strike('kill-primary');
    await goOn(demo);
    assert.equal(secondary.viewersSentAway, 1);
  });

  it('lets the primary go on when the secondary dies, by whatever', async () => {
    const demo = await whole();
    await demo.secondary.kill();
    await goOn(demo);
    assert.deepEqual(demo.done, ['primary primary-0 alone, alive: primary-0']);
    assert.equal(demo.keeper.lastFailover, undefined);
    assert.equal(
      demo.lines.at(-1),
      'generation 1: the process of secondary-1 has ended; the primary answered alone after 7 ms',
    );
  });

  it('kills a frozen primary before the secondary is heard', async () => {
    const demo = await whole();
    await demo.keeper.strike('freeze-primary');
    assert.equal(demo.keeper.life.state, 'protected');
    demo.secondary.tell('COLO_PEER_SILENT', { 'silent-ms': 500 });
    assert.equal(demo.keeper.life.state, 'dissolving');
    await goOn(demo);
    assert.deepEqual(demo.done, ['secondary secondary-1 alone, alive: secondary-1']);
    assert.deepEqual(demo.failovers, [{ killed: 'primary', ms: 7, how: 'frozen' }]);
  });

  it('kills the secondary behind a cut link before the primary is heard', async () => {
    const demo = await whole();
    await demo.keeper.strike('cut-link');
    demo.secondary.tell('COLO_PEER_SILENT');
    assert.equal(demo.keeper.life.state, 'suspect');
    demo.primary.tell('COLO_PEER_SILENT');
    await goOn(demo);
    assert.deepEqual(demo.done, ['cut', 'primary primary-0 alone, alive: primary-0']);
    assert.deepEqual(demo.failovers, [{ killed: 'secondary', ms: 7, how: 'link cut' }]);
  });

  it('rides a silence out', async () => {
    const demo = new FalseDemo({ linkPatienceMs: 60_000 }).booted();
    await demo.keeper.makeWhole();
    demo.secondary.tell('COLO_PEER_SILENT');
    assert.equal(demo.keeper.life.state, 'suspect');
    demo.secondary.tell('COLO_PEER_BACK');
    assert.equal(demo.keeper.life.state, 'protected');
  });

  it('takes the checkpoint of a pair that is suspected meanwhile', async () => {
    const demo = new FalseDemo({ linkPatienceMs: 60_000 }).booted();
    await demo.keeper.makeWhole();
    const taken = demo.keeper.checkpoint();
    demo.secondary.tell('COLO_PEER_SILENT');
    assert.equal(demo.keeper.life.state, 'suspect');
    assert.equal(await taken, 'secondary-1 holds a new checkpoint');
  });

  it('switches over when it is asked to, and says when the other is heard', async () => {
    const demo = await whole();
    const over = demo.keeper.switchOver();
    await goOn(demo);
    assert.equal(await over, 'secondary-1 on 127.0.0.2 is heard');
    assert.deepEqual(demo.failovers, [{ killed: 'primary', ms: 7, how: 'planned' }]);
    assert.equal(demo.first.checkpoints, 1);
    assert.equal(demo.first.isAlive, false);
  });

  it('counts the checkpoints of all primaries', async () => {
    const demo = await whole();
    for (let at = 0; at < 3; at++) await demo.keeper.checkpoint();
    await demo.keeper.strike('kill-primary');
    await goOn(demo);
    await demo.keeper.makeWhole();
    await demo.keeper.checkpoint();
    assert.equal(demo.keeper.checkpoints.total, 4);
    assert.deepEqual(demo.keeper.checkpoints.pausesMs, [5, 5, 5, 5]);
  });

  it('refuses what the guest would not survive', async () => {
    const demo = new FalseDemo().booted();
    for (const blow of BLOWS) await assert.rejects(demo.keeper.strike(blow), /the VM is unprotected/);
    await assert.rejects(demo.keeper.switchOver(), /the VM is unprotected/);
    assert.equal(demo.first.isAlive, true);
  });

  it('goes on alone when its new secondary dies in the middle of a resync', async () => {
    const demo = new FalseDemo().booted();
    const resync = new Deferred<void>();
    demo.syncing = resync.promise;
    const made = demo.keeper.makeWhole();
    made.catch(() => undefined);
    while (demo.keeper.secondary === null) await Promise.resolve();
    assert.deepEqual(demo.keeper.resync, { doneBytes: 1, totalBytes: 2 });
    await demo.keeper.strike('kill-secondary');
    resync.reject(new Error('the mirror has ended'));
    await assert.rejects(made, /no protection: the process of secondary-1 has ended/);
    assert.equal(demo.keeper.life.state, 'backing-off');
    assert.deepEqual(demo.done, ['primary primary-0 alone, alive: primary-0']);
    assert.equal(demo.keeper.resync, undefined);
  });

  it('says so when there is no guest any more', async () => {
    const demo = await whole();
    demo.failure = new Error('no state');
    await demo.keeper.strike('kill-primary');
    await assert.rejects(goOn(demo), GuestLostError);
    assert.equal(demo.keeper.life.state, 'down');
  });

  it('ends a switch-over that nobody carries out any more', async () => {
    const demo = await whole();
    const over = assert.rejects(demo.keeper.switchOver(), /the demo is ending/);
    await demo.keeper.nextLoss();
    demo.keeper.close();
    await over;
  });
});

describe('the story', () => {
  it('kills the primary so many times, then the secondary', async () => {
    const demo = new FalseDemo().booted();
    await tellStory(demo.keeper, { generations: 2, protectedSec: 0 }, { trouble: refuse });
    assert.deepEqual(
      demo.keeper.failovers.map(({ killed }) => killed),
      ['primary', 'primary', 'secondary'],
    );
  });

  it('goes on after a death that is not in it', async () => {
    const demo = new FalseDemo().booted();
    const troubles: string[] = [];
    const told = tellStory(
      demo.keeper,
      { generations: 1, protectedSec: 0.3 },
      { trouble: (text) => troubles.push(text) },
    );
    while (demo.keeper.life.state !== 'protected') await new Promise((resolve) => setImmediate(resolve));
    await demo.primary.kill();
    await told;
    assert.deepEqual(troubles, ['the pair ended by itself: the process of primary-0 has ended']);
    assert.deepEqual(
      demo.keeper.failovers.map(({ killed }) => killed),
      ['primary', 'primary', 'secondary'],
    );
  });
});

describe('hands-on', () => {
  it('makes the pair whole again after every death, until it is told to end', async () => {
    const demo = new FalseDemo().booted();
    const end = new AbortController();
    const over = handOver(demo.keeper, end.signal, { trouble: refuse });
    const isWhole = async (generation: number): Promise<void> => {
      while (demo.keeper.life.state !== 'protected' || demo.keeper.generation < generation)
        await new Promise((resolve) => setImmediate(resolve));
    };
    await isWhole(1);
    await demo.keeper.strike('kill-primary');
    await isWhole(2);
    await demo.keeper.strike('kill-secondary');
    await isWhole(3);
    assert.equal(demo.keeper.primary?.name, 'secondary-1');
    assert.equal(demo.keeper.secondary?.name, 'secondary-3');
    end.abort();
    await over;
  });

  it('tries again after a try that came to nothing', async () => {
    const demo = new FalseDemo().booted();
    const end = new AbortController();
    const troubles: string[] = [];
    demo.syncing = Promise.reject(new Error('no room'));
    demo.syncing.catch(() => undefined);
    const over = handOver(demo.keeper, end.signal, {
      trouble: (text) => {
        troubles.push(text);
        demo.syncing = Promise.resolve();
      },
    });
    while (demo.keeper.life.state !== 'protected') await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(troubles, ['no protection: no room']);
    assert.deepEqual(demo.states.slice(2, 7), [
      'syncing',
      'backing-off',
      'unprotected',
      'syncing',
      'protecting',
    ]);
    end.abort();
    await over;
  });
});
