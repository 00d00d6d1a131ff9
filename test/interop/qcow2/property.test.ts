/**
 * Random requests of any alignment, several at once, some of them on the same bytes, on top of a chain of three images;
 * closed and opened in between. The content is compared with a flat model, and by qemu-img with the chain that QEMU
 * sees. COLO_FUZZ=N makes it N times as long.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { createQcow2 } from '../../../src/block/drivers/qcow2/create.ts';
import { Qcow2Driver } from '../../../src/block/drivers/qcow2/qcow2.ts';
import { BlockGraph } from '../../../src/block/graph.ts';
import type { BlockNode } from '../../../src/block/node.ts';
import { inFolder, missingTools, tool } from './helpers.ts';

const SIZE = 2 ** 20 + 1536;
const RUNS = 2 * Math.max(1, Number(process.env['COLO_FUZZ'] ?? 1) || 1);

interface Request {
  readonly verb: 'write' | 'zero' | 'discard' | 'read' | 'flush' | 'packed';
  readonly at: number;
  readonly length: number;
  readonly value: number;
}

const request: fc.Arbitrary<Request> = fc.record({
  verb: fc.constantFrom('write', 'write', 'write', 'write', 'zero', 'discard', 'read', 'flush', 'packed'),
  at: fc.oneof(fc.nat(SIZE - 1), fc.nat(30_000)),
  length: fc.oneof(fc.integer({ min: 1, max: 600 }), fc.integer({ min: 1, max: 200_000 })),
  value: fc.integer({ min: 1, max: 255 }),
});
const rounds = fc.array(
  fc.record({
    requests: fc.array(request, { minLength: 1, maxLength: 8 }),
    then: fc.constantFrom('go on', 'go on', 'reopen', 'empty'),
  }),
  { minLength: 1, maxLength: 6 },
);

/** The values that each byte may have after requests that came at once. */
class Model {
  value: Buffer;
  readonly #maybe: { from: number; to: number; value: number }[] = [];

  constructor(initial: Buffer) {
    this.value = Buffer.from(initial);
  }

  may(from: number, to: number, value: number): void {
    this.#maybe.push({ from, to, value });
  }

  /** Compares, and takes over which of the allowed values came out. Bytes that only one request wrote are its own. */
  settle(found: Buffer, certain: readonly { from: number; to: number; value: number }[]): void {
    for (const { from, to, value } of certain) this.value.fill(value, from, to);
    if (Buffer.compare(found, this.value) !== 0) {
      for (let at = 0; at < found.byteLength; at++) {
        const byte = found[at] ?? 0;
        if (byte === this.value[at]) continue;
        const fits = this.#maybe.some(({ from, to, value }) => at >= from && at < to && byte === value);
        assert.ok(fits, `byte ${at} is ${byte}, not ${this.value[at] ?? ''}`);
        this.value[at] = byte;
      }
    }
    this.#maybe.length = 0;
  }
}

async function carryOut(node: BlockNode, { verb, at, length, value }: Request): Promise<void> {
  const to = Math.min(SIZE, at + length);
  if (verb === 'write') await node.write(at, Buffer.alloc(to - at, value), { fua: value % 16 === 0 });
  else if (verb === 'zero') await node.writeZeroes(at, to - at, { unmap: value % 2 === 0 });
  else if (verb === 'discard') await node.discard(at, to - at);
  else if (verb === 'read') await node.read(at, Buffer.alloc(to - at));
  else if (verb === 'flush') await node.flush();
  else {
    assert.ok(node.driver instanceof Qcow2Driver);
    await node.driver.writeCompressed(at, Buffer.alloc(to - at, value));
  }
}

async function runRound(node: BlockNode, requests: readonly Request[], model: Model): Promise<void> {
  const clusterBytes = node.driver.clusterBytes ?? 512;
  const whole = requests.map((one) => {
    if (one.verb !== 'packed') return one;
    const at = one.at - (one.at % clusterBytes);
    return { ...one, at, length: Math.min(clusterBytes, SIZE - at) };
  });
  const certain: { from: number; to: number; value: number }[] = [];
  for (const one of whole) {
    if (one.verb === 'read' || one.verb === 'flush') continue;
    const to = Math.min(SIZE, one.at + one.length);
    const value = one.verb === 'zero' || one.verb === 'discard' ? 0 : one.value;
    model.may(one.at, to, value);
    const alone = whole.every(
      (other) =>
        other === one ||
        ['read', 'flush'].includes(other.verb) ||
        other.at >= to ||
        one.at >= other.at + other.length,
    );
    // A discard may leave the bytes as they were.
    if (alone && one.verb !== 'discard') certain.push({ from: one.at, to, value });
  }
  await Promise.all(whole.map((one) => carryOut(node, one)));
  const found = Buffer.alloc(SIZE);
  await node.read(0, found);
  model.settle(found, certain);
}

describe('qcow2 requests at random on a chain of three', { skip: missingTools, concurrency: 2 }, () => {
  for (let bits = 9; bits <= 21; bits++) {
    const cluster = bits === 21 ? '2M' : String(2 ** bits);
    // Each width of counts and both versions come up.
    const layout = bits % 5 === 0 ? { version: 2 as const } : { refcountOrder: bits % 7 };
    it(`clusters of 2^${bits}, ${JSON.stringify(layout)}`, async () => {
      await fc.assert(
        fc.asyncProperty(rounds, (script) =>
          inFolder(async (folder) => {
            const at = (name: string): string => join(folder, name);
            // The base is shorter than what is above it, and not a multiple of anything.
            const base = Buffer.alloc(600_064, 'base');
            await writeFile(at('base.raw'), base);
            const over = ['-b', 'base.raw', '-F', 'raw', at('middle.qcow2'), '900k'];
            await tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', `cluster_size=${cluster}`, ...over);
            const lines = ['write -P 7 100k 70k', 'write -z 400k 100k', 'write -P 9 880k 20k'];
            await tool(
              'qemu-io',
              '-f',
              'qcow2',
              ...lines.flatMap((line) => ['-c', line]),
              at('middle.qcow2'),
            );
            const names = { backingFile: 'middle.qcow2', backingFormat: 'qcow2' };
            await createQcow2(at('top.qcow2'), { sizeBytes: SIZE, clusterBits: bits, ...layout, ...names });
            const initial = Buffer.alloc(SIZE);
            base.copy(initial);
            initial
              .fill(7, 100 * 1024, 170 * 1024)
              .fill(0, 400 * 1024, 500 * 1024)
              .fill(9, 880 * 1024, 900 * 1024);
            const model = new Model(initial);
            let graph = new BlockGraph();
            let node = await graph.openImage(at('top.qcow2'), { format: 'qcow2' });
            for (const { requests, then } of script) {
              await runRound(node, requests, model);
              if (then === 'empty') {
                await node.makeEmpty();
                model.value = Buffer.from(initial);
              } else if (then === 'reopen') {
                await graph.closeAll();
                graph = new BlockGraph();
                node = await graph.openImage(at('top.qcow2'), { format: 'qcow2' });
              }
            }
            await graph.closeAll();
            await tool('qemu-img', 'check', '-f', 'qcow2', at('top.qcow2'));
            await writeFile(at('model.raw'), model.value);
            await tool('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', at('top.qcow2'), at('model.raw'));
          }),
        ),
        { numRuns: RUNS },
      );
    });
  }
});
