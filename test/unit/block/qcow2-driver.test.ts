/** The qcow2 driver over memory nodes: concurrency with a backing file, failing files, hostile images, makeEmpty. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { ColoError, IoError } from '../../../src/base/errors.ts';
import { MemoryDriver } from '../../../src/block/drivers/memory.ts';
import { checkQcow2 } from '../../../src/block/drivers/qcow2/check.ts';
import { createQcow2 } from '../../../src/block/drivers/qcow2/create.ts';
import { openQcow2, readQcow2Info } from '../../../src/block/drivers/qcow2/open.ts';
import { BlockNode } from '../../../src/block/node.ts';
import { OptionReader } from '../../../src/block/options.ts';
import type { OpenContext } from '../../../src/block/registry.ts';

const SIZE = 2 ** 20 + 512;

/** A memory disk whose writes and reads take turns in odd order, and fail when told to. */
class OddDriver extends MemoryDriver {
  failing: ((verb: 'read' | 'write') => boolean) | null = null;
  #turn = 0;

  override async read(offset: number, target: Uint8Array): Promise<void> {
    await this.#odd('read');
    return super.read(offset, target);
  }

  override async write(offset: number, source: Uint8Array): Promise<void> {
    await this.#odd('write');
    return super.write(offset, source);
  }

  async #odd(verb: 'read' | 'write'): Promise<void> {
    this.#turn = (this.#turn * 1103515245 + 12345) % 2 ** 31;
    for (let turns = this.#turn % 7; turns > 0; turns--) await Promise.resolve();
    if (this.failing?.(verb)) throw new IoError('ENOSPC', 'made to fail');
  }
}

async function imageBytes(options: Omit<Parameters<typeof createQcow2>[1], 'sizeBytes'>): Promise<Buffer> {
  const folder = await mkdtemp(join(tmpdir(), 'colo-qcow2-'));
  await createQcow2(join(folder, 'a'), { sizeBytes: SIZE, ...options });
  const bytes = await readFile(join(folder, 'a'));
  await rm(folder, { recursive: true });
  return bytes;
}

async function fileWith(bytes: Uint8Array): Promise<{ file: BlockNode; disk: OddDriver }> {
  const disk = new OddDriver(bytes.byteLength);
  const file = new BlockNode('file', disk);
  await file.write(0, bytes);
  return { file, disk };
}

async function openOn(file: BlockNode, backing?: BlockNode, cacheBytes = '0'): Promise<BlockNode> {
  const context: OpenContext = {
    nodeName: 'q',
    openChild: (role) => Promise.resolve(role === 'file' ? file : backing!),
    find: () => null,
    findLater: () => () => null,
    emit: () => undefined,
  };
  const tree = { file: 'file', 'l2-cache-size': cacheBytes, ...(backing ? { backing: 'backing' } : {}) };
  return new BlockNode('q', await openQcow2(new OptionReader(tree), context));
}

async function findings(file: BlockNode): Promise<{ errors: number; leaks: number }> {
  const { errors, leaks } = await checkQcow2(file, (await readQcow2Info(file, false)).header);
  return { errors, leaks };
}

const request = fc.record({
  verb: fc.constantFrom('read', 'write', 'write', 'zero', 'discard'),
  at: fc.oneof(fc.nat(SIZE - 1), fc.nat(20_000)),
  length: fc.oneof(fc.integer({ min: 1, max: 700 }), fc.integer({ min: 1, max: 60_000 })),
  value: fc.nat(255),
});

