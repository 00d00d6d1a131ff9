/** What the guest keeps when its plug is pulled, and what its console and its image's options do. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { buildGuest } from '../../../src/guest/build.ts';
import { GuestLab, GuestMachine, TEST_CACHE } from './guest-machine.ts';

const ARCH = 'i386';

describe('the guest, switched off and on', { skip: await GuestLab.whyNot(ARCH) }, () => {
  let lab: GuestLab;
  before(async () => {
    lab = await GuestLab.open(ARCH);
  });
  after(async () => {
    await lab.close();
  });

  it('keeps every acknowledged line when its plug is pulled', async () => {
    const image = await lab.copy('plug');
    const first = await GuestMachine.boot({ arch: ARCH, image, nic: 'rtl8139' });
    const writer = first.client(7000);
    for (let line = 1; line <= 50; line += 1)
      assert.equal(await writer.ask(`append line ${line}`), `ok ${line}`);
    await first.kill();
    const second = await GuestMachine.boot({ arch: ARCH, image, nic: 'rtl8139' });
    try {
      const reader = second.client(7000);
      assert.equal(await reader.ask('count'), 'count 50');
      assert.equal(await reader.ask('read 50'), 'line line 50');
      assert.equal(await reader.ask('append after'), 'ok 51');
    } finally {
      await second.kill();
    }
  });

  it('takes its address from the image, has a shell on the console, and powers off', async () => {
    const own = join(lab.directory, 'own-address.qcow2');
    await buildGuest({ output: own, cacheDir: TEST_CACHE, ip: '192.168.76.9/24', gateway: '192.168.76.2' });
    const machine = await GuestMachine.boot({
      arch: ARCH,
      image: own,
      nic: 'rtl8139',
      net: 'net=192.168.76.0/24',
      address: '192.168.76.9',
    });
    try {
      assert.equal(await machine.client(7000).ask('count'), 'count 0');
      machine.type('echo sum $((40+2)); ip route\n');
      await machine.waitFor('sum 42');
      await machine.waitFor('default via 192.168.76.2');
      machine.type('poweroff\n');
      await machine.poweredOff();
    } finally {
      await machine.kill();
    }
  });
});
