/** Real controllers, sides and arbiter; imitated guests (helpers/node-world.ts). After each story: nobody spoke beside another. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { Deferred } from '../../../src/base/async.ts';
import { World, type FalseHost } from '../../helpers/node-world.ts';

describe('a VM over several hosts', () => {
  let world: World;

  beforeEach(async () => {
    world = await World.start('a', 'b', 'c');
    await world.untilProtected('a');
  });

  afterEach(() => {
    world.stop();
    assert.deepEqual(world.splits, []);
  });

  /** Neither hears of the other's end. */
  const losePowerAtOnce = async (...hosts: readonly FalseHost[]): Promise<void> => {
    for (const { vm } of hosts) if (vm) vm.twin = null;
    await Promise.all(hosts.map((host) => host.losePower()));
  };
  const secondaryOf = (name: string): string => world.host(name).controller.side.peer ?? '';

  it('is protected without a word from anyone', () => {
    assert.equal(secondaryOf('a'), 'b');
    assert.deepEqual(
      world
        .host('a')
        .events.filter(({ type }) => type === 'state')
        .map(({ to }) => to),
      ['starting', 'unprotected', 'syncing', 'protecting', 'protected'],
    );
    assert.deepEqual(world.store.records.get('web')?.members, ['a', 'b']);
  });

  it('goes on after the death of its primary, and is protected again', async () => {
    await world.host('a').vm?.kill();
    await world.untilProtected('b');
    assert.ok(world.host('b').events.some(({ type }) => type === 'failover'));
  });

  it('goes on after the death of its secondary', async () => {
    await world.host('b').vm?.kill();
    await world.until('the loss is seen', () => world.host('a').controller.life.state !== 'protected');
    await world.untilProtected('a');
    // Its secondary died as one: what has changed since is enough.
    assert.deepEqual(world.host('b').joinedWith, [false, true]);
  });

  it('survives one host after another', async () => {
    await world.host('a').losePower();
    await world.untilProtected('b');
    assert.equal(secondaryOf('b'), 'c');
    await world.host('b').losePower();
    await world.until('alone on c', () => world.host('c').controller.life.state === 'unprotected');
    await world.host('a').comeBack();
    await world.untilProtected('c');
    assert.equal(secondaryOf('c'), 'a');
  });

  it('comes back after a total loss on a host of the whole pair, never on a stale one', async () => {
    for (const name of ['c', 'a', 'b']) await world.host(name).losePower();
    world.host('c').diskState = 'stale';
    await world.host('c').comeBack();
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.equal(world.host('c').vm, null);
    await world.host('b').comeBack();
    world.host('b').upMs = 60_000;
    await world.untilProtected('b');
  });

  it('starts on the newest side alone after power cuts one after the other: the primary, then who went on', async () => {
    const [a, b, c] = ['a', 'b', 'c'].map((name) => world.host(name)) as [FalseHost, FalseHost, FalseHost];
    c.isInMaintenance = true;
    await a.losePower();
    await world.until('alone on b', () => b.controller.life.state === 'unprotected');
    await b.losePower();
    await a.comeBack();
    a.upMs = 60_000;
    await world.until('refused on a', () => a.controller.life.state === 'blocked');
    assert.match(a.controller.life.reason, /stale: b went on without it/);
    assert.deepEqual([a.vm, c.vm], [null, null]);
    await b.comeBack();
    await world.untilProtected('b');
    assert.equal(secondaryOf('b'), 'a');
  });

  it('starts once when both sides have lost their power at once and come back at once', async () => {
    const both = [world.host('a'), world.host('b')];
    await losePowerAtOnce(...both);
    await Promise.all(both.map((host) => host.comeBack()));
    await world.untilProtected();
    assert.equal(both.filter(({ vm }) => vm?.mode === 'primary').length, 1);
  });

  it('starts on either side of a pair that lost its power at once, when the other stays away', async () => {
    const [a, b] = [world.host('a'), world.host('b')];
    await losePowerAtOnce(a, b);
    await b.comeBack();
    // For as long as the other may only be slow to come back.
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.equal(b.vm, null);
    assert.match(b.controller.life.reason, /waits for a/);
    // What is told is not taken for something of an epoch that is over.
    assert.equal(b.controller.view().epoch, world.store.records.get('web')?.epoch);
    b.upMs = 60_000;
    await world.untilProtected('b');
    await a.comeBack();
    a.upMs = 60_000;
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.equal(a.vm, null);
    assert.match(a.controller.life.reason, /stale/);
  });

  it('comes back where it was alone, when it was alone', async () => {
    await world.host('b').losePower();
    await world.host('c').losePower();
    await world.until('alone on a', () => world.host('a').controller.life.state === 'unprotected');
    await world.host('a').losePower();
    await world.host('b').comeBack();
    world.host('b').upMs = 60_000;
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.equal(world.host('b').vm, null);
    await world.host('a').comeBack();
    await world.untilProtected('a');
  });

  it('says nothing while the arbiter is out of reach, and goes on when it is back', async () => {
    world.store.isReachable = false;
    await world.host('a').vm?.kill();
    await world.until('dissolving', () => world.host('b').controller.life.state === 'dissolving');
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.deepEqual(world.heard, []);
    assert.match(world.host('b').controller.view().reason, /switched off/);
    world.store.isReachable = true;
    await world.untilProtected('b');
  });

  it('keeps the only guest there is on a full disk, unheard, and goes on when there is room', async () => {
    const b = world.host('b');
    b.hasFullDisk = true;
    await world.host('a').vm?.kill();
    await world.until('it is told', () => b.events.some(({ type }) => type === 'disk-trouble'));
    assert.equal(b.controller.life.state, 'dissolving');
    assert.match(b.controller.view().reason, /; No space left on device$/);
    assert.equal(b.vm?.isAlive, true);
    b.hasFullDisk = false;
    await world.untilProtected('b');
    assert.doesNotMatch(b.controller.view().reason, /No space/);
  });

  it('goes on with a primary whose disk is full, when its secondary has died', async () => {
    const [a, b] = [world.host('a'), world.host('b')];
    a.hasFullDisk = true;
    await b.losePower();
    await world.untilProtected('a');
    assert.equal(secondaryOf('a'), 'c');
    assert.ok(!a.events.some(({ to }) => to === 'stopping'));
  });

  it('lets one win when both lose each other', async () => {
    world.cut('a', 'b');
    world.host('a').vm?.part();
    await world.until('one stands alone', () => world.heard.length === 1);
    const [winner] = world.heard;
    world.heal();
    await world.untilProtected(winner);
  });

  it('leaves it to a primary that has given the pair up to go on, and goes on when it does not', async () => {
    const [a, b] = [world.host('a'), world.host('b')];
    a.isBehind = true;
    const givenUp = { reason: 'error', mode: 'secondary', 'x-detail': 'peer-failed' };
    b.vm?.say('COLO_EXIT', givenUp);
    assert.equal(b.controller.life.state, 'protected');
    a.vm?.say('COLO_EXIT', { reason: 'error', mode: 'primary', 'x-detail': 'forward-failed' });
    await world.until('alone on a', () => world.heard.includes('a'));
    await world.untilProtected('a');
    const other = world.host(secondaryOf('a'));
    other.vm?.say('COLO_EXIT', givenUp);
    await world.untilProtected(other.name);
  });

  it('leaves it to the other side when the disk of this one lacks a write', async () => {
    world.host('b').isBehind = true;
    world.host('a').vm?.say('COLO_EXIT', { reason: 'error', mode: 'primary', 'x-detail': 'failed' });
    world.host('b').vm?.say('COLO_EXIT', { reason: 'error', mode: 'secondary', 'x-detail': 'peer-failed' });
    await world.untilProtected('b');
  });

  it('rides out a silence that ends', () => {
    world.host('a').vm?.say('COLO_PEER_SILENT', { 'silent-ms': 410 });
    assert.equal(world.host('a').controller.life.state, 'suspect');
    world.host('a').vm?.say('COLO_PEER_BACK', { 'silent-ms': 430 });
    assert.equal(world.host('a').controller.life.state, 'protected');
    assert.equal(world.host('a').controller.side.phase, 'primary');
  });

  it('gives up on a link that stays silent', async () => {
    world.host('a').vm?.say('COLO_PEER_SILENT', { 'silent-ms': 410 });
    world.host('b').vm?.say('COLO_PEER_SILENT', { 'silent-ms': 410 });
    await world.until('dissolved', () => world.host('a').controller.life.state === 'unprotected');
    await world.untilProtected('a');
    assert.ok(
      world.host('a').events.some(({ type, data }) => type === 'peer-lost' && data?.['kind'] === 'link-cut'),
    );
  });

  it('switches over as planned', async () => {
    await world.host('a').controller.stepAside();
    assert.ok(!world.heard.includes('a'));
    await world.untilProtected('b');
    assert.equal(secondaryOf('b'), 'a');
    assert.deepEqual(world.host('a').joinedWith, [true], 'what had changed was enough');
  });

  it('is invited at once when its process died while it gave way', async () => {
    const [a, b] = [world.host('a'), world.host('b')];
    world.host('c').isInMaintenance = true;
    const held = (b.heldTakeOver = new Deferred());
    const over = a.controller.stepAside();
    await world.until('won, unheard', () => b.controller.side.phase === 'alone');
    await a.vm?.kill();
    held.resolve();
    await over;
    await world.untilProtected('b');
    assert.equal(secondaryOf('b'), 'a');
  });

  it('copies all to a primary that ran while it gave way', async () => {
    const a = world.host('a');
    const b = world.host('b');
    const held = (b.heldTakeOver = new Deferred());
    const over = a.controller.stepAside();
    await world.until('won, unheard', () => b.controller.side.phase === 'alone');
    a.vm?.say('RESUME');
    held.resolve();
    await over;
    await world.untilProtected('b');
    assert.equal(secondaryOf('b'), 'a');
    assert.deepEqual(a.joinedWith, [false]);
  });

  it('goes on when the other does not take over', async () => {
    const a = world.host('a');
    world.host('b').isReachable = false;
    await assert.rejects(a.controller.stepAside(), /does not answer/);
    assert.equal(a.vm?.isRunning, true);
    world.host('b').isReachable = true;
    assert.equal(a.controller.side.phase, 'primary');
  });

  it('moves to the host that a person names', async () => {
    await world.host('a').controller.protectBy('c');
    assert.equal(secondaryOf('a'), 'c');
    await world.host('a').controller.stepAside();
    await world.untilProtected('c');
  });

  it('leaves a host in maintenance when there is another', async () => {
    world.host('b').isInMaintenance = true;
    await world.until(
      'moved',
      () => world.host('a').controller.side.phase === 'primary' && secondaryOf('a') === 'c',
    );
    await world.untilProtected('a');
    assert.equal(world.host('b').vm?.isAlive, false);
  });

  it('stops when it is not wanted any more, and starts again', async () => {
    world.isWanted = false;
    await world.until('down', () => [...world.hosts.values()].every(({ controller }) => controller.isIdle));
    assert.deepEqual(world.heard, []);
    world.isWanted = true;
    await world.untilProtected('a');
  });

  it('is protected again after it was stopped in the middle of a resync', async () => {
    world.held = new Deferred();
    await world.host('b').vm?.kill();
    await world.until('a resync', () => world.host('a').controller.life.state === 'syncing');
    world.isWanted = false;
    await world.until('down', () => [...world.hosts.values()].every(({ controller }) => controller.isIdle));
    world.held.resolve();
    world.held = null;
    world.isWanted = true;
    await world.untilProtected('a');
  });

  it('has no second process when it is stopped while its first one starts', async () => {
    const a = world.host('a');
    const down = (): boolean => [...world.hosts.values()].every(({ controller }) => controller.isIdle);
    world.isWanted = false;
    await world.until('down', down);
    const held = (a.heldStart = new Deferred());
    world.isWanted = true;
    await world.until('it starts', () => a.vm?.isAlive === true);
    const first = a.vm;
    world.isWanted = false;
    await world.until('it ends', () => a.controller.life.state === 'stopping');
    world.isWanted = true;
    world.tick();
    assert.equal(a.controller.isIdle, false);
    a.heldStart = null;
    held.resolve();
    await world.untilProtected('a');
    assert.equal(first?.isAlive, false);
    assert.ok(!a.events.some(({ to }) => to === 'blocked'));
  });

  it('is protected again by a host that was not let start it before it was stopped', async () => {
    const [a, b] = [world.host('a'), world.host('b')];
    world.host('c').isInMaintenance = true;
    await a.losePower();
    await world.until('alone on b', () => b.controller.life.state === 'unprotected');
    a.joinFails = true;
    await a.comeBack();
    a.upMs = 60_000;
    await world.until('refused on a', () => a.controller.life.state === 'blocked');
    world.isWanted = false;
    await world.until('down', () => [a, b].every(({ controller }) => controller.life.state === 'down'));
    a.joinFails = false;
    world.isWanted = true;
    await world.untilProtected('b');
    assert.equal(a.controller.life.state, 'protected');
    await b.vm?.kill();
    await world.untilProtected('a');
  });

  it('is stopped under its epoch by a daemon that was started anew', async () => {
    const a = world.host('a');
    for (const name of ['b', 'c']) world.host(name).isInMaintenance = true;
    await world.host('b').losePower();
    await world.until('alone', () => a.controller.life.state === 'unprotected');
    const { epoch } = a.controller.view();
    a.controller.close();
    await a.startDaemon();
    world.isWanted = false;
    await world.until('down', () => a.controller.life.state === 'down');
    assert.deepEqual([epoch > 0, a.controller.view().epoch], [true, epoch]);
  });

  it('lets a guest run whose daemon died before it did', async () => {
    const a = world.host('a');
    world.isWanted = false;
    await world.until('down', () => [...world.hosts.values()].every(({ controller }) => controller.isIdle));
    for (const name of ['b', 'c']) world.host(name).isInMaintenance = true;
    const held = (a.heldStart = new Deferred());
    world.isWanted = true;
    await world.until('it starts', () => a.vm?.isAlive === true);
    a.controller.close();
    await a.startDaemon();
    held.resolve();
    await world.until('it runs', () => a.vm?.isRunning === true);
    for (const name of ['b', 'c']) world.host(name).isInMaintenance = false;
    await world.untilProtected('a');
  });

  it('leaves nothing of a copy that joins, where its host still believes that it is not wanted', async () => {
    const joining = (): FalseHost | undefined =>
      [...world.hosts.values()].find(({ controller }) => controller.side.phase === 'joining');
    world.held = new Deferred();
    await world.host('b').vm?.kill();
    await world.until('one joins', () => joining()?.vm?.isAlive === true);
    const late = joining()!;
    const { vm } = late;
    while (late.controller.side.phase === 'joining')
      await late.controller.tick({ ...world.entry(), isWanted: false });
    await world.until('it has let go', () => vm?.isAlive === false && late.controller.life.state === 'down');
    world.held.resolve();
    world.held = null;
    await world.untilProtected('a');
  });

  it('is whole again after an invitation was dropped while its process started', async () => {
    const b = world.host('b');
    const held = (b.heldStart = new Deferred());
    await b.vm?.kill();
    await world.until('one starts', () => b.controller.side.phase === 'joining' && b.vm?.isAlive === true);
    const first = b.vm;
    const left = b.controller.leave('of no use any more');
    await world.until('it has heard', () => b.controller.life.state === 'stopping');
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(b.controller.isIdle, false);
    b.heldStart = null;
    held.resolve();
    await left;
    assert.equal(first?.isAlive, false);
    await world.untilProtected('a');
  });

  it('tells who was to be its secondary that it is being stopped', async () => {
    world.held = new Deferred();
    const a = world.host('a');
    await world.host('b').vm?.kill();
    await world.until(
      'a resync',
      () => a.controller.life.state === 'syncing' && a.controller.side.peer === null,
    );
    const joining = [...world.hosts.values()].find(({ controller }) => controller.side.phase === 'joining');
    await world.until('one joins', () => joining?.vm?.isAlive === true);
    await a.controller.tick({ ...world.entry(), isWanted: false });
    await world.until('it has left', () => joining?.controller.isIdle === true);
    assert.equal(joining?.controller.life.reason, 'the VM is being stopped');
    world.held.resolve();
    world.held = null;
  });

  it('is taken up again by a daemon that was started anew, in every state', async () => {
    for (const name of ['a', 'b']) {
      world.host(name).controller.close();
      await world.host(name).startDaemon();
    }
    await world.untilProtected('a');
    const { pid } = world.host('a').vm ?? {};
    await world.host('b').losePower();
    world.host('c').isInMaintenance = true;
    await world.until('alone', () => world.host('a').controller.life.state === 'unprotected');
    world.host('a').controller.close();
    await world.host('a').startDaemon();
    assert.equal(world.host('a').vm?.pid, pid);
    world.host('c').isInMaintenance = false;
    await world.untilProtected('a');
    assert.equal(world.host('a').vm?.pid, pid);
  });

  it('ends a take-over that the daemon before had only won', async () => {
    const b = world.host('b');
    const held = (b.heldTakeOver = new Deferred());
    await world.host('a').vm?.kill();
    await world.until('won, unheard', () => b.controller.side.phase === 'alone');
    const { pid } = b.vm ?? {};
    b.controller.close();
    b.heldTakeOver = null;
    await b.startDaemon();
    held.reject(new Error('the daemon is gone'));
    await world.untilProtected('b');
    assert.equal(b.vm?.pid, pid);
  });

  it('asks another host when one has failed', async () => {
    await world.host('b').losePower();
    await world.untilProtected('a');
    assert.equal(secondaryOf('a'), 'c');
    await world.host('b').comeBack();
    world.host('b').joinFails = true;
    await world.host('c').losePower();
    await world.until('b has failed', () => world.host('a').controller.life.state === 'backing-off');
    await world.host('c').comeBack();
    await world.untilProtected('a');
    assert.equal(secondaryOf('a'), 'c');
  });

  it('gives a resync up when it is stopped or the target dies, and tries again', async () => {
    await world.host('b').losePower();
    await world.host('c').losePower();
    await world.until('alone', () => world.host('a').controller.life.state === 'unprotected');
    world.held = new Deferred();
    await world.host('b').comeBack();
    await world.until('syncing', () => world.host('a').controller.life.state === 'syncing');
    await world.host('b').losePower();
    const { held } = world;
    world.held = null;
    held.reject(new Error('the target is gone'));
    await world.host('c').comeBack();
    await world.untilProtected('a');
    assert.equal(secondaryOf('a'), 'c');
  });

  it('does nothing by itself while it is paused, but for going on alone', async () => {
    world.isPaused = true;
    await world.host('a').vm?.kill();
    await world.until('alone on b', () => world.host('b').controller.life.state === 'unprotected');
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.equal(world.host('b').controller.life.state, 'unprotected');
    world.isPaused = false;
    await world.untilProtected('b');
  });
});
