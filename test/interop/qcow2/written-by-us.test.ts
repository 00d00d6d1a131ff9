/** Images written by our driver must be sound and of the right content for QEMU. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { createQcow2 } from '../../../src/block/drivers/qcow2/create.ts';
import type { CreateQcow2Options } from '../../../src/block/drivers/qcow2/create.ts';
import { BlockGraph } from '../../../src/block/graph.ts';
import { inFolder, missingTools, runTool, tool } from './helpers.ts';

const SIZE = 5 * 2 ** 20 + 1536;

interface Step {
  readonly verb: 'write' | 'zero' | 'discard' | 'empty';
  readonly at: number;
  readonly length: number;
  readonly seed: number;
}

const step: fc.Arbitrary<Step> = fc.record({
  verb: fc.constantFrom('write', 'write', 'write', 'zero', 'discard', 'empty'),
  at: fc.oneof(fc.nat(SIZE - 1), fc.nat(300_000)),
  length: fc.integer({ min: 1, max: 400_000 }),
  seed: fc.nat(255),
});

const LAYOUTS: (Omit<CreateQcow2Options, 'sizeBytes'> & { backing: boolean })[] = [
  { backing: false },
  { backing: true },
  { clusterBits: 9, backing: true },
  { clusterBits: 9, refcountOrder: 6, backing: false },
  { clusterBits: 12, refcountOrder: 0, backing: true },
  { clusterBits: 14, refcountOrder: 2, backing: false },
  { clusterBits: 21, backing: true },
  { version: 2, backing: true },
  { version: 2, clusterBits: 10, backing: false },
];

describe('qcow2 written by us, judged by QEMU', { skip: missingTools }, () => {
  for (const { backing, ...layout } of LAYOUTS) {
    it(`random requests, then qemu-img check and compare: ${JSON.stringify({ ...layout, backing })}`, async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 25 }), (steps) =>
          inFolder(async (folder) => {
            const image = join(folder, 'image.qcow2');
            const base = join(folder, 'base.raw');
            // A backing file that is shorter than the image: zeros behind its end.
            const below = Buffer.alloc(3 * 2 ** 20 + 512, 'below');
            await writeFile(base, below);
            const names = backing ? { backingFile: 'base.raw', backingFormat: 'raw' } : {};
            await createQcow2(image, { sizeBytes: SIZE, ...layout, ...names });
            const initial = Buffer.alloc(SIZE);
            if (backing) below.copy(initial);
            const model = Buffer.from(initial);
            const graph = new BlockGraph();
            const node = await graph.openImage(image, { format: 'qcow2' });
            const back = Buffer.alloc(SIZE);
            for (const { verb, at, length: wanted, seed } of steps) {
              const length = Math.min(wanted, SIZE - at);
              if (verb === 'write') {
                const bytes = Buffer.alloc(length, seed);
                bytes.copy(model, at);
                await node.write(at, bytes);
              } else if (verb === 'zero') {
                model.fill(0, at, at + length);
                await node.writeZeroes(at, length, { unmap: seed % 2 === 0 });
              } else if (verb === 'discard') {
                await node.discard(at, length);
                await node.read(0, back); // what a discard leaves is the driver's choice
                assert.equal(Buffer.compare(back.subarray(0, at), model.subarray(0, at)), 0);
                back.copy(model);
              } else {
                await node.makeEmpty();
                initial.copy(model);
              }
            }
            await node.read(0, back);
            assert.equal(Buffer.compare(back, model), 0, 'our own reading');
            await graph.closeAll();
            const check = await runTool('qemu-img', 'check', '-f', 'qcow2', image);
            assert.equal(check.code, 0, check.stdout + check.stderr);
            await writeFile(join(folder, 'model.raw'), model);
            await tool('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', image, join(folder, 'model.raw'));
          }),
        ),
        { numRuns: 8 },
      );
    });
  }

  it('grows its L1 and refcount tables', () =>
    inFolder(async (folder) => {
      const image = join(folder, 'image.qcow2');
      await createQcow2(image, { sizeBytes: 2 ** 20, clusterBits: 9 });
      const graph = new BlockGraph();
      const node = await graph.openImage(image);
      const model = Buffer.alloc(24 * 2 ** 20);
      await node.driver.truncate?.(model.byteLength);
      for (let at = 0; at < model.byteLength; at += 2 ** 20) {
        const bytes = Buffer.alloc(2 ** 20, at / 2 ** 20 + 1);
        bytes.copy(model, at);
        await node.write(at, bytes);
      }
      await graph.closeAll();
      await tool('qemu-img', 'check', image);
      await writeFile(join(folder, 'model.raw'), model);
      await tool('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', image, join(folder, 'model.raw'));
    }));

  it('is locked against QEMU while open for writing', () =>
    inFolder(async (folder) => {
      const image = join(folder, 'image.qcow2');
      await createQcow2(image, { sizeBytes: 2 ** 20 });
      const graph = new BlockGraph();
      await graph.openImage(image);
      const result = await runTool('qemu-io', '-f', 'qcow2', '-c', 'read 0 512', image);
      await graph.closeAll();
      assert.notEqual(result.code, 0);
      assert.match(result.stderr, /lock/);
    }));
});
