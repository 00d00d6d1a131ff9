/** `colo demo --engine qemu`, as a user types it: its story on a guest with two CPUs, and that nothing is lost in it. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import type { DemoReport } from '../../src/demo/report.ts';
import { stockQemu } from '../../src/demo/platform.ts';
import { colo } from '../helpers/colo.ts';
import { whyNoGuest } from './pair-rig.ts';

const run = promisify(execFile);
const skip = whyNoGuest(stockQemu({ accelerator: 'tcg', vcpus: 2 }));

test('the demo on a stock QEMU loses nothing', { skip, timeout: 300_000 }, async (t) => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-demo-test-'));
  try {
    const image = path.join(folder, 'guest.qcow2');
    await run('qemu-img', ['convert', '-O', 'qcow2', process.env['COLO_GUEST_IMAGE_AMD64']!, image]);
    const short = ['--generations', '1', '--protected', '1'];
    const said = await colo('demo', '--engine', 'qemu', '--vcpus', '2', '--image', image, '--json', ...short);
    const report = JSON.parse(said) as DemoReport & { accelerator: string; clean: boolean };
    t.diagnostic(`with ${report.accelerator}`);
    assert.match(report.accelerator, /^(kvm|tcg)$/);
    assert.deepEqual(
      report.failovers.map(({ killed }) => killed),
      ['primary', 'secondary'],
    );
    assert.ok(report.checkpoints >= 2, `${report.checkpoints} checkpoints`);
    assert.equal(report.clean, true);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

test('the demo refuses what its engine cannot have', async () => {
  await assert.rejects(colo('demo', '--vcpus', '2'), /the embedded engine has one CPU; take --engine qemu/);
  await assert.rejects(colo('demo', '--engine', 'qemu', '--memory', '64'), /needs 96 MiB at least/);
  await assert.rejects(colo('demo', '--engine', 'qemu', '--qemu', '/no/such'), /\/no\/such cannot be run/);
});
