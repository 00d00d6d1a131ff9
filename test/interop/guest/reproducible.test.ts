/** The same inputs give the same image, and the packaged tools give the one the host's own give. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { buildGuest, type GuestProgress } from '../../../src/guest/build.ts';
import { ensureDebianFile, ensureTool } from '../../../src/guest/host-tools.ts';
import { MIB, planLayout } from '../../../src/guest/mbr.ts';
import { makeBootPartition, makeDataPartition } from '../../../src/guest/partitions.ts';
import { isOnPath, TEST_CACHE } from './guest-machine.ts';

const missing = (await isOnPath('apt-get')) ? false : 'no apt-get on this host';

describe('building the guest', { skip: missing }, () => {
  let directory = '';
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'colo-build-'));
  });
  after(async () => {
    await rm(directory, { recursive: true, force: true });
  });

  it('gives the same bytes twice, in either format, and reports its progress', async (t: TestContext) => {
    const [one, two, raw] = ['one.qcow2', 'two.qcow2', 'three.raw'].map((name) => join(directory, name));
    const seen: GuestProgress[] = [];
    await buildGuest({ output: one!, cacheDir: TEST_CACHE, onProgress: (progress) => seen.push(progress) });
    await buildGuest({ output: two!, cacheDir: TEST_CACHE });
    await buildGuest({ output: raw!, cacheDir: TEST_CACHE });
    assert.ok((await readFile(one!)).equals(await readFile(two!)));
    assert.equal((await stat(raw!)).size, 64 * MIB);
    assert.ok(seen.every(({ fraction }, at) => at === 0 || fraction >= seen[at - 1]!.fraction));
    assert.equal(seen.at(-1)?.fraction, 1);
    if (await isOnPath('qemu-img')) await promisify(execFile)('qemu-img', ['compare', one!, raw!]);
    else t.diagnostic('qemu-img is not installed: the two formats were not compared');
  });

  it('gives the same bytes twice for amd64', async () => {
    const [one, two] = ['four.raw', 'five.raw'].map((name) => join(directory, name));
    await buildGuest({ arch: 'amd64', output: one!, cacheDir: TEST_CACHE });
    await buildGuest({ arch: 'amd64', output: two!, cacheDir: TEST_CACHE });
    assert.ok((await readFile(one!)).equals(await readFile(two!)));
  });

  it('leaves nothing behind when it fails', async () => {
    const output = join(directory, 'too-small.qcow2');
    await assert.rejects(
      buildGuest({ output, cacheDir: TEST_CACHE, sizeBytes: 10 * MIB }),
      /at least \d+ MiB/,
    );
    await assert.rejects(stat(output));
  });

  it('makes the same partitions with tools from Debian packages as with those of the host', async () => {
    const layout = planLayout(40 * MIB, 16 * MIB);
    const file = join(directory, 'some-file');
    await writeFile(file, 'content\n'.repeat(1000));
    const files = { kernel: file, initramfs: file, config: file };
    const images: Buffer[] = [];
    for (const ignoreHost of [false, true]) {
      const options = { cacheDir: TEST_CACHE, ignoreHost };
      const boot = join(directory, `boot-${ignoreHost}`);
      const data = join(directory, `data-${ignoreHost}`);
      await makeBootPartition(boot, layout.boot, files, options);
      await makeDataPartition(data, layout.data, directory, options);
      images.push(Buffer.concat([await readFile(boot), await readFile(data)]));
    }
    assert.ok(images[0]!.equals(images[1]!));
  });

  it('brings a library along with what it needs', async () => {
    const options = { cacheDir: TEST_CACHE, ignoreHost: true };
    const mke2fs = await ensureTool('mke2fs', options);
    assert.ok(mke2fs.path.startsWith(TEST_CACHE));
    const seabios = await ensureDebianFile('seabios', '/usr/share/seabios/bios.bin', options);
    assert.equal((await stat(seabios.path)).size, 128 * 1024);
  });
});
