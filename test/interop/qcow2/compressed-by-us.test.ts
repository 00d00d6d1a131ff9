/** Compressed clusters and preallocated images that we write, judged by QEMU. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createQcow2 } from '../../../src/block/drivers/qcow2/create.ts';
import { Qcow2Driver } from '../../../src/block/drivers/qcow2/qcow2.ts';
import { BlockGraph } from '../../../src/block/graph.ts';
import { inFolder, missingTools, tool } from './helpers.ts';

/** Some clusters shrink well, some a little, some not at all. */
function sample(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  let state = 1;
  for (let at = 0; at < length; at++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    const wild = Math.floor(at / 100_000) % 3;
    bytes[at] = wild === 0 ? at >> 9 : wild === 1 ? (state >>> 16) & 63 : state >>> 16;
  }
  return bytes;
}

describe('qcow2 compressed by us', { skip: missingTools }, () => {
  for (const layout of [
    { clusterBits: 16 },
    { clusterBits: 9 },
    { clusterBits: 12, refcountOrder: 0 },
    { clusterBits: 14, refcountOrder: 1 },
    { clusterBits: 21, version: 2 as const },
  ]) {
    it(`QEMU reads it, and it can be written over: ${JSON.stringify(layout)}`, () =>
      inFolder(async (folder) => {
        const image = join(folder, 'a.qcow2');
        const clusterBytes = 2 ** layout.clusterBits;
        const model = sample(Math.max(700_000, clusterBytes * 2) + 512);
        await createQcow2(image, { sizeBytes: model.byteLength, ...layout });
        const graph = new BlockGraph();
        const node = await graph.openImage(image);
        const { driver } = node;
        assert.ok(driver instanceof Qcow2Driver);
        const sizeBytes = driver.lengthBytes;
        for (let round = 0; round < 2; round++) {
          // The second round replaces what the first one stored.
          const jobs: Promise<void>[] = [];
          const whole = Buffer.alloc(sizeBytes);
          model.copy(whole);
          for (let at = 0; at < sizeBytes; at += clusterBytes)
            jobs.push(driver.writeCompressed(at, whole.subarray(at, at + clusterBytes)));
          await Promise.all(jobs);
          const patch = Buffer.alloc(3000, round + 1);
          patch.copy(model, 200_000);
          await node.write(200_000, patch);
          await node.writeZeroes(300_000, 50_000);
          model.fill(0, 300_000, 350_000);
        }
        await assert.rejects(driver.writeCompressed(1, model), /whole clusters/);
        await graph.closeAll();
        await tool('qemu-img', 'check', image);
        await writeFile(join(folder, 'a.raw'), model);
        await tool('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', image, join(folder, 'a.raw'));
        if (layout.clusterBits === 16) {
          // Packed side by side: about as large as what QEMU makes of the same content.
          const theirs = join(folder, 'b.qcow2');
          await tool('qemu-img', 'convert', '-c', '-O', 'qcow2', '-f', 'raw', join(folder, 'a.raw'), theirs);
          const [a, b] = [(await stat(image)).size, (await stat(theirs)).size];
          assert.ok(a < b * 2 + 4 * clusterBytes, `${a} against ${b}`);
        }
      }));
  }
});

describe('qcow2 preallocated by us', { skip: missingTools }, () => {
  for (const [preallocation, cluster] of [
    ['metadata', 16],
    ['metadata', 9],
    ['falloc', 16],
    ['full', 12],
  ] as const) {
    it(`${preallocation}, clusters of 2^${cluster}`, () =>
      inFolder(async (folder) => {
        const [image, theirs] = [join(folder, 'a.qcow2'), join(folder, 'b.qcow2')];
        await createQcow2(image, { sizeBytes: 3 * 2 ** 20, clusterBits: cluster, preallocation });
        const options = `preallocation=${preallocation},cluster_size=${2 ** cluster}`;
        await tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, theirs, '3M');
        const allocated = async (name: string): Promise<unknown> => {
          const report = JSON.parse(await tool('qemu-img', 'check', '--output=json', name)) as Record<
            string,
            unknown
          >;
          assert.ok(Number(report['image-end-offset']) <= (await stat(name)).size);
          return report['allocated-clusters'];
        };
        const mine = await allocated(image);
        assert.equal(mine, await allocated(theirs));
        assert.equal(mine, (3 * 2 ** 20) / 2 ** cluster);
        const graph = new BlockGraph();
        const node = await graph.openImage(image);
        await node.write(12_345, Buffer.alloc(100_000, 7));
        await graph.closeAll();
        await tool('qemu-img', 'check', image);
        await tool('qemu-img', 'convert', '-O', 'raw', image, `${image}.raw`);
        const want = Buffer.alloc(3 * 2 ** 20).fill(7, 12_345, 112_345);
        assert.equal(Buffer.compare(await readFile(`${image}.raw`), want), 0);
      }));
  }

  it("is refused above a backing file, with QEMU's words", () =>
    inFolder(async (folder) => {
      await assert.rejects(
        createQcow2(join(folder, 'a'), {
          sizeBytes: 512,
          backingFile: 'b',
          backingFormat: 'raw',
          preallocation: 'full',
        }),
        { message: 'Backing file and preallocation can only be used at the same time if extended_l2 is on' },
      );
    }));
});
