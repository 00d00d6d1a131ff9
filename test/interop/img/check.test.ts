/** `colo img check` beside qemu-img check: sound images, leaks, errors, and what repair says. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { copyFile, open, truncate, writeFile } from 'node:fs/promises';
import { inBoth, missingTools, ours, tool } from './helpers.ts';

const ALIKE = `check ok.qcow2
check --output=json ok.qcow2
check -q ok.qcow2
check -q --output=json ok.qcow2
check --force-share ok.qcow2
check --format qcow2 --repair all ok.qcow2
check -T writethrough ok.qcow2
check --image-opts driver=qcow2,file.filename=ok.qcow2
check --image-opts file.filename=ok.qcow2
check leak.qcow2
check --output=json leak.qcow2
check -q leak.qcow2
check err.qcow2
check --output=json err.qcow2
check both.qcow2
check --output=json both.qcow2
check none.qcow2
check empty.qcow2
check --output=json empty.qcow2
check packed.qcow2
check --output=json packed.qcow2
check -r leaks leak.qcow2
check leak.qcow2
check -r all --output=json leak2.qcow2`.split('\n');

const FAILS = `check a.raw
check --output=json a.raw
check -f raw ok.qcow2
check -f qcow2 a.raw
check -f foo a.raw
check missing
check -r foo ok.qcow2
check --output=x ok.qcow2
check -T foo ok.qcow2
check -U -r all ok.qcow2
check --image-opts -f qcow2 driver=qcow2,file.filename=ok.qcow2`.split('\n');

describe('colo img check beside qemu-img', { skip: missingTools }, () => {
  it('says the same', () =>
    inBoth(makeImages, async (both) => {
      for (const line of ALIKE) await both.alike(line);
    }));

  it('fails the same', () =>
    inBoth(makeImages, async (both) => {
      for (const line of FAILS) await both.failsAlike(line);
    }));

  it('says what it repaired, and qemu-img finds nothing more', () =>
    inBoth(makeImages, async (both) => {
      await both.in('ours', async () => {
        const { code, stdout } = await ours('check', '-r', 'all', 'both.qcow2');
        assert.equal(code, 0);
        // QEMU counts a count that is too low and the flag beside it as one.
        assert.match(stdout, /1 leaked clusters\n {4}[12] corruptions\n\nDouble checking/);
        await tool('qemu-img', 'check', 'both.qcow2');
        // QEMU gives up here (`Check failed: Input/output error`, code 1): it would rebuild rather than lower counts.
        assert.equal((await ours('check', '-r', 'leaks', 'err.qcow2')).code, 2);
        const json = await ours('check', '-r', 'all', '--output=json', 'err.qcow2');
        assert.ok((JSON.parse(json.stdout) as Record<string, number>)['corruptions-fixed']);
        await tool('qemu-img', 'check', 'err.qcow2');
      });
    }));

  it('refuses the cache mode that it cannot honour by name', () =>
    inBoth(makeImages, async (both) => {
      await both.in('ours', async () => {
        const { code, stderr } = await ours('check', '-T', 'none', 'ok.qcow2');
        assert.equal(code, 1);
        assert.match(stderr, /cache\.direct=on' is not supported/);
      });
    }));
});

async function makeImages(): Promise<void> {
  await writeFile('a.raw', 'x'.repeat(512));
  await tool('qemu-img', 'create', '-q', '-f', 'qcow2', 'none.qcow2', '0');
  await tool('qemu-img', 'create', '-q', '-f', 'qcow2', 'empty.qcow2', '1M');
  await copyFile('empty.qcow2', 'packed.qcow2');
  await tool('qemu-io', '-f', 'qcow2', '-c', 'write -c 0 64k', '-c', 'write 128k 64k', 'packed.qcow2');
  await tool('qemu-img', 'create', '-q', '-f', 'qcow2', 'ok.qcow2', '8M');
  await tool('qemu-io', '-f', 'qcow2', '-c', 'write 0 300k', '-c', 'write 7M 10k', 'ok.qcow2');
  for (const image of ['leak', 'err', 'both']) await copyFile('ok.qcow2', `${image}.qcow2`);
  for (const image of ['leak', 'both']) {
    await truncate(`${image}.qcow2`, 2 ** 20);
    await pokeRefcount(`${image}.qcow2`, 12, 1);
  }
  for (const image of ['err', 'both']) await pokeRefcount(`${image}.qcow2`, 6, 0);
  await copyFile('leak.qcow2', 'leak2.qcow2');
}

/** Sets the 16-bit refcount of a cluster in the first block of a fresh 64 KiB-cluster image. */
async function pokeRefcount(image: string, cluster: number, count: number): Promise<void> {
  const handle = await open(image, 'r+');
  await handle.write(Buffer.from([0, count]), 0, 2, 0x20000 + cluster * 2);
  await handle.close();
}
