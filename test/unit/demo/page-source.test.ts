/** The demo as the dashboard is told of it. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { EventLog } from '../../../src/api/events.ts';
import { Deferred } from '../../../src/base/async.ts';
import { ACTIONS } from '../../../src/dashboard/protocol.ts';
import { DemoPageSource } from '../../../src/demo/page-source.ts';
import { FalseDemo } from '../../helpers/false-copy.ts';

describe('DemoPageSource', () => {
  let folder = '';
  let events: EventLog;
  before(async () => {
    folder = await mkdtemp(path.join(os.tmpdir(), 'colo-page-'));
    events = EventLog.open(folder, 'demo');
  });
  after(async () => {
    events.close();
    await rm(folder, { recursive: true, force: true });
  });

  function sourceOf(demo: FalseDemo, isHandsOn = true): DemoPageSource {
    const spec = { name: 'demo', memoryMiB: 128, engine: 'v86' } as const;
    return new DemoPageSource(demo.keeper, events, { software: 'test', spec, isHandsOn });
  }

  it('shows two hosts and a VM in every state', async () => {
    const demo = new FalseDemo();
    const source = sourceOf(demo);
    const look = async (): Promise<unknown[]> => {
      const [vm] = await source.vms();
      assert.ok(vm);
      const { state, primary, secondary, copies, actions } = vm;
      return [state, primary, secondary, copies.map(({ role }) => role), [...actions]];
    };
    assert.deepEqual(await look(), ['down', null, null, [], []]);
    demo.keeper.begin(demo.first);
    assert.deepEqual(await look(), ['starting', '127.0.0.1', null, ['starting'], []]);
    demo.keeper.booted();
    assert.deepEqual(await look(), ['unprotected', '127.0.0.1', null, ['alone'], []]);
    const resync = new Deferred<void>();
    demo.syncing = resync.promise;
    const made = demo.keeper.makeWhole();
    while (demo.keeper.secondary === null) await Promise.resolve();
    const roles = ['alone', 'joining'];
    assert.deepEqual(await look(), ['syncing', '127.0.0.1', null, roles, ['kill-secondary']]);
    const [syncing] = await source.vms();
    assert.deepEqual(syncing?.copies[1]?.resync, { doneBytes: 1, totalBytes: 2 });
    resync.resolve();
    await made;
    assert.deepEqual((await look()).slice(0, 4), [
      ...['protected', '127.0.0.1', '127.0.0.2', ['primary', 'secondary']],
    ]);
    const [vm] = await source.vms();
    assert.equal(vm?.epoch, 1);
    assert.deepEqual(vm.screens, {
      primary: { serial: true, vnc: false },
      secondary: { serial: true, vnc: false },
    });
    assert.deepEqual(
      (await source.hosts()).map(({ name, vms }) => [name, vms.primary, vms.secondary]),
      [
        ['127.0.0.1', 1, 0],
        ['127.0.0.2', 0, 1],
      ],
    );
  });

  it('asks the primary, and nobody when there is none', async () => {
    const demo = new FalseDemo();
    const source = sourceOf(demo);
    assert.throws(() => source.primary('demo'), /there is no primary/);
    assert.throws(() => source.primary('web1'), /there is no VM 'web1'/);
    demo.booted();
    const ask = await source.primary('demo');
    assert.deepEqual(await ask('query-status'), {});
  });

  it('does what is offered and nothing else', async () => {
    const demo = new FalseDemo().booted();
    const source = sourceOf(demo);
    for (const action of ACTIONS) assert.throws(() => source.act('demo', action), /cannot be done now/);
    await demo.keeper.makeWhole();
    assert.throws(() => source.act('web1', 'kill-primary'), /there is no VM/);
    assert.match(await source.act('demo', 'checkpoint'), /secondary-1 holds a new checkpoint/);
    assert.match(await source.act('demo', 'kill-secondary'), /secondary-1 \(pid 101\) was killed/);
  });

  it('lets nobody kill in the story', async () => {
    const demo = new FalseDemo().booted();
    await demo.keeper.makeWhole();
    const source = sourceOf(demo, false);
    assert.deepEqual([...(await source.vms())[0]!.actions], ['checkpoint']);
    assert.throws(() => source.act('demo', 'kill-primary'), /begin it with --hands-on/);
    assert.equal(demo.first.isAlive, true);
  });

  it('lets nobody type on the secondary', async () => {
    const demo = new FalseDemo().booted();
    await demo.keeper.makeWhole();
    const source = sourceOf(demo);
    for (const copy of ['primary', 'secondary'] as const) (await source.console('demo', copy)).destroy();
    assert.deepEqual(demo.primary.consoles, [{ isReadOnly: false }]);
    assert.deepEqual(demo.secondary.consoles, [{ isReadOnly: true }]);
    await assert.rejects(source.screen('demo', 'primary'), /no screen/);
  });
});
