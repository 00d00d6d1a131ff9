/** `colo img resize` beside qemu-img resize, and what the images hold afterwards. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { stat, writeFile } from 'node:fs/promises';
import { inBoth, missingTools, ours, tool } from './helpers.ts';

const LINES = `resize a.qcow2 8M
resize a.qcow2 +1M
resize -q a.qcow2 +1.5M
resize --image-opts driver=qcow2,file.filename=a.qcow2 +1M
resize --image-opts file.filename=a.qcow2 64M
resize a.qcow2 --shrink 100M
resize -f raw a.raw +1
resize -f raw --shrink a.raw 700
resize -f raw a.raw +300
resize -f raw --preallocation=full a.raw +1M
resize -f raw --preallocation=falloc a.raw +1M
resize -f raw --preallocation=off a.raw +1M
resize -f raw --preallocation=off --shrink a.raw -1M
resize -f raw --shrink -- a.raw -512
resize -f raw a.raw +0`.split('\n');

const FAILS = `resize a.qcow2 -1M
resize --shrink a.qcow2 -100M
resize a.qcow2 0
resize a.qcow2 zz
resize a.qcow2 10000000000000000000
resize a.qcow2 9E
resize a.qcow2 1E
resize a.qcow2 +3
resize missing 1M
resize -f raw a.raw 700
resize -f raw a.raw -512
resize -f raw -- a.raw -512
resize -f raw --preallocation=metadata a.raw +1M
resize --preallocation=falloc --shrink a.qcow2 -1M
resize --preallocation=foo a.qcow2 +1M
resize --image-opts -f qcow2 driver=qcow2,file.filename=a.qcow2 +1M`.split('\n');

describe('colo img resize beside qemu-img', { skip: missingTools }, () => {
  it('says the same and gives the same size', () =>
    inBoth(makeImages, async (both) => {
      for (const line of LINES) {
        await both.alike(line);
        const size = (): Promise<number> => stat('a.raw').then((info) => info.size);
        assert.equal(await both.in('ours', size), await both.in('theirs', size), line);
      }
      const virtual = async (): Promise<string | undefined> =>
        /virtual size: .*/.exec(await tool('qemu-img', 'info', 'a.qcow2'))?.[0];
      assert.equal(await both.in('ours', virtual), await both.in('theirs', virtual));
      await both.in('ours', () => tool('qemu-img', 'check', 'a.qcow2'));
    }));

  it('fails the same', () =>
    inBoth(makeImages, async (both) => {
      for (const line of FAILS) await both.failsAlike(line);
    }));

  it('hides what a longer backing file holds', () =>
    inBoth(makeImages, async (both) => {
      await both.in('ours', async () => {
        await writeFile('base.raw', Buffer.alloc(4 * 2 ** 20, 9));
        await tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', 'o', '1M');
        assert.equal((await ours('resize', 'o', '+2M')).stdout, 'Image resized.\n');
        await tool('qemu-img', 'check', 'o');
        await tool('qemu-io', '-f', 'qcow2', '-c', 'read -P 9 0 1M', '-c', 'read -P 0 1M 2M', 'o');
      });
    }));

  it('refuses to preallocate the growth of qcow2 by name', () =>
    inBoth(makeImages, async (both) => {
      await both.in('ours', async () => {
        const { code, stderr } = await ours('resize', '--preallocation=full', 'a.qcow2', '+1M');
        assert.equal(code, 1);
        assert.match(stderr, /'full' is not supported when a qcow2 image grows/);
      });
    }));
});

async function makeImages(): Promise<void> {
  await writeFile('a.raw', Buffer.alloc(1_000_000, 1));
  await tool('qemu-img', 'create', '-q', '-f', 'qcow2', 'a.qcow2', '8M');
  await tool('qemu-io', '-f', 'qcow2', '-c', 'write 0 300k', '-c', 'write 7M 10k', 'a.qcow2');
}
