/** What is left when a process dies: ours, the one that runs the guest, the one that waits to take over. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, readFileSync, readdirSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Deferred } from '../../../src/base/async.ts';
import { ColoError } from '../../../src/base/errors.ts';
import type { QemuEngine } from '../../../src/engine/qemu/index.ts';
import { hideSocket } from '../../../src/engine/qemu/hidden-socket.ts';
import { Dice } from '../../helpers/dice.ts';
import { bootedQemu, QEMU, skipReason, unstarted, waitingQemu } from './qemu-machines.ts';

/** How often each random death is tried. */
const DEATHS = 2 * Number(process.env['COLO_CHAOS'] ?? 1);

/** Processes whose command line has the word in it. */
function processesWith(word: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(word);
      } catch {
        return false;
      }
    })
    .map(Number);
}

/** Throws when one is still there after a while: a process that was killed takes its time to go. */
async function noneLeft(word: string): Promise<void> {
  for (let tries = 0; tries < 500; tries++) {
    if (processesWith(word).length === 0) return;
    await sleep(20);
  }
  assert.fail(`left behind: ${processesWith(word).join(', ')}`);
}

/** The pid of the process that waits to take over. */
async function standbyOf(engine: QemuEngine): Promise<number> {
  await engine.prepareLoad();
  const pid = engine.pids.find((one) => one !== engine.pid);
  assert.ok(pid !== undefined);
  return pid;
}

