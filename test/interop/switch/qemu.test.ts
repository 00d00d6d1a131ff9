/**
 * A real guest on the switch. COLO_GUEST_IMAGE: a raw disk image as `colo guest` builds it (TCP echo on port 7, HTTP on
 * port 80 at 10.0.2.15, `colo-guest: ready` on the serial console). It is not written to.
 */
import assert from 'node:assert/strict';
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { startSwitch } from '../../../src/switch/index.ts';
import { missingSlirp, TextClient } from './support.ts';

const QEMU = 'qemu-system-i386';
const image = process.env['COLO_GUEST_IMAGE'];

function missing(): string | false {
  if (spawnSync(QEMU, ['--version']).status !== 0) return `${QEMU} is not installed`;
  if (!image) return 'COLO_GUEST_IMAGE is not set';
  if (!existsSync(image)) return `${image} does not exist`;
  return missingSlirp();
}

interface Vm {
  readonly process: ChildProcess;
  readonly monitor: string;
}

function startVm(dir: string, name: string, extra: string[] = []): Vm {
  const monitor = `${dir}/${name}.monitor`;
  const args = '-M pc -accel tcg -m 128 -display none -serial stdio -device e1000,netdev=n0'.split(' ');
  args.push('-drive', `file=${image!},format=raw,if=ide,snapshot=on`);
  args.push('-netdev', `stream,id=n0,server=off,addr.type=unix,addr.path=${dir}/s`);
  args.push('-monitor', `unix:${monitor},server=on,wait=off`, ...extra);
  return { process: spawn(QEMU, args, { stdio: ['ignore', 'pipe', 'inherit'] }), monitor };
}

/** Resolves when `text` has come out of the guest's console, which is read on (QEMU must not get a broken pipe). */
function serialLine(vm: Vm, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    let seen = '';
    vm.process.stdout!.on('data', (chunk: Buffer) => {
      seen = (seen + chunk.toString()).slice(-4096);
      if (seen.includes(text)) resolve();
    });
    vm.process.once('exit', () => reject(new Error(`QEMU ended; its console: ${seen}`)));
  });
}

/** Runs a monitor command; it has ended when the next prompt comes. */
async function hmp(vm: Vm, command: string): Promise<void> {
  const socket = connect({ path: vm.monitor });
  let seen = '';
  const prompt = new Promise<void>((resolve, reject) => {
    socket.on('data', (chunk: Buffer) => {
      seen += chunk.toString();
      if (seen.split('(qemu) ').length === 3) resolve();
    });
    socket.on('error', reject);
    socket.on('close', () => reject(new Error(`the monitor was closed: ${seen}`)));
  });
  socket.write(`${command}\n`);
  await prompt;
  socket.destroy();
}

async function kill(vm: Vm): Promise<void> {
  if (vm.process.exitCode !== null || vm.process.signalCode !== null) return;
  const ended = once(vm.process, 'exit');
  vm.process.kill('SIGKILL');
  await ended;
}

void test(
  'a guest in QEMU is reached, and its connection survives its process',
  { skip: missing(), timeout: 240_000 },
  async (t) => {
    const dir = await mkdtemp(join(tmpdir(), 'colo-qemu-'));
    const running = await startSwitch({
      listen: [`unix:${dir}/s`],
      nat: { hostForwards: ['tcp::0-10.0.2.15:7', 'tcp::0-10.0.2.15:80'] },
    });
    const [echo, http] = running.forwards.map(({ hostPort }) => hostPort) as [number, number];
    const vms: Vm[] = [];
    t.after(async () => {
      for (const vm of vms) await kill(vm);
      await running.close();
      await rm(dir, { recursive: true });
    });
    const first = startVm(dir, 'first');
    vms.push(first);
    await serialLine(first, 'colo-guest: ready');

    const page = await fetch(`http://127.0.0.1:${http}/`, { headers: { connection: 'close' } });
    assert.equal(page.status, 200);
    assert.match(await page.text(), /colo guest/);

    const client = await TextClient.connect(echo);
    const big = `${'0123456789'.repeat(30_000)}\n`;
    client.socket.write(big);
    assert.equal(await client.until('\n'), big);

    // Once saved, the guest stands still; restored, it runs, and QEMU announces its address (RARP).
    await hmp(first, `migrate "exec:cat > ${dir}/state"`);
    client.socket.write('while it stood still\n');
    await kill(first);
    client.socket.write('while it was dead\n');
    vms.push(startVm(dir, 'second', ['-incoming', `exec:cat ${dir}/state`]));
    assert.equal(await client.until('dead\n'), 'while it stood still\nwhile it was dead\n');
    client.close();
  },
);
