/** Copying between nodes: what is written in which order, what is left out, and what happens when a request fails. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { copyImage } from '../../../src/block/copy-image.ts';
import type { CopyOptions } from '../../../src/block/copy-image.ts';
import { MemoryDriver } from '../../../src/block/drivers/memory.ts';
import { ErrorFilter } from '../../../src/block/filters/error.ts';
import { BlockNode } from '../../../src/block/node.ts';

const PIECE = 2 ** 21;
const SIZE = 5 * PIECE + 12_345;

/** A target that tells what reaches it. */
class Recorder extends MemoryDriver {
  readonly writes: [number, number][] = [];
  readonly zeros: [number, number][] = [];
  inFlight = 0;
  mostInFlight = 0;

  override async write(offset: number, source: Uint8Array): Promise<void> {
    this.writes.push([offset, source.byteLength]);
    this.mostInFlight = Math.max(this.mostInFlight, ++this.inFlight);
    await new Promise((resolve) => setImmediate(resolve));
    await super.write(offset, source);
    this.inFlight--;
  }

  override async writeZeroes(offset: number, length: number): Promise<void> {
    this.zeros.push([offset, length]);
    await super.writeZeroes(offset, length);
  }
}

async function copied(
  from: BlockNode,
  options: Partial<CopyOptions>,
  fill = 0,
): Promise<{ target: Recorder; bytes: Buffer }> {
  const target = new Recorder(from.lengthBytes, { clusterBytes: 4096 });
  const to = new BlockNode('to', target);
  if (fill !== 0) await new BlockNode('fill', target).write(0, Buffer.alloc(from.lengthBytes, fill));
  target.writes.length = 0;
  await copyImage(from, to, from.lengthBytes, { targetIsZero: fill === 0, ...options });
  const bytes = Buffer.alloc(from.lengthBytes);
  await to.read(0, bytes);
  return { target, bytes };
}

async function node(content: Buffer): Promise<BlockNode> {
  const made = new BlockNode('from', new MemoryDriver(content.byteLength, { clusterBytes: 4096 }));
  await made.write(0, content);
  return made;
}

describe('copyImage', () => {
  it('writes in order, one at a time, unless told that it does not matter', async () => {
    const content = Buffer.alloc(SIZE, 7);
    const inOrder = await copied(await node(content), {});
    assert.ok(inOrder.bytes.equals(content));
    assert.deepEqual(
      inOrder.target.writes.map(([offset]) => offset),
      [0, 1, 2, 3, 4, 5].map((piece) => piece * PIECE),
    );
    assert.equal(inOrder.target.mostInFlight, 1);
    const outOfOrder = await copied(await node(content), { outOfOrder: true, parallel: 4 });
    assert.ok(outOfOrder.bytes.equals(content));
    assert.ok(outOfOrder.target.mostInFlight > 1);
  });

  it('leaves zeros out of a target that is zero, and writes them where it is not', async () => {
    const content = Buffer.alloc(SIZE);
    content.fill(1, 100_000, 110_000);
    content.fill(2, SIZE - 5);
    const sparse = await copied(await node(content), {});
    assert.ok(sparse.bytes.equals(content));
    assert.deepEqual(sparse.target.writes, [
      [98_304, 12_288],
      [SIZE - (SIZE % 4096), SIZE % 4096],
    ]);
    assert.deepEqual(sparse.target.zeros, []);
    const over = await copied(await node(content), {}, 0xee);
    assert.ok(over.bytes.equals(content));
    const full = await copied(await node(content), { sparseBytes: 0 });
    assert.equal(
      full.target.writes.reduce((sum, [, length]) => sum + length, 0),
      SIZE,
    );
  });

  it('leaves out what only the backing file has, up to its end', async () => {
    const below = await node(Buffer.alloc(PIECE, 3));
    const top = new BlockNode('top', new MemoryDriver(2 * PIECE, { clusterBytes: 4096, backing: below }));
    await top.write(8192, Buffer.alloc(4096, 4));
    await top.writeZeroes(16_384, 4096);
    const { target } = await copied(top, { targetIsZero: false, sharedBackingBytes: PIECE });
    assert.deepEqual(target.writes, [[8192, 4096]]);
    assert.deepEqual(target.zeros, [[16_384, 4096]]);
    // A longer backing file of the target would show through.
    const longer = await copied(top, { targetIsZero: false, sharedBackingBytes: PIECE + 4096 });
    assert.ok(longer.target.zeros.some(([offset]) => offset === PIECE));
  });

  it('hands over whole clusters', async () => {
    const content = Buffer.alloc(SIZE);
    content.fill(1, 70_000, 70_010);
    content.fill(2, SIZE - 5);
    const clusters: [number, number][] = [];
    await copied(await node(content), {
      clusters: {
        bytes: 65_536,
        write: (offset, cluster) => {
          clusters.push([offset, cluster.byteLength]);
          return Promise.resolve();
        },
      },
    });
    const last = SIZE - (SIZE % 65_536);
    assert.deepEqual(clusters, [
      [65_536, 65_536],
      [last, SIZE - last],
    ]);
  });

  it('ends with the first failure, and nothing is written behind it', async () => {
    const from = await node(Buffer.alloc(SIZE, 1));
    const broken = new BlockNode(
      'broken',
      new ErrorFilter(from.driver, [{ op: 'read', offset: 2 * PIECE, length: 512 }]),
    );
    const target = new Recorder(SIZE);
    await assert.rejects(
      copyImage(broken, new BlockNode('to', target), SIZE, { targetIsZero: true, parallel: 3 }),
      /error while reading at byte 4194304/,
    );
    assert.ok(target.writes.every(([offset]) => offset < 2 * PIECE));
    const full = new BlockNode(
      'full',
      new ErrorFilter(new MemoryDriver(SIZE), [{ op: 'write', errno: 'ENOSPC', skip: 1 }]),
    );
    await assert.rejects(
      copyImage(from, full, SIZE, { targetIsZero: true }),
      /error while writing at byte 2097152: No space left on device/,
    );
  });

  it('makes zeros of what cannot be read when it is to salvage', async () => {
    const content = Buffer.alloc(PIECE, 1);
    const from = await node(content);
    const broken = new BlockNode(
      'broken',
      new ErrorFilter(from.driver, [{ op: 'read', offset: 8192, length: 600 }]),
    );
    const unreadable: number[] = [];
    const { bytes } = await copied(broken, { onUnreadable: (offset) => unreadable.push(offset) });
    assert.deepEqual(unreadable, [8192, 8704]);
    content.fill(0, 8192, 9216);
    assert.ok(bytes.equals(content));
  });

  it('copies anything, with every combination of options', async () => {
    const runs = fc.array(fc.record({ zero: fc.boolean(), sectors: fc.integer({ min: 1, max: 60 }) }), {
      maxLength: 30,
    });
    await fc.assert(
      fc.asyncProperty(
        runs,
        fc.record({
          sparseBytes: fc.constantFrom(0, 512, 4096, 65_536),
          parallel: fc.integer({ min: 1, max: 16 }),
          outOfOrder: fc.boolean(),
        }),
        fc.boolean(),
        async (parts, options, isFilled) => {
          const content = Buffer.concat(
            parts.map(({ zero, sectors }, at) => Buffer.alloc(sectors * 512, zero ? 0 : at + 1)),
          );
          const { bytes } = await copied(await node(content), options, isFilled ? 0xee : 0);
          assert.ok(bytes.equals(content));
        },
      ),
      { numRuns: 50 },
    );
  });
});
