/** One monitor on processes that change: what waits, what is repeated, what is told to the next, what is heard of whom. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Deferred } from '../../../src/base/async.ts';
import { ClosedError } from '../../../src/base/errors.ts';
import { QemuMonitor } from '../../../src/engine/qemu/monitor.ts';
import type { MonitoredChild } from '../../../src/engine/qemu/monitor.ts';
import { QmpCommandError } from '../../../src/qmp/client.ts';
import type { QmpClient } from '../../../src/qmp/client.ts';

type Answer = (args: Record<string, unknown>) => unknown;

/** A process whose commands a test answers. */
class FakeChild {
  onEvent: MonitoredChild['onEvent'] = null;
  readonly asked: string[] = [];
  readonly answers: Record<string, Answer> = {};
  status = 'running';
  readonly qmp = {
    greeting: {
      QMP: { version: { qemu: { major: 9, minor: 1, micro: 2 }, package: 'x' }, capabilities: [] },
    },
    execute: async (command: string, args: Record<string, unknown> = {}) => {
      this.asked.push(Object.keys(args).length > 0 ? `${command} ${JSON.stringify(args)}` : command);
      await Promise.resolve();
      if (command === 'query-commands') return [{ name: 'screendump' }];
      if (command === 'query-status') return { status: this.status };
      return (await this.answers[command]?.(args)) ?? {};
    },
  } as unknown as QmpClient;

  event(event: string, data: Record<string, unknown> = {}): void {
    this.onEvent?.({ event, data, timestamp: { seconds: 7, microseconds: 8 } });
  }
}

interface Rig {
  readonly monitor: QemuMonitor;
  readonly told: string[];
  readonly heard: string[];
}

