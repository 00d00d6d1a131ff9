/** `colo img` beside qemu-img: the same words, exit codes and results. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { open, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { inFolder, missingTools, runTool, tool } from './helpers.ts';
import type { ToolResult } from './helpers.ts';

const MAIN = fileURLToPath(new URL('img-main.ts', import.meta.url));
const ours = (...args: string[]): Promise<ToolResult> =>
  runTool(process.execPath, '--import', 'tsx', MAIN, ...args);
const theirs = (...args: string[]): Promise<ToolResult> => runTool('qemu-img', ...args);

/** Both programs with the same arguments must say the same on standard output and end with the same code. */
async function assertAlike(...args: string[]): Promise<string> {
  const [a, b] = await Promise.all([ours(...args), theirs(...args)]);
  assert.equal(a.stdout, b.stdout, args.join(' '));
  assert.equal(a.code, b.code, args.join(' ') + a.stderr);
  return a.stdout;
}

describe('colo img beside qemu-img', { skip: missingTools, concurrency: 2 }, () => {
  it('create says the same and makes the same image', () =>
    inFolder(async (folder) => {
      const image = join(folder, 'a.qcow2');
      await writeFile(join(folder, 'base.raw'), Buffer.alloc(2 ** 20));
      for (const args of [
        ['-f', 'qcow2', image, '10M'],
        ['-f', 'qcow2', '-o', 'cluster_size=4k,compat=0.10', image, '1.5G'],
        ['-f', 'qcow2', '-o', 'refcount_bits=1,lazy_refcounts=on', image, '1G'],
        ['-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', image],
        ['-f', 'raw', join(folder, 'a.raw'), '3k'],
      ]) {
        const a = await ours('create', ...args);
        const ourInfo = args.includes('raw') ? '' : (await theirs('info', image)).stdout;
        const b = await theirs('create', ...args);
        assert.equal(a.stdout, b.stdout);
        assert.equal(a.code, 0, a.stderr);
        if (ourInfo !== '') {
          const noDisk = (text: string): string => text.replace(/disk size.*/, '');
          assert.equal(noDisk(ourInfo), noDisk((await theirs('info', image)).stdout));
        }
      }
    }));

  it('info says the same', () =>
    inFolder(async (folder) => {
      const image = join(folder, 'a.qcow2');
      await writeFile(join(folder, 'base.raw'), Buffer.alloc(2 ** 20));
      await tool('qemu-img', 'create', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', image, '123M');
      await assertAlike('info', image);
      const [a, b] = await Promise.all([
        ours('info', '--output=json', image),
        theirs('info', '--output=json', image),
      ]);
      assert.deepEqual(JSON.parse(a.stdout), JSON.parse(b.stdout));
      await assertAlike('info', join(folder, 'base.raw'));
    }));

  it('check finds leaks, errors and their absence', () =>
    inFolder(async (folder) => {
      const image = join(folder, 'a.qcow2');
      await tool('qemu-img', 'create', '-f', 'qcow2', image, '8M');
      await assertAlike('check', image);
      await tool('qemu-io', '-f', 'qcow2', '-c', 'write 0 300k', '-c', 'write 7M 10k', image);
      assert.match(await assertAlike('check', image), /No errors were found/);
      await truncate(image, 2 ** 20);
      await pokeRefcount(image, 12, 1);
      assert.match(await assertAlike('check', image), /1 leaked clusters/);
      assert.equal((await ours('check', '-r', 'leaks', image)).code, 0);
      await pokeRefcount(image, 6, 0);
      assert.match(await assertAlike('check', image), /2 errors were found/);
      assert.equal((await ours('check', '-r', 'all', image)).code, 0);
      await tool('qemu-img', 'check', image);
      await writeFile(join(folder, 'a.raw'), 'x'.repeat(512));
      await assertAlike('check', join(folder, 'a.raw'));
    }));

  it('compare has the same verdicts', () =>
    inFolder(async (folder) => {
      const [a, b, c] = [join(folder, 'a'), join(folder, 'b'), join(folder, 'c')];
      const bytes = Buffer.alloc(2 ** 20, 1);
      await writeFile(a, bytes);
      bytes[70_001] = 2;
      await writeFile(b, bytes);
      await writeFile(c, Buffer.alloc(2 ** 20, 1));
      await truncate(c, 2 ** 21);
      await assertAlike('compare', a, a);
      await assertAlike('compare', a, b);
      await assertAlike('compare', a, c);
      await assertAlike('compare', '-s', a, c);
      await assertAlike('compare', '-f', 'raw', '-F', 'qcow2', a, b);
    }));

  it('convert copies content and leaves holes out', () =>
    inFolder(async (folder) => {
      const raw = join(folder, 'a.raw');
      await writeFile(raw, '');
      await truncate(raw, 64 * 2 ** 20);
      const handle = await open(raw, 'r+');
      await handle.write(Buffer.alloc(700_000, 7), 0, 700_000, 5_000_001);
      await handle.write(Buffer.alloc(10, 8), 0, 10, 64 * 2 ** 20 - 10);
      await handle.close();
      const image = join(folder, 'a.qcow2');
      assert.equal((await ours('convert', '-p', '-O', 'qcow2', raw, image)).code, 0);
      assert.match(await tool('qemu-img', 'compare', raw, image), /identical/);
      await tool('qemu-img', 'check', image);
      assert.ok((await stat(image)).size < 2 ** 21);
      const back = join(folder, 'b.raw');
      assert.equal((await ours('convert', '-f', 'qcow2', '-O', 'raw', image, back)).code, 0);
      assert.match(await tool('qemu-img', 'compare', raw, back), /identical/);
    }));

  it('resize grows, hides what a longer backing file holds, and does not shrink unasked', () =>
    inFolder(async (folder) => {
      await writeFile(join(folder, 'base.raw'), Buffer.alloc(4 * 2 ** 20, 9));
      const image = join(folder, 'a.qcow2');
      await tool('qemu-img', 'create', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', image, '1M');
      assert.equal((await ours('resize', image, '+2M')).stdout, 'Image resized.\n');
      await tool('qemu-img', 'check', image);
      await tool('qemu-io', '-f', 'qcow2', '-c', 'read -P 9 0 1M', '-c', 'read -P 0 1M 2M', image);
      const refused = await ours('resize', image, '1M');
      assert.equal(refused.code, 1);
      assert.match(refused.stderr, /--shrink/);
    }));

  it('errors are one line and the right code', () =>
    inFolder(async (folder) => {
      const missing = join(folder, 'missing');
      for (const args of [
        ['info', missing],
        ['check', missing],
        ['compare', missing, missing],
      ]) {
        const [a, b] = await Promise.all([ours(...args), theirs(...args)]);
        assert.equal(a.code, b.code);
        assert.match(a.stderr, /^colo img: Could not open '.*': No such file or directory\n$/);
      }
    }));
});

/** Sets the 16-bit refcount of a cluster in the first block of a fresh 64 KiB-cluster image. */
async function pokeRefcount(image: string, cluster: number, count: number): Promise<void> {
  const handle = await open(image, 'r+');
  await handle.write(Buffer.from([0, count]), 0, 2, 0x20000 + cluster * 2);
  await handle.close();
}