describe('qcow2 driver', () => {
  for (const options of [{ clusterBits: 9 }, { clusterBits: 12 }, { clusterBits: 9, version: 2 as const }]) {
    it(`loses no update among concurrent requests over a backing node: ${JSON.stringify(options)}`, async () => {
      const bytes = await imageBytes(options);
      await fc.assert(
        fc.asyncProperty(fc.array(fc.array(request, { maxLength: 20 }), { maxLength: 5 }), async (rounds) => {
          const { file } = await fileWith(bytes);
          const below = Buffer.alloc(SIZE - 40_000, 'backing');
          const base = new BlockNode('base', new OddDriver(below.byteLength));
          await base.write(0, below);
          const node = await openOn(file, base);
          const model = Buffer.alloc(SIZE);
          below.copy(model);
          // Discarded bytes may read as zeros or as they were, until written again.
          const open = new Uint8Array(SIZE);
          for (const round of rounds) {
            const taken: { from: number; to: number }[] = [];
            const jobs: Promise<void>[] = [];
            for (const { verb, at, length, value } of round) {
              const to = Math.min(SIZE, at + length);
              if (taken.some((other) => at < other.to && other.from < to)) continue;
              taken.push({ from: at, to });
              if (verb === 'read') jobs.push(node.read(at, new Uint8Array(to - at)));
              else if (verb === 'discard') {
                open.fill(1, at, to);
                jobs.push(node.discard(at, to - at));
              } else {
                open.fill(0, at, to);
                model.fill(verb === 'zero' ? 0 : value, at, to);
                if (verb === 'zero') jobs.push(node.writeZeroes(at, to - at, { unmap: value % 2 === 0 }));
                else jobs.push(node.write(at, Buffer.alloc(to - at, value)));
              }
            }
            await Promise.all(jobs);
          }
          const back = Buffer.alloc(SIZE);
          await node.read(0, back);
          for (let at = 0; at < SIZE; at++) {
            if (back[at] === model[at]) continue;
            assert.ok(
              open[at] === 1 && back[at] === 0,
              `byte ${at}: ${back[at] ?? ''}, not ${model[at] ?? ''}`,
            );
          }
          await node.close();
          assert.deepEqual(await findings(file), { errors: 0, leaks: 0 });
        }),
        { numRuns: 25 },
      );
    });
  }

  it('stays sound when the file fails at any moment', async () => {
    const bytes = await imageBytes({ clusterBits: 9 });
    await fc.assert(
      fc.asyncProperty(
        fc.nat(60),
        fc.array(request, { minLength: 3, maxLength: 12 }),
        async (countdown, requests) => {
          const { file, disk } = await fileWith(bytes);
          const node = await openOn(file);
          let left = countdown;
          disk.failing = (verb) => verb === 'write' && left-- <= 0 && left > -3;
          for (const { verb, at, length, value } of requests) {
            const to = Math.min(SIZE, at + length);
            const job =
              verb === 'zero'
                ? node.writeZeroes(at, to - at)
                : verb === 'discard'
                  ? node.discard(at, to - at)
                  : node.write(at, Buffer.alloc(to - at, value));
            await job.catch((error: unknown) => assert.ok(error instanceof IoError));
          }
          disk.failing = null;
          await node.close();
          assert.equal((await findings(file)).errors, 0);
        },
      ),
      { numRuns: 60 },
    );
  });

  it('meets hostile tables with errors, not with crashes', async () => {
    const { file } = await fileWith(await imageBytes({ clusterBits: 9 }));
    const filled = await openOn(file);
    await filled.write(0, Buffer.alloc(100_000, 1));
    await filled.close();
    const good = Buffer.alloc(file.lengthBytes);
    await file.read(0, good);
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(8191), fc.nat(255)), { minLength: 1, maxLength: 8 }),
        async (changes) => {
          const bytes = Buffer.from(good);
          for (const [at, value] of changes) bytes[at] = value;
          const { file: hostile } = await fileWith(bytes);
          try {
            const node = await openOn(hostile);
            const length = Math.min(node.lengthBytes, 150_000);
            await node.read(0, Buffer.alloc(length)).catch(expectIoError);
            await node.write(0, Buffer.alloc(Math.min(length, 3000), 1)).catch(expectIoError);
            await checkQcow2(hostile, (await readQcow2Info(hostile, false)).header);
            await node.makeEmpty().catch(expectIoError);
            await node.close();
          } catch (error) {
            assert.ok(error instanceof ColoError, error instanceof Error ? error.stack : String(error));
          }
        },
      ),
      { numRuns: 200 },
    );
  });

  it('repairs a dirty image whose refcount blocks are missing, without touching its data', async () => {
    const { file } = await fileWith(await imageBytes({ clusterBits: 9 }));
    const filled = await openOn(file);
    const data = Buffer.alloc(700_000, 'data');
    await filled.write(1000, data);
    await filled.close();
    // Refcount table at cluster 1: the second and third block are lost, and the image is dirty.
    await file.write(512 + 8, new Uint8Array(16));
    await file.write(72 + 7, new Uint8Array([1]));
    assert.ok((await findings(file)).errors > 0);
    const node = await openOn(file);
    const back = Buffer.alloc(data.byteLength);
    await node.read(1000, back);
    assert.ok(back.equals(data));
    await node.write(900_000, Buffer.alloc(5000, 1));
    await node.close();
    assert.deepEqual(await findings(file), { errors: 0, leaks: 0 });
  });

  it('frees nothing of what came after a makeEmpty when a flush from before it ends', async () => {
    const { file, disk } = await fileWith(await imageBytes({ clusterBits: 9 }));
    const node = await openOn(file);
    await node.write(0, Buffer.alloc(100_000, 1));
    await node.flush();
    await node.discard(0, 90_000);
    let release = (): void => undefined;
    const gate = new Promise<void>((resolve) => (release = resolve));
    disk.flush = () => gate;
    const flushed = node.flush();
    await node.makeEmpty();
    await node.write(0, Buffer.alloc(90_000, 2));
    release();
    await flushed;
    assert.equal((await findings(file)).errors, 0);
    await node.close();
    assert.deepEqual(await findings(file), { errors: 0, leaks: 0 });
  });

  it('is empty and small again after makeEmpty, at each checkpoint', async () => {
    const { file } = await fileWith(await imageBytes({ clusterBits: 9 }));
    const fresh = file.lengthBytes;
    const base = new BlockNode('base', new MemoryDriver(SIZE));
    await base.write(0, Buffer.alloc(SIZE, 9));
    const node = await openOn(file, base);
    for (let round = 0; round < 5; round++) {
      for (let at = 0; at < SIZE; at += 10_007) await node.write(at, Buffer.alloc(300, round));
      await node.makeEmpty();
      const back = Buffer.alloc(SIZE);
      await node.read(0, back);
      assert.ok(back.every((byte) => byte === 9));
      assert.ok(file.lengthBytes <= fresh + 512, `${file.lengthBytes} bytes left`);
      assert.deepEqual(await findings(file), { errors: 0, leaks: 0 });
    }
  });
});

function expectIoError(error: unknown): void {
  assert.ok(error instanceof ColoError, error instanceof Error ? error.stack : String(error));
}