void describe('a death of', { skip: skipReason }, () => {
  it('our own process leaves no QEMU, no file and no shared memory', async () => {
    const dice = new Dice(Date.now() % 100_000);
    const shm = readdirSync('/dev/shm').sort();
    for (let death = 0; death < DEATHS; death++) {
      const folder = await mkdtemp(join(tmpdir(), 'colo-death-'));
      const name = `dies-${process.pid}-${death}`;
      const program = new URL('qemu-program.ts', import.meta.url).pathname;
      const child = spawn(process.execPath, ['--import', 'tsx', program, name], {
        env: { ...process.env, TMPDIR: folder },
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const exit = once(child, 'exit');
      try {
        // The first in the middle of its start, the others in the middle of a swap.
        if (death === 0) while (processesWith(`guest=${name}`).length === 0) await sleep(1);
        else {
          const wanted = 1 + dice.roll(3);
          for await (const line of createInterface({ input: child.stdout })) {
            if (line === `loaded ${wanted}`) break;
          }
          await sleep(dice.roll(150));
        }
      } finally {
        child.kill('SIGKILL');
      }
      await exit;
      await noneLeft(name);
      const left = readdirSync(folder).filter((one) => one.startsWith('colo-qemu-'));
      assert.deepEqual(left, []);
      await rm(folder, { recursive: true });
    }
    assert.deepEqual(readdirSync('/dev/shm').sort(), shm);
  });

  it('our process before QEMU asked to be told ends it too: nobody is at the control socket', async () => {
    const listener = createServer();
    const fd = await hideSocket((path) => once(listener.listen(path), 'listening'));
    listener.close();
    const args = [
      '-display',
      'none',
      '-S',
      '-chardev',
      'socket,id=c,path=/proc/self/fd/3',
      '-mon',
      'chardev=c,mode=control',
    ];
    const child = spawn(QEMU, args, { stdio: ['ignore', 'ignore', 'ignore', fd] });
    const [status] = (await once(child, 'exit')) as [number | null];
    assert.equal(status, 1);
    closeSync(fd);
  });

  it('QEMU while it starts is an error that says so, and leaves nothing', async () => {
    await using machine = await unstarted({ name: `start-${process.pid}` });
    const starting = machine.engine.start();
    const refused = assert.rejects(starting, /cannot be built: qemu was killed by SIGKILL/);
    while (machine.engine.pids.length === 0) await sleep(1);
    process.kill(machine.engine.pids[0]!, 'SIGKILL');
    await refused;
    assert.equal(machine.engine.state, 'stopped');
    await noneLeft(`start-${process.pid}`);
  });

  it('the QEMU that runs the guest, at any point, is told once and leaves nothing', async () => {
    const dice = new Dice(Date.now() % 100_000);
    for (let death = 0; death < DEATHS; death++) {
      await using machine = await bootedQemu({ name: `active-${process.pid}` });
      const { engine } = machine;
      const told: string[] = [];
      const failed = new Deferred<void>();
      engine.onShutdown = (reason, error) => {
        told.push(`${reason}: ${error?.message ?? ''}`);
        failed.resolve();
      };
      const { pid } = engine;
      const murder = sleep(dice.roll(40)).then(() => process.kill(pid, 'SIGKILL'));
      const working = (async () => {
        await engine.pause();
        for (let at = 0; ; at++) {
          await engine.capture({ full: at === 0 });
          await engine.resume();
          await engine.pause();
        }
      })();
      await assert.rejects(working, ColoError);
      await murder;
      await failed.promise;
      assert.deepEqual(told, ['failed: qemu was killed by SIGKILL']);
      assert.equal(engine.state, 'failed');
      await assert.rejects(engine.resume(), /in state failed/);
      await assert.rejects(engine.monitor.execute('query-status', {}), /the machine is gone/);
      await engine.stop();
      await noneLeft(`active-${process.pid}`);
    }
  });

  it('the QEMU that waits to take over is replaced, and the next load takes place', async () => {
    await using a = await bootedQemu();
    await using b = await waitingQemu();
    await a.engine.pause();
    await b.engine.load([await a.engine.capture({ full: true })]);
    const victim = await standbyOf(b.engine);
    process.kill(victim, 'SIGKILL');
    await a.engine.resume();
    await b.engine.resume();
    await a.console.counter();
    await Promise.all([a.engine.pause(), b.engine.pause()]);
    // A load before the kernel has told of it takes the dead one, and fails.
    while (b.engine.pids.includes(victim)) await sleep(1);
    await b.engine.load([await a.engine.capture({ full: false })]);
    await b.engine.resume();
    assert.ok((await b.console.counter()) > 0);
  });

  it('the QEMU that takes a state leaves nothing to go on with, and is told once', async () => {
    await using a = await bootedQemu();
    await using b = await waitingQemu();
    await a.engine.pause();
    await b.engine.load([await a.engine.capture({ full: true })]);
    const victim = await standbyOf(b.engine);
    const told: string[] = [];
    b.engine.onShutdown = (reason, error) => told.push(`${reason}: ${error?.message ?? ''}`);
    await a.engine.resume();
    await a.console.counter();
    await a.engine.pause();
    const loading = b.engine.load([await a.engine.capture({ full: false })]);
    // It is taken already: the kernel's word of its death comes in a later turn.
    process.kill(victim, 'SIGKILL');
    await assert.rejects(loading, /did not take the state: qemu was killed by SIGKILL/);
    assert.equal(b.engine.state, 'failed');
    assert.deepEqual(told, ['failed: a state could not be loaded']);
  });

  it('any of a secondary’s processes in a load leaves the whole old state, the new one, or none', async () => {
    const dice = new Dice(Date.now() % 100_000);
    const name = `swap-${process.pid}`;
    await using a = await bootedQemu();
    for (let death = 0; death < DEATHS; death++) {
      await a.engine.pause();
      await using b = await waitingQemu({ name });
      await b.engine.load([await a.engine.capture({ full: true })]);
      await b.engine.prepareLoad();
      await a.engine.resume();
      await a.console.counter();
      await a.engine.pause();
      const delta = await a.engine.capture({ full: false });
      const victim = dice.pick(b.engine.pids);
      const loading = b.engine.load([delta]).then(
        () => null,
        (error: unknown) => error,
      );
      await sleep(dice.roll(20));
      try {
        process.kill(victim, 'SIGKILL');
      } catch {
        // The load had ended it.
      }
      const error = await loading;
      if (error === null) {
        if (b.engine.state === 'paused') await b.engine.resume().catch(() => undefined);
      } else {
        assert.ok(error instanceof ColoError);
        assert.notEqual(b.engine.state, 'running');
      }
      await b.engine.stop();
      await noneLeft(name);
      await a.engine.resume();
    }
  });
});
