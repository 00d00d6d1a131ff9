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
  const args = [
    '-M',
    'pc',
    '-accel',
    'kvm',
    '-accel',
    'tcg',
    '-m',
    '128',
    '-display',
    'none',
    '-serial',
    'stdio',
  ];
  args.push('-drive', `file=${image!},format=raw,if=ide,snapshot=on`, '-device', 'e1000,netdev=n0');
  args.push('-netdev', `stream,id=n0,server=off,addr.type=unix,addr.path=${dir}/s`);
  args.push('-monitor', `unix:${monitor},server=on,wait=off`, ...extra);
  return { process: spawn(QEMU, args, { stdio: ['ignore', 'pipe', 'inherit'] }), monitor };
}

async function serialLine(vm: Vm, text: string): Promise<void> {
  let seen = '';
  for await (const chunk of vm.process.stdout! as AsyncIterable<Buffer>) {
    seen = (seen + chunk.toString()).slice(-4096);
    if (seen.includes(text)) return;
  }
  throw new Error(`QEMU ended; its console: ${seen}`);
}

/** Runs monitor commands one after the other; each has ended when the next prompt comes. */
async function hmp(vm: Vm, commands: string[]): Promise<void> {
  const socket = connect({ path: vm.monitor });
  let seen = '';
  const prompt = async (): Promise<void> => {
    while (!seen.endsWith('(qemu) ')) {
      const [chunk] = (await once(socket, 'data')) as [Buffer];
      seen += chunk.toString();
    }
    seen = '';
  };
  await prompt();
  for (const command of commands) {
    socket.write(`${command}\n`);
    // The monitor echoes what is typed behind the old prompt.
    await prompt();
  }
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

    await hmp(first, ['stop', `migrate "exec:cat > ${dir}/state"`]);
    client.socket.write('while it stood still\n');
    await kill(first);
    client.socket.write('while it was dead\n');
    const second = startVm(dir, 'second', ['-incoming', `exec:cat ${dir}/state`]);
    vms.push(second);
    // It was saved while stopped, so it waits for this.
    await hmp(second, ['cont']);
    assert.equal(await client.until('dead\n'), 'while it stood still\nwhile it was dead\n');
    client.close();
  },
);
