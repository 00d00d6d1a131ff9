/** discard, detect-zeroes and cache.no-flush of a node, and who inherits them: what then reaches the driver. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MemoryDriver } from '../../../src/block/drivers/memory.ts';
import { RawDriver } from '../../../src/block/drivers/raw.ts';
import type { WriteFlags } from '../../../src/block/driver.ts';
import { BlockGraph } from '../../../src/block/graph.ts';
import type { DriverOpener } from '../../../src/block/registry.ts';
import type { OptionTree } from '../../../src/block/options.ts';

const KIB = 1024;

/** Notes what arrives. */
class Spy extends MemoryDriver {
  readonly calls: string[] = [];

  override async write(offset: number, source: Uint8Array, flags?: WriteFlags): Promise<void> {
    this.calls.push(`write ${offset} ${source.byteLength}${flags?.fua === true ? ' fua' : ''}`);
    await super.write(offset, source);
  }

  override async writeZeroes(offset: number, length: number, flags?: WriteFlags): Promise<void> {
    const keeps = flags?.unmap === false ? ' keep' : '';
    this.calls.push(`zero ${offset} ${length}${keeps}${flags?.fua === true ? ' fua' : ''}`);
    await super.writeZeroes(offset, length);
  }

  override async discard(offset: number, length: number): Promise<void> {
    this.calls.push(`discard ${offset} ${length}`);
    await super.discard(offset, length);
  }

  override async flush(): Promise<void> {
    this.calls.push('flush');
    await super.flush();
  }
}

async function open(options: OptionTree): Promise<{
  run: (act: 'data' | 'zeros' | 'discard' | 'zero' | 'flush' | 'fua') => Promise<string[]>;
}> {
  let spy: Spy | null = null;
  const graph = new BlockGraph({
    registry: new Map<string, DriverOpener>([
      ['spy', () => Promise.resolve((spy = new Spy(64 * KIB, { clusterBytes: KIB })))],
      [
        'raw',
        async (reader, context) => {
          reader.boolean('read-only');
          return new RawDriver(await context.openChild('file', reader.node('file') ?? ''));
        },
      ],
    ]),
  });
  const node = await graph.addNode({ 'node-name': 'n', ...options });
  const acts = {
    data: () => node.write(0, new Uint8Array(4 * KIB).fill(1)),
    zeros: () => node.write(KIB, new Uint8Array(KIB)),
    discard: () => node.discard(0, KIB),
    zero: () => node.writeZeroes(0, KIB),
    flush: () => node.flush(),
    fua: () => node.write(0, Uint8Array.of(1), { fua: true }),
  };
  return {
    run: async (act) => {
      await acts[act]();
      return spy?.calls.splice(0) ?? [];
    },
  };
}

test('a node passes discards on and frees space only with discard=unmap', async () => {
  for (const options of [{}, { discard: 'ignore' }, { discard: 'off' }] as OptionTree[]) {
    const { run } = await open({ driver: 'spy', ...options });
    assert.deepEqual(await run('discard'), []);
    assert.deepEqual(await run('zero'), ['zero 0 1024 keep']);
  }
  for (const discard of ['unmap', 'on']) {
    const { run } = await open({ driver: 'spy', discard });
    assert.deepEqual(await run('discard'), ['discard 0 1024']);
    assert.deepEqual(await run('zero'), ['zero 0 1024']);
  }
  // What is opened with its parent passes on what the parent means; the parent decides.
  const below: OptionTree = { driver: 'raw', file: { driver: 'spy' } };
  assert.deepEqual(await (await open(below)).run('discard'), []);
  assert.deepEqual(await (await open({ ...below, discard: 'unmap' })).run('discard'), ['discard 0 1024']);
  const off: OptionTree = { driver: 'raw', discard: 'unmap', file: { driver: 'spy', discard: 'ignore' } };
  assert.deepEqual(await (await open(off)).run('discard'), []);
});

test('detect-zeroes turns writes of zeros into zeroes, which free space only when told so', async () => {
  const plain = await open({ driver: 'spy' });
  assert.deepEqual(await plain.run('zeros'), ['write 1024 1024']);
  const on = await open({ driver: 'spy', 'detect-zeroes': 'on', discard: 'unmap' });
  assert.deepEqual(await on.run('zeros'), ['zero 1024 1024 keep']);
  assert.deepEqual(await on.run('data'), ['write 0 4096']);
  const unmap = await open({ driver: 'spy', 'detect-zeroes': 'unmap', discard: 'unmap' });
  assert.deepEqual(await unmap.run('zeros'), ['zero 1024 1024']);
  await assert.rejects(open({ driver: 'spy', 'detect-zeroes': 'unmap' }), {
    message: 'setting detect-zeroes to unmap is not allowed without setting discard operation to unmap',
  });
});

test('no-flush keeps flushes and FUA from the host, below a format too', async () => {
  const plain = await open({ driver: 'raw', file: { driver: 'spy' } });
  assert.deepEqual(await plain.run('flush'), ['flush']);
  assert.deepEqual(await plain.run('fua'), ['write 0 1 fua']);
  for (const options of [
    { driver: 'spy', cache: { 'no-flush': 'on' } },
    { driver: 'raw', cache: { 'no-flush': 'on' }, file: { driver: 'spy' } },
    { driver: 'raw', cache: 'unsafe', file: { driver: 'spy' } },
  ] as OptionTree[]) {
    const { run } = await open(options);
    assert.deepEqual(await run('flush'), []);
    assert.deepEqual(await run('fua'), ['write 0 1']);
    assert.deepEqual(await run('data'), ['write 0 4096']);
  }
});
