/** announce-self on a stock QEMU that executes our guest, and on QEMU by itself: the same frames, as far apart. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { Deferred, withDeadline } from '../../../src/base/async.ts';
import { listenSocket } from '../../../src/chardev/dial.ts';
import { FrameDecoder } from '../../../src/net/framing.ts';
import { QmpTypist } from '../../helpers/qmp-typist.ts';
import { testFolder } from '../../helpers/bare-process.ts';
import { until } from '../../helpers/colo.ts';
import { noQemu, qemuVm } from '../../helpers/live-vm.ts';
import type { QemuVm } from '../../helpers/live-vm.ts';

const STEP_MS = 60_000;
/** Both count from when they last looked at the clock, which a busy machine makes a while ago. */
const EARLY = 0.8;
/** Keeps the BIOS from looking for a system on the network. */
const NO_NETBOOT = '-boot menu=on,splash-time=60000';

/** A network that hears one machine. */
class Ear {
  readonly heard: { frame: string; at: number }[] = [];
  #more = new Deferred<void>();

  static async at(t: TestContext, file: string): Promise<Ear> {
    const ear = new Ear();
    const server = net.createServer((socket) => {
      t.after(() => socket.destroy());
      const decoder = new FrameDecoder({
        vnetHdrSupport: false,
        onFrame: (bytes, from, to) => {
          ear.heard.push({
            frame: Buffer.from(bytes.subarray(from, to)).toString('hex'),
            at: performance.now(),
          });
          ear.#more.resolve();
          ear.#more = new Deferred();
        },
        onError: (error) => {
          throw error;
        },
      });
      socket.on('error', () => undefined);
      socket.on('data', (chunk: Buffer) => decoder.push(chunk));
    });
    t.after(() => server.close());
    await listenSocket(server, { type: 'unix', path: file });
    return ear;
  }

  async count(frames: number): Promise<void> {
    while (this.heard.length < frames) await withDeadline(this.#more.promise, STEP_MS, `frame ${frames}`);
  }
}

/** Two NICs, on a network each. */
const machine = (folder: string): string =>
  ['a', 'b']
    .map(
      (name, at) =>
        `-netdev stream,id=h${name},server=off,addr.type=unix,addr.path=${path.join(folder, name)} ` +
        `-device rtl8139,id=${name},netdev=h${name},mac=52:54:00:12:34:5${at}`,
    )
    .join(' ');

type Execute = (command: string, args: object) => Promise<unknown>;

/** What both networks hear of the same commands; and when, counted from each command. */
async function story(a: Ear, b: Ear, execute: Execute): Promise<string[][]> {
  const times = { initial: 50, max: 120, rounds: 4, step: 60 };
  const asked = performance.now();
  await execute('announce-self', times);
  await Promise.all([a.count(4), b.count(4)]);
  for (const ear of [a, b]) {
    for (const [at, ms] of [0, 50, 160, 280].entries()) {
      const after = (ear.heard[at]?.at ?? 0) - asked;
      assert.ok(after >= EARLY * ms, `announcement ${at} after ${after} ms`);
    }
  }
  // One NIC, and a series that is put in the place of another before its second round.
  await execute('announce-self', { initial: 90_000, max: 90_000, rounds: 2, step: 1, interfaces: ['a'] });
  await execute('announce-self', { initial: 1, max: 1, rounds: 3, step: 1, interfaces: ['b'] });
  await execute('announce-self', { initial: 1, max: 1, rounds: 0, step: 1, id: 'other' });
  await Promise.all([a.count(5), b.count(7)]);
  return [a, b].map(({ heard }) => heard.map(({ frame }) => frame));
}

/** QEMU with `words`, its monitor; killed when the test ends. */
async function startQemu(t: TestContext, words: string): Promise<Execute> {
  const line = `-accel tcg -m 16 -nodefaults -display none -qmp stdio ${words}`;
  const child = spawn('qemu-system-x86_64', line.split(' '), { stdio: ['pipe', 'pipe', 'ignore'] });
  t.after(async () => {
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  });
  const qmp = new QmpTypist(child.stdout, child.stdin);
  await qmp.greeted(STEP_MS);
  const execute: Execute = (command, args) => qmp.type(JSON.stringify({ execute: command, arguments: args }));
  await execute('qmp_capabilities', {});
  return execute;
}

test('frames and their times are QEMUs', { skip: noQemu }, async (t) => {
  const folder = await testFolder(t);
  const [a, b] = [await Ear.at(t, path.join(folder, 'a')), await Ear.at(t, path.join(folder, 'b'))];
  const p = await qemuVm(t, `${machine(folder)} ${NO_NETBOOT}`);
  const ours = await story(a, b, (command, args) => p.execute(command, args));
  assert.deepEqual(p.vm.announcer.underWay, []);
  await p.vm.close();

  const home = await testFolder(t);
  const [c, d] = [await Ear.at(t, path.join(home, 'a')), await Ear.at(t, path.join(home, 'b'))];
  const qemu = await startQemu(t, `${machine(home)} ${NO_NETBOOT}`);
  assert.deepEqual(ours, await story(c, d, qemu));
});

test('the end of a migration is told as the parameters say, as QEMU does', { skip: noQemu }, async (t) => {
  const parameters = {
    'announce-initial': 30,
    'announce-max': 40,
    'announce-rounds': 3,
    'announce-step': 100,
  };
  const migrated = async (
    folder: string,
    start: (words: string) => Promise<Execute>,
  ): Promise<readonly string[]> => {
    const ears = [await Ear.at(t, path.join(folder, 'a')), await Ear.at(t, path.join(folder, 'b'))];
    const idle = ['a', 'b'].map((name) => `-netdev hubport,id=h${name},hubid=0`).join(' ');
    const nics = machine(folder).replaceAll(/-netdev \S+ /g, '');
    const source = await start(`${idle} ${nics} ${NO_NETBOOT}`);
    const uri = `unix:${path.join(folder, 'state')}`;
    const destination = await start(`${machine(folder)} ${NO_NETBOOT} -incoming ${uri}`);
    await destination('migrate-set-parameters', parameters);
    await source('cont', {});
    const asked = performance.now();
    await source('migrate', { uri });
    for (const ear of ears) {
      await ear.count(3);
      assert.ok((ear.heard[2]?.at ?? 0) - asked >= EARLY * 70);
    }
    return ears.flatMap(({ heard }) => heard.map(({ frame }) => frame));
  };
  const vms: QemuVm[] = [];
  const ours = await migrated(await testFolder(t), async (words) => {
    const p = await qemuVm(t, words);
    vms.push(p);
    return (command, args) => p.execute(command, args);
  });
  const [source] = vms;
  assert.ok(source);
  await until('the source has moved away', STEP_MS, async () => (await source.status()) === 'postmigrate');
  const said = (): number => source.vm.netdevs.get('ha')!.stats.toWire;
  const before = said();
  await source.execute('announce-self', { initial: 1, max: 1, rounds: 1, step: 0 });
  assert.equal(said(), before, 'its NICs are elsewhere');
  const theirs = await migrated(await testFolder(t), (words) => startQemu(t, words));
  assert.equal(ours.length, 6);
  assert.deepEqual(ours, theirs);
});