function rig(): Rig {
  const told: string[] = [];
  const heard: string[] = [];
  const monitor = new QemuMonitor({
    onBegin: () => undefined,
    onSelfStop: (state) => void told.push(`stop ${state}`),
    onSelfResume: () => void told.push('resume'),
    onShutdown: ({ guest, reason }) => told.push(`shutdown ${reason} ${guest}`),
  });
  monitor.onEvent = (name, data, { seconds }) => heard.push(`${name} ${JSON.stringify(data)} ${seconds}`);
  return { monitor, told, heard };
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('the monitor of an engine whose QEMU changes', () => {
  it('commands wait for the next process, and those under way are repeated there', async () => {
    const { monitor } = rig();
    const [a, b] = [new FakeChild(), new FakeChild()];
    await monitor.attach(a);
    assert.deepEqual([...monitor.commands], ['screendump']);
    assert.equal(monitor.version.qemu.major, 9);
    const died = new Deferred<unknown>();
    a.answers['screendump'] = () => died.promise;
    const underWay = monitor.execute('screendump', { filename: 'f' });
    await turn();
    monitor.detach();
    died.reject(new ClosedError('gone'));
    const waiting = monitor.execute('query-mice', {});
    await turn();
    assert.deepEqual(b.asked, []);
    b.answers['screendump'] = () => ({ by: 'b' });
    await monitor.attach(b);
    assert.deepEqual(await underWay, { by: 'b' });
    await waiting;
    assert.deepEqual(b.asked.toSorted(), ['query-mice', 'screendump {"filename":"f"}']);
  });

  it('an error is no reason to repeat a command, and an end ends those that wait', async () => {
    const { monitor } = rig();
    const a = new FakeChild();
    await monitor.attach(a);
    const gate = new Deferred<unknown>();
    a.answers['screendump'] = () => gate.promise;
    const underWay = monitor.execute('screendump', {});
    await turn();
    monitor.detach();
    gate.reject(new QmpCommandError('screendump', 'GenericError', 'no'));
    await assert.rejects(underWay, { desc: 'no' });
    const waiting = monitor.execute('screendump', {});
    monitor.close(new ClosedError('it was killed'));
    await assert.rejects(waiting, /it was killed/);
    await assert.rejects(monitor.execute('screendump', {}), /screendump: the machine is gone: it was killed/);
  });

  it('a command that no process lives to answer is given up', async () => {
    const { monitor } = rig();
    let replaced = 0;
    const replace = async (): Promise<never> => {
      replaced++;
      monitor.detach();
      const next = new FakeChild();
      next.answers['dump-guest-memory'] = replace;
      await monitor.attach(next);
      throw new ClosedError('replaced');
    };
    const first = new FakeChild();
    first.answers['dump-guest-memory'] = replace;
    await monitor.attach(first);
    await assert.rejects(monitor.execute('dump-guest-memory', {}), /replaced/);
    assert.equal(replaced, 4);
  });

  it('what belongs to the process is told to the next one, the last of each kind', async () => {
    const { monitor } = rig();
    const [a, b] = [new FakeChild(), new FakeChild()];
    await monitor.attach(a);
    a.answers['set_password'] = ({ password }) => {
      if (password === 'refused') throw new QmpCommandError('set_password', 'GenericError', 'no');
    };
    await monitor.execute('set_password', { protocol: 'vnc', password: 'one' });
    await monitor.execute('set_link', { name: 'n0', up: false });
    await monitor.execute('set-action', { panic: 'none' });
    await monitor.execute('set-action', { reboot: 'shutdown' });
    await monitor.execute('set_password', { protocol: 'vnc', password: 'two' });
    await assert.rejects(monitor.execute('set_password', { protocol: 'vnc', password: 'refused' }));
    await monitor.execute('expire_password', { protocol: 'vnc', time: '+100' });
    await monitor.execute('human-monitor-command', { 'command-line': 'change vnc password three' });
    await monitor.execute('human-monitor-command', { 'command-line': 'info mice' });
    await monitor.execute('screendump', { filename: 'f' });
    monitor.detach();
    await monitor.attach(b);
    const expiry = /"time":"(\d+)"/.exec(b.asked.join())?.[1];
    assert.ok(Math.abs(Number(expiry) - Date.now() / 1000 - 100) < 10, expiry);
    assert.deepEqual(
      b.asked.map((line) => line.replace(expiry ?? '', 'T')),
      [
        'set_link {"name":"n0","up":false}',
        'set-action {"panic":"none","reboot":"shutdown"}',
        'set_password {"protocol":"vnc","password":"two"}',
        'expire_password {"protocol":"vnc","time":"T"}',
        'human-monitor-command {"command-line":"change vnc password three"}',
      ],
    );
  });

  it('events come from the process that runs the guest, and not those that we cause', async () => {
    const { monitor, told, heard } = rig();
    const [a, b] = [new FakeChild(), new FakeChild()];
    await monitor.attach(a);
    a.event('RTC_CHANGE', { offset: 1 });
    a.event('MIGRATION', { status: 'completed' });
    a.event('SHUTDOWN', { guest: true, reason: 'guest-reset' });
    a.event('SHUTDOWN', { guest: false, reason: 'host-signal' });
    monitor.detach();
    a.event('RTC_CHANGE', { offset: 2 });
    await monitor.attach(b);
    a.event('RTC_CHANGE', { offset: 3 });
    b.event('RTC_CHANGE', { offset: 4 });
    assert.deepEqual(heard, ['RTC_CHANGE {"offset":1} 7', 'RTC_CHANGE {"offset":4} 7']);
    assert.deepEqual(told, ['shutdown guest-reset true']);
  });

  it('knows a stop that it asked for from one that came by itself', async () => {
    const { monitor, told } = rig();
    const a = new FakeChild();
    await monitor.attach(a);
    a.answers['stop'] = () => {
      a.status = 'paused';
      a.event('STOP');
    };
    a.answers['cont'] = () => {
      a.status = 'running';
      a.event('RESUME');
    };
    await monitor.stop();
    await monitor.cont();
    await turn();
    assert.deepEqual(told, []);
    a.status = 'io-error';
    a.event('STOP');
    await turn();
    assert.deepEqual(told, ['stop io-error']);
    await monitor.cont();
    // The disk fails just before our stop arrives: nothing is left for that to do.
    a.answers['stop'] = () => {
      a.status = 'io-error';
      a.event('STOP');
    };
    await monitor.stop();
    await turn();
    assert.deepEqual(told, ['stop io-error', 'stop io-error']);
    a.event('RESUME');
    assert.deepEqual(told, ['stop io-error', 'stop io-error', 'resume']);
  });
});
