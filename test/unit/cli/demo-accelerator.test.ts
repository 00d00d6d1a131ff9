/** Whether KVM is taken is decided by what a QEMU does with it; here by programs that only say what one would. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { acceleratorFor } from '../../../src/demo/accelerator.ts';
import type { Accelerator } from '../../../src/demo/accelerator.ts';

describe('acceleratorFor', () => {
  let folder = '';
  before(async () => {
    folder = await mkdtemp(path.join(os.tmpdir(), 'colo-accel-'));
  });
  after(async () => {
    await rm(folder, { recursive: true, force: true });
  });

  /** Asks with a QEMU that does what `script` says, on a host whose /dev/kvm can be opened. */
  async function choose(script: string, patienceMs?: number): Promise<Accelerator> {
    const binary = path.join(folder, 'qemu');
    await writeFile(binary, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
    const patience = patienceMs === undefined ? {} : { patienceMs };
    return acceleratorFor({ binary, image: 'guest.qcow2', device: '/dev/null', ...patience });
  }

  it('takes KVM when the guest serves', async () => {
    const { name, reason } = await choose('echo booting; echo "colo-guest: ready"; exec sleep 60');
    assert.equal(name, 'kvm');
    assert.equal(reason, '/dev/null boots a guest');
  });

  it('asks for KVM, and leaves the image alone', async () => {
    const { reason } = await choose('echo "$@"');
    assert.match(reason, /-accel kvm .*file=guest\.qcow2,format=qcow2,if=virtio,snapshot=on/);
  });

  it('takes TCG when KVM gives up while QEMU stays', async () => {
    const { name, reason } = await choose('echo "KVM internal error. Suberror: 1" >&2; exec sleep 60');
    assert.equal(name, 'tcg');
    assert.equal(reason, '/dev/null boots no guest: KVM internal error. Suberror: 1');
  });

  it('takes TCG when QEMU ends, and says with what words', async () => {
    const { name, reason } = await choose('echo "failed to initialize kvm: No such device" >&2; exit 1');
    assert.equal(name, 'tcg');
    assert.match(reason, /failed to initialize kvm: No such device$/);
  });

  it('takes TCG when nothing happens', async () => {
    const { name, reason } = await choose('exec sleep 60', 200);
    assert.equal(name, 'tcg');
    assert.match(reason, /did not serve within 0\.2 s/);
  });

  it('takes TCG when there is no device or no QEMU', async () => {
    const missing = { binary: '/no/such/qemu', image: 'guest.qcow2' };
    assert.match((await acceleratorFor({ ...missing, device: '/no/such/kvm' })).reason, /ENOENT/);
    assert.match((await acceleratorFor({ ...missing, device: '/dev/null' })).reason, /ENOENT/);
  });
});
