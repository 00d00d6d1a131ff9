/** A guest on a TAP device of the host (`-netdev tap`), in a network namespace that this test makes itself. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { COLO, until } from '../helpers/colo.ts';

const run = promisify(execFile);
const image = process.env['COLO_GUEST_IMAGE'];
const skip =
  image === undefined
    ? 'set COLO_GUEST_IMAGE to a guest made by colo guest'
    : process.getuid?.() !== 0
      ? 'a TAP device and a network namespace need root'
      : false;
const BOOT_MS = 240_000;

test('a guest is reached over -netdev tap', { skip, timeout: 300_000 }, async () => {
  const namespace = `colo-tap-${process.pid}`;
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-tap-'));
  const disk = path.join(folder, 'disk.qcow2');
  const inside = (...command: string[]) => run('ip', ['netns', 'exec', namespace, ...command]);
  await run('qemu-img', ['convert', '-O', 'qcow2', image!, disk]);
  await run('ip', ['netns', 'add', namespace]);
  const vm = spawn(
    'ip',
    ['netns', 'exec', namespace, process.execPath, COLO, 'vm', '-m', '128', '-display', 'none'].concat(
      ['-netdev', 'tap,id=hn0,ifname=colotap0,script=no,downscript=no,vhost=off'],
      ['-device', 'rtl8139,id=e0,netdev=hn0', '-hda', disk],
      ['-qmp', `unix:${folder}/qmp,server,nowait`],
    ),
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let stderr = '';
  vm.stderr.on('data', (text: Buffer) => (stderr += text.toString()));
  try {
    const quietly = (promise: Promise<{ stdout: string }>): Promise<string> =>
      promise.then(
        ({ stdout }) => stdout,
        () => '',
      );
    await until('the device is there', BOOT_MS, async () => {
      assert.equal(vm.exitCode, null, stderr);
      return (await quietly(inside('ip', 'link', 'show', 'colotap0'))) !== '';
    });
    await inside('ip', 'addr', 'add', '10.0.2.2/24', 'dev', 'colotap0');
    await inside('ip', 'link', 'set', 'colotap0', 'up');
    const ask = 'exec 3<>/dev/tcp/10.0.2.15/7001 && echo hello >&3 && head -n 1 <&3';
    let answer = '';
    await until('the guest answers', BOOT_MS, async () => {
      answer = await quietly(inside('timeout', '3', 'bash', '-c', ask));
      return answer !== '';
    });
    assert.match(answer, /^session \S+ 1\n$/);
    assert.match(stderr, /rtl8139.*ne2k_pci instead/);
  } finally {
    vm.kill('SIGKILL');
    await run('ip', ['netns', 'del', namespace]);
    await rm(folder, { recursive: true, force: true });
  }
});
