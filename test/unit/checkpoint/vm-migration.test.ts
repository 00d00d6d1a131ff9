/** Two VMs' migration and COLO commands on engines without a machine: run states, cancel, failover, events. */
import assert from 'node:assert/strict';
import net from 'node:net';
import { once } from 'node:events';
import { describe, it } from 'node:test';
import { Deferred, withDeadline } from '../../../src/base/async.ts';
import { ClosedError, ProtocolError, TimeoutError } from '../../../src/base/errors.ts';
import { endKindOf } from '../../../src/checkpoint/end-kind.ts';
import { COLO_MESSAGE } from '../../../src/checkpoint/messages.ts';
import { Netdev } from '../../../src/net/netdev.ts';
import { DEFAULT_ANNOUNCE_TIMES } from '../../../src/net/announcer.ts';
import type { RunState } from '../../../src/vm/run-control.ts';
import { RunControl } from '../../../src/vm/run-control.ts';
import { MemoryEngine } from '../../helpers/memory-engine.ts';
import { SOON_MS, Vm } from './migrating-vm.ts';

async function incoming(startPaused = false): Promise<{ vm: Vm; uri: string; port: number }> {
  const vm = new Vm('inmigrate', startPaused);
  await vm.migration.listen('tcp:127.0.0.1:0');
  const { port } = vm.migration.incomingAddress as { port: number };
  return { vm, uri: `tcp:127.0.0.1:${port}`, port };
}

async function pair(): Promise<{ p: Vm; s: Vm }> {
  const { vm: s, uri } = await incoming();
  const p = new Vm('running');
  p.migration.setCapabilities([{ capability: 'x-colo', state: true }]);
  p.migration.migrate(uri);
  await p.event('RESUME');
  await s.event('RESUME');
  return { p, s };
}

function close(...vms: Vm[]): void {
  for (const vm of vms) vm.migration.close();
}

