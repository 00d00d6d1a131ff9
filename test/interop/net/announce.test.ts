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
import { noQemu, qemuVm } from '../../helpers/live-vm.ts';

const STEP_MS = 60_000;
const EARLY_MS = 2;

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
      assert.ok(after >= ms - EARLY_MS, `announcement ${at} after ${after} ms`);
    }
  }
  // One NIC, and a series that is put in the place of another before its second round.
  await execute('announce-self', { initial: 90_000, max: 90_000, rounds: 2, step: 1, interfaces: ['a'] });
  await execute('announce-self', { initial: 1, max: 1, rounds: 3, step: 1, interfaces: ['b'] });
  await execute('announce-self', { initial: 1, max: 1, rounds: 0, step: 1, id: 'other' });
  await Promise.all([a.count(5), b.count(7)]);
  return [a, b].map(({ heard }) => heard.map(({ frame }) => frame));
}

test('frames and their times are QEMUs', { skip: noQemu }, async (t) => {
  const folder = await testFolder(t);
  const [a, b] = [await Ear.at(t, path.join(folder, 'a')), await Ear.at(t, path.join(folder, 'b'))];
  const p = await qemuVm(t, machine(folder));
  const ours = await story(a, b, (command, args) => p.execute(command, args));
  assert.deepEqual(p.vm.announcer.underWay, []);
  await p.vm.close();

  const home = await testFolder(t);
  const [c, d] = [await Ear.at(t, path.join(home, 'a')), await Ear.at(t, path.join(home, 'b'))];
  const words = `-accel tcg -m 16 -nodefaults -display none -qmp stdio ${machine(home)}`;
  // It says nothing while it is stopped, and BIOS is kept from looking for a system on the network.
  const child = spawn('qemu-system-x86_64', [...words.split(' '), '-boot', 'menu=on,splash-time=60000'], {
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  t.after(() => child.kill('SIGKILL'));
  const qmp = new QmpTypist(child.stdout, child.stdin);
  await qmp.greeted(STEP_MS);
  const execute: Execute = (command, args) => qmp.type(JSON.stringify({ execute: command, arguments: args }));
  await execute('qmp_capabilities', {});
  const theirs = await story(c, d, execute);
  assert.deepEqual(ours, theirs);
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
});
