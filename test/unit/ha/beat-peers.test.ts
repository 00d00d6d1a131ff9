/** Silence and its end, deaths and changes, on a clock that the test moves. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AwakeClock } from '../../../src/ha/beat/awake-clock.ts';
import type { Beat, VmBeat } from '../../../src/ha/beat/messages.ts';
import { Peers } from '../../../src/ha/beat/peers.ts';
import { VmWatch, type VmPulse } from '../../../src/ha/beat/vm-watch.ts';
import { Deferred } from '../../../src/base/async.ts';
import type { ProcessState } from '../../../src/ha/beat/messages.ts';

const VM: VmBeat = {
  name: 'shop',
  pid: 7,
  condition: 'alive',
  state: 'running',
  answerMs: 10,
  phase: 'primary',
  epoch: 3,
};
const beat = (...vms: VmBeat[]): Beat => ({ kind: 'beat', vms, hears: [], misses: [] });

function rig() {
  const time = { ms: 1000 };
  const clock = new AwakeClock(() => time.ms, 200);
  const said: string[] = [];
  const peers = new Peers(clock, 400, {
    onVmDied: (host, vm) => said.push(`${host} ${vm.name} ${vm.pid ?? 0} died`),
    onVmChanged: (host, vm) => said.push(`${host} ${vm.name} ${vm.condition} ${vm.phase}`),
    onSilent: (host) => said.push(`${host} silent`),
    onBack: (host) => said.push(`${host} back`),
    onClosed: (host, isOrderly) => said.push(`${host} closed${isOrderly ? ' orderly' : ''}`),
  });
  const pass = (ms: number, step = 50): void => {
    for (let passed = 0; passed < ms; passed += step) {
      time.ms += Math.min(step, ms - passed);
      clock.look();
      peers.tick();
    }
  };
  const news = (): string[] => said.splice(0);
  return { clock, peers, pass, news };
}

test('a peer is silent after the patience, once, and is back with its next word', () => {
  const { peers, pass, news } = rig();
  assert.equal(peers.state('b').status, 'none');
  peers.hello('b', 'one');
  assert.deepEqual(news(), ['b back']);
  pass(400);
  assert.deepEqual(news(), []);
  assert.equal(peers.state('b').lastHeardMs, 400);
  pass(50);
  assert.deepEqual(news(), ['b silent']);
  pass(5000);
  assert.deepEqual(news(), []);
  assert.equal(peers.state('b').isConnected, false);
  peers.beat('b', beat());
  assert.deepEqual(news(), ['b back']);
  assert.equal(peers.state('b').lastHeardMs, 0);
});

test('time in which this process stood still counts against nobody', () => {
  const { clock, peers, pass, news } = rig();
  peers.hello('b', 'one');
  pass(100);
  pass(60_000, 60_000);
  assert.deepEqual(news(), ['b back']);
  assert.equal(peers.state('b').status, 'ok');
  assert.equal(clock.look(), 0);
  pass(200);
  assert.deepEqual(news(), ['b silent']);
});

test('the clock says for how long it stood still', () => {
  let ms = 0;
  const clock = new AwakeClock(() => ms, 200);
  ms = 200;
  assert.equal(clock.look(), 0);
  ms = 1000;
  assert.equal(clock.now(), 400);
  assert.equal(clock.look(), 800);
  assert.equal(clock.now(), 400);
});

test('a closed connection is told at once, once, and goes before a refusal', () => {
  const { peers, pass, news } = rig();
  peers.hello('b', 'one');
  peers.closed('b');
  peers.refused('b');
  assert.deepEqual(news(), ['b back', 'b closed']);
  assert.equal(peers.state('b').status, 'refused');
  pass(5000);
  assert.deepEqual(news(), []);
  peers.hello('b', 'two');
  peers.bye('b');
  peers.closed('b');
  assert.deepEqual(news(), ['b back', 'b closed orderly']);
});

test('a refusal does not count while it is heard by another connection', () => {
  const { peers, news } = rig();
  peers.hello('b', 'one');
  peers.refused('b');
  assert.equal(peers.state('b').status, 'ok');
  assert.deepEqual(news(), ['b back']);
});

test('a death is told once, by word or by absence; another process of the same VM is another', () => {
  const { peers, pass, news } = rig();
  peers.hello('b', 'one');
  peers.beat('b', beat(VM));
  peers.beat('b', beat({ ...VM, answerMs: 20 }));
  peers.change('b', { ...VM, condition: 'dead', state: 'gone' });
  peers.beat('b', beat({ ...VM, condition: 'dead', state: 'gone' }));
  peers.beat('b', beat());
  assert.deepEqual(news(), ['b back', 'b shop alive primary', 'b shop 7 died']);
  assert.equal(peers.state('b').vms.get('shop')?.condition, 'dead');
  peers.beat('b', beat({ ...VM, pid: 8 }));
  peers.beat('b', beat());
  assert.deepEqual(news(), ['b shop alive primary', 'b shop 8 died']);
  for (let i = 0; i < 700; i++) {
    pass(100);
    peers.beat('b', beat());
  }
  assert.equal(peers.state('b').vms.size, 0);
});

test('what matters of a VM is told when it changes', () => {
  const { peers, news } = rig();
  peers.hello('b', 'one');
  peers.beat('b', beat(VM));
  peers.beat('b', beat({ ...VM, condition: 'stopped', state: 'stopped' }));
  peers.beat('b', beat({ ...VM, phase: 'alone', epoch: 4 }));
  assert.deepEqual(news(), [
    'b back',
    'b shop alive primary',
    'b shop stopped primary',
    'b shop alive alone',
  ]);
});

test('what a daemon said is not held for said by the next one', () => {
  const { peers, news } = rig();
  peers.hello('b', 'one');
  peers.beat('b', beat(VM));
  news();
  peers.hello('b', 'two');
  assert.equal(peers.state('b').vms.size, 0);
  peers.beat('b', beat());
  assert.deepEqual(news(), []);
});

test('others say whom they hear, as long as they are heard themselves', () => {
  const { peers, pass } = rig();
  peers.beat('b', { ...beat(), hears: ['c'], misses: ['d'] });
  peers.beat('c', { ...beat(), hears: ['b'], misses: [] });
  assert.deepEqual(peers.whoHears('c'), { hears: ['b'], misses: [] });
  assert.deepEqual(peers.whoHears('d'), { hears: [], misses: ['b'] });
  pass(500);
  assert.deepEqual(peers.whoHears('c'), { hears: [], misses: [] });
});

test('a VM is stopped, mute or dead, and each is told when it begins', async (t) => {
  t.mock.timers.enable({ apis: ['setInterval'] });
  let ms = 0;
  let state: ProcessState = 'running';
  const exited = new Deferred<void>();
  let answer = new Deferred<void>();
  const said: string[] = [];
  const watch = new VmWatch(
    { pid: 7, qmp: { execute: () => answer.promise }, exited: exited.promise },
    {
      intervalMs: 100,
      patienceMs: 400,
      now: () => ms,
      stateOf: () => state,
      onChange: (pulse: VmPulse, before) => said.push(`${before} → ${pulse.condition}`),
    },
  );
  const pass = async (by: number): Promise<void> => {
    for (let i = 0; i < by; i += 100) {
      ms += 100;
      t.mock.timers.tick(100);
      for (let turn = 0; turn < 5; turn++) await Promise.resolve();
    }
  };
  await pass(1000);
  assert.equal(watch.pulse().condition, 'unknown');
  answer.resolve();
  await pass(100);
  assert.deepEqual(said, ['unknown → alive']);
  await pass(2000);
  answer = new Deferred();
  await pass(400);
  assert.equal(watch.pulse().condition, 'alive');
  await pass(100);
  assert.equal(watch.pulse().condition, 'mute');
  answer.resolve();
  await pass(100);
  state = 'stopped';
  await pass(100);
  state = 'waiting';
  await pass(100);
  exited.resolve();
  await pass(100);
  state = 'running';
  await pass(100);
  assert.deepEqual(said, [
    'unknown → alive',
    'alive → mute',
    'mute → alive',
    'alive → stopped',
    'stopped → alive',
    'alive → dead',
  ]);
  watch.stop();
});