/** Between source and destination: ends both connections when the source has said `code` as a message of its own. */
async function cutAt(code: number, port: number): Promise<{ uri: string; close(): void }> {
  const server = net.createServer((from) => {
    const to = net.connect(port, '127.0.0.1');
    for (const socket of [from, to]) socket.on('error', () => undefined);
    to.pipe(from);
    from.on('data', (chunk: Buffer) => {
      if (chunk.byteLength === 4 && chunk.readUInt32BE(0) === code) to.destroy();
      else to.write(chunk);
    });
    from.on('close', () => to.destroy());
    to.on('close', () => from.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    uri: `tcp:127.0.0.1:${(server.address() as net.AddressInfo).port}`,
    close: () => server.close(),
  };
}

/** A destination that accepts and says nothing. */
async function silent(): Promise<{ uri: string; connected: Promise<unknown>; close(): void }> {
  const sockets: net.Socket[] = [];
  const server = net.createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => undefined);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    uri: `tcp:127.0.0.1:${(server.address() as net.AddressInfo).port}`,
    connected: once(server, 'connection'),
    close: () => {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

describe('failover commands', () => {
  it('the primary says STOP, COLO_EXIT, RESUME, and runs alone', async () => {
    const { p, s } = await pair();
    close(s);
    await p.event('COLO_EXIT primary error');
    const from = p.events.length;
    await p.migration.lostHeartbeat();
    assert.deepEqual(p.events.slice(from), ['STOP', 'RESUME', 'MIGRATION completed']);
    assert.ok(p.lines.includes('primary net stop failover'));
    await assert.rejects(p.migration.lostHeartbeat(), /VM is not in COLO mode/);
    assert.deepEqual(p.migration.queryColoStatus(), {
      'last-mode': 'primary',
      mode: 'none',
      reason: 'request',
    });

    const healthy = await pair();
    const since = healthy.p.events.length;
    await healthy.p.migration.lostHeartbeat();
    assert.deepEqual(healthy.p.events.slice(since), [
      'STOP',
      'COLO_EXIT primary request',
      'RESUME',
      'MIGRATION completed',
    ]);
    close(p, healthy.p, healthy.s);
  });

  it('the secondary announces itself before anything else of it is heard', async () => {
    const { p, s } = await pair();
    s.migration.announceTimes = { initial: 1, max: 2, rounds: 3, step: 4 };
    close(p);
    await s.event('COLO_EXIT secondary error');
    const from = s.events.length;
    await s.migration.lostHeartbeat();
    assert.deepEqual(s.events.slice(from), [
      'STOP',
      '(heard)',
      '(announce)',
      '(filters: failover)',
      'RESUME',
      'MIGRATION completed',
    ]);
    assert.deepEqual(s.announced, [{ initial: 1, max: 2, rounds: 3, step: 4 }]);
    close(s);
  });

  it('a guest that its user had stopped runs after a failover, as in QEMU, but not after a mere loss', async () => {
    const { p, s } = await pair();
    await p.run.stop('paused');
    close(s);
    await p.event('COLO_EXIT primary error');
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(p.run.state, 'paused');
    await p.migration.lostHeartbeat();
    assert.equal(p.run.state, 'running');
    close(p);
  });

  it('cont in the middle of a checkpoint does not let the guest run', async () => {
    const { p, s } = await pair();
    const [begun, go] = [new Deferred<void>(), new Deferred<void>()];
    const load = s.engine.load.bind(s.engine);
    s.engine.load = async (snapshots) => {
      begun.resolve();
      await go.promise;
      assert.equal(s.engine.state, 'paused');
      await load(snapshots);
    };
    p.migration.requestCheckpoint('request');
    await begun.promise;
    await s.run.resume();
    assert.equal(s.run.state, 'colo');
    const from = s.events.length;
    go.resolve();
    await withDeadline(
      (async () => {
        while (p.migration.stats.count === 0) await new Promise((resolve) => setImmediate(resolve));
      })(),
      SOON_MS,
      'checkpoint',
    );
    assert.deepEqual(s.events.slice(from), ['RESUME']);
    close(p, s);
  });

  it('a secondary whose load failed runs for nobody', async () => {
    const { p, s } = await pair();
    s.engine.loadError = new Error('the engine broke');
    p.migration.requestCheckpoint('request');
    await s.event('COLO_EXIT secondary error');
    await assert.rejects(s.migration.lostHeartbeat(), /no whole state/);
    assert.equal(s.run.state, 'internal-error');
    await s.run.resume().catch(() => undefined);
    await assert.rejects(s.migration.lostHeartbeat(), /no whole state/);
    assert.equal(s.migration.queryColoStatus().mode, 'secondary');
    close(p, s);
  });
});

describe('why a pair came apart', () => {
  it('is told in a word: a lost process, an ally that goes on alone, a disk that failed', async () => {
    const lost = await pair();
    lost.s.migration.close();
    await lost.p.event('COLO_EXIT primary error');
    assert.match(lost.p.ends.join(), /^closed: |^reset: /);

    const left = await pair();
    await left.s.migration.lostHeartbeat();
    await left.p.event('COLO_EXIT primary error');
    assert.match(left.p.ends.join(), /^peer-failed: .*failover was requested/);
    assert.deepEqual(left.s.ends, []);

    const parted = await pair();
    await parted.p.migration.lostHeartbeat();
    await parted.s.event('COLO_EXIT secondary error');
    assert.match(parted.s.ends.join(), /^peer-failed: .*failover was requested/);

    const failed = await pair();
    failed.p.disk.failure = new Error('the disk broke');
    failed.p.migration.requestCheckpoint('request');
    await failed.p.event('COLO_EXIT primary error');
    await failed.s.event('COLO_EXIT secondary error');
    assert.match(failed.p.ends.join(), /^forward-failed: disk: .*the disk broke/);
    assert.match(failed.s.ends.join(), /^peer-failed: .*the disk broke/);
    for (const vms of [lost, left, parted, failed]) close(vms.p, vms.s);
  });

  it('is found in errors of every kind', () => {
    const broken = (code: string): Error =>
      new ClosedError('lost', { cause: Object.assign(new Error(code), { code }) });
    const kinds = [
      ...[
        broken('ECONNRESET'),
        broken('EPIPE'),
        broken('EHOSTUNREACH'),
        broken('ETIMEDOUT'),
        broken('EOTHER'),
      ],
      ...[new ClosedError('lost'), new TimeoutError('late'), new ProtocolError('garbage'), new Error('mine')],
    ].map(endKindOf);
    assert.deepEqual(kinds, [
      ...['reset', 'reset', 'unreachable', 'unreachable', 'closed'],
      ...['closed', 'timeout', 'protocol', 'failed'],
    ]);
  });
});

describe('the heartbeat of a pair', () => {
  it('is told by query-colo-status, takes settings while it goes, and ends with the pair', async () => {
    const { p, s } = await pair();
    const { 'last-heard-ms': heard, ...rest } = p.migration.queryColoStatus()['x-heartbeat'] ?? {};
    assert.ok(Number(heard) >= 0);
    assert.deepEqual(rest, { 'is-silent': false, 'interval-ms': 100, 'patience-ms': 400 });
    // One that does not beat for a while.
    s.migration.heartbeat = { intervalMs: 60_000, patienceMs: 0 };
    assert.equal(s.migration.queryColoStatus()['x-heartbeat']?.['interval-ms'], 60_000);
    await p.migration.lostHeartbeat();
    assert.equal(p.migration.queryColoStatus()['x-heartbeat'], undefined);
    close(p, s);
  });
});

describe('outgoing migration', () => {
  it('is cancelled while it waits for a job, and while it waits for the destination', async () => {
    const p = new Vm('running');
    p.settleJobs = () => new Promise(() => undefined);
    p.migration.migrate('tcp:127.0.0.1:9');
    p.migration.cancel();
    await p.event('MIGRATION cancelled');
    assert.equal(p.run.state, 'running');

    const destination = await silent();
    p.settleJobs = () => Promise.resolve();
    p.events.length = 0;
    p.migration.migrate(destination.uri);
    await p.event('MIGRATION active');
    await destination.connected;
    p.migration.cancel();
    await p.event('MIGRATION cancelled');
    assert.equal(p.run.state, 'running');
    assert.equal(p.engine.state, 'running');
    destination.close();
  });

  it('ends at once when the VM does', async () => {
    const p = new Vm('running');
    p.settleJobs = () => new Promise(() => undefined);
    p.migration.migrate('tcp:127.0.0.1:9');
    p.migration.close();
    await p.event('MIGRATION failed');
  });

  it('that fails leaves the guest as it was and its output free', async () => {
    for (const state of ['running', 'paused'] as const) {
      const { vm: s, port } = await incoming();
      // The state arrives and is confirmed; loading it fails.
      s.engine.loadError = new Error('the engine broke');
      const p = new Vm(state);
      p.migration.setCapabilities([{ capability: 'x-colo', state: true }]);
      p.migration.migrate(`tcp:127.0.0.1:${port}`);
      await p.event('MIGRATION failed');
      assert.match(String(p.migration.queryMigrate()['error-desc']), /the engine broke/);
      assert.equal(p.run.state, state);
      assert.equal(p.engine.state, state);
      assert.ok(p.lines.includes('primary net commit'));
      assert.ok(p.lines.includes('primary net stop failover'), p.lines.join(' / '));
      assert.equal(p.migration.mode, 'none');
      // The destination still waits, and another try succeeds.
      s.engine.loadError = null;
      p.events.length = 0;
      p.migration.migrate(`tcp:127.0.0.1:${port}`);
      await p.event('MIGRATION colo');
      await s.event('RESUME');
      close(p, s);
    }
  });

  it('hands the guest over: it runs there and stands here', async () => {
    const { vm: s, uri } = await incoming();
    const p = new Vm('running');
    p.engine.ram[77] = 7;
    p.migration.migrate(uri);
    await p.event('MIGRATION completed');
    await s.event('RESUME');
    assert.ok(s.events.indexOf('(announce)') < s.events.indexOf('RESUME'));
    assert.deepEqual(s.announced, [DEFAULT_ANNOUNCE_TIMES]);
    assert.deepEqual([p.run.state, s.run.state], ['postmigrate', 'running']);
    assert.deepEqual([p.engine.state, s.engine.state], ['paused', 'running']);
    assert.equal(s.engine.ram[77], 7);
    close(p, s);
  });

  it('never lets it run on both sides, wherever the connection breaks', async () => {
    const { vm: s, port } = await incoming();
    const cut = await cutAt(COLO_MESSAGE.HANDOVER, port);
    const p = new Vm('running');
    p.migration.migrate(cut.uri);
    await p.event('MIGRATION completed');
    await withDeadline(
      (async () => {
        while (s.migration.errorText === null) await new Promise((resolve) => setImmediate(resolve));
      })(),
      SOON_MS,
      'the refusal',
    );
    assert.notEqual(s.engine.state, 'running');
    assert.notEqual(p.engine.state, 'running');
    cut.close();
    close(p, s);
  });

  it('a guest stopped before it came stays stopped; cont undoes -S', async () => {
    for (const [startPaused, verb, state] of [
      [false, 'stop', 'paused'],
      [true, 'resume', 'running'],
      [true, null, 'paused'],
    ] as const) {
      const { vm: s, uri } = await incoming(startPaused);
      if (verb === 'stop') await s.run.stop('paused');
      if (verb === 'resume') await s.run.resume();
      assert.equal(s.run.state, 'inmigrate');
      const p = new Vm('running');
      p.migration.migrate(uri);
      await s.event('(heard)');
      await p.event('MIGRATION completed');
      await withDeadline(
        (async () => {
          while (s.run.state === 'inmigrate') await new Promise((resolve) => setImmediate(resolve));
        })(),
        SOON_MS,
        'arrival',
      );
      assert.equal(s.run.state, state);
      close(p, s);
    }
  });
});

describe('run control', () => {
  const control = (state: RunState): { run: RunControl; engine: MemoryEngine; events: string[] } => {
    const engine = new MemoryEngine();
    const events: string[] = [];
    if (state === 'running') engine.state = 'running';
    const run = new RunControl(engine, new Map(), state, {
      onStop: () => events.push('STOP'),
      onResume: () => events.push('RESUME'),
    });
    return { run, engine, events };
  };

  it('a guest that has shut down is neither renamed nor started by a checkpoint', async () => {
    const { run, engine, events } = control('running');
    engine.state = 'paused';
    run.mark('shutdown');
    await run.freeze();
    await run.thaw();
    await run.settle('paused');
    assert.equal(run.state, 'shutdown');
    assert.equal(engine.state, 'paused');
    assert.deepEqual(events, []);
  });

  it('a guest that came to a stand by itself stays like that through a checkpoint, but not a secondary’s', async () => {
    const { run, engine, events } = control('running');
    await run.resume();
    events.length = 0;
    engine.state = 'paused';
    run.stoppedItself('io-error');
    run.stoppedItself('io-error');
    assert.equal(run.state, 'io-error');
    await run.freeze();
    assert.equal(run.state, 'colo');
    await run.thaw();
    assert.deepEqual([run.state, engine.state], ['io-error', 'paused']);
    await run.resume();
    assert.equal(run.state, 'running');
    assert.deepEqual(events, ['STOP', 'RESUME']);
    run.isFollower = true;
    run.stoppedItself('guest-panicked');
    await run.freeze();
    await run.thaw();
    assert.deepEqual([run.state, engine.state], ['running', 'running']);
  });

  it('a guest that comes to a stand while it is being stopped is stopped once', async () => {
    for (const [act, after] of [
      ['stop', 'watchdog'],
      ['freeze', 'colo'],
    ] as const) {
      const { run, engine, events } = control('running');
      await run.resume();
      events.length = 0;
      engine.pause = () => {
        engine.state = 'paused';
        run.stoppedItself('watchdog');
        return Promise.resolve();
      };
      await run[act]('paused');
      run.stoppedItself('watchdog');
      assert.deepEqual([run.state, events], [after, ['STOP']]);
      await run.thaw();
      assert.equal(run.state, 'watchdog');
    }
  });

  it('a guest that sleeps is neither stopped nor woken by cont, but by a checkpoint', async () => {
    const { run, events } = control('running');
    await run.resume();
    events.length = 0;
    run.stoppedItself('suspended');
    await run.resume();
    assert.equal(run.state, 'suspended');
    run.resumedItself();
    assert.equal(run.state, 'running');
    assert.deepEqual(events, []);
    run.stoppedItself('suspended');
    await run.freeze();
    await run.thaw();
    assert.equal(run.state, 'running');
  });

  it('a reset leaves a guest that does not run before its first instruction', () => {
    for (const [from, to] of [
      ['shutdown', 'prelaunch'],
      ['paused', 'prelaunch'],
      ['colo', 'colo'],
      ['running', 'running'],
    ] as const) {
      const { run } = control(from);
      run.wasReset();
      assert.equal(run.state, to);
    }
  });

  it('stop leaves a guest alone that does not run', async () => {
    for (const state of ['prelaunch', 'postmigrate', 'shutdown', 'colo'] as const) {
      const { run } = control(state);
      await run.stop('paused');
      assert.equal(run.state, state);
    }
  });

  it('restore undoes a freeze', async () => {
    for (const state of ['prelaunch', 'paused', 'running'] as const) {
      const { run } = control(state);
      await run.freeze();
      await run.freeze();
      assert.equal(run.state, 'colo');
      await run.restore();
      assert.equal(run.state, state);
    }
  });

  it('an engine that cannot be stopped leaves no network on hold', async () => {
    const { engine } = control('running');
    const netdev = new Netdev({ id: 'n' });
    const run = new RunControl(engine, new Map([['n', netdev]]), 'running', {
      onStop: () => undefined,
      onResume: () => undefined,
    });
    engine.pause = () => Promise.reject(new Error('no'));
    await assert.rejects(run.freeze(), /no/);
    assert.equal(netdev.holding, false);
    assert.equal(run.state, 'running');
  });

  it('a guest that may not be heard is heard later, in order', () => {
    const wire: number[] = [];
    const netdev = new Netdev({ id: 'n', holdLimitFrames: 3 });
    netdev.wire = (frame) => wire.push(frame[0]!);
    const run = new RunControl(null, new Map([['n', netdev]]), 'running', {
      onStop: () => undefined,
      onResume: () => undefined,
    });
    const say = (word: number): void => netdev.sendFromGuest(Uint8Array.of(word));
    say(1);
    run.setHeard(false);
    for (const word of [2, 3, 4, 5]) say(word);
    assert.deepEqual(wire, [1]);
    run.setHeard(true);
    say(6);
    assert.deepEqual(wire, [1, 3, 4, 5, 6], 'the oldest gave way');
    assert.equal(netdev.stats.holdDropped, 1);
  });
});
