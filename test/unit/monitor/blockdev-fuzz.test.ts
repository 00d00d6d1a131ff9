/**
 * blockdev-add and -del at their edges: arguments of any shape leave no node and no image lock behind when they fail,
 * a node goes only when nothing uses it and after its requests, and the bounds hold.
 */
import assert from 'node:assert/strict';
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import { createQcow2 } from '../../../src/block/drivers/qcow2/create.ts';
import { bareVm } from '../../helpers/bare-vm.ts';
import type { BareVm } from '../../helpers/bare-vm.ts';

let folder: string;
const image = (name: string): string => path.join(folder, name);

before(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'colo-blockdev-'));
  for (const name of ['a.raw', 'b.raw']) {
    await writeFile(image(name), '');
    await truncate(image(name), 1 << 20);
  }
  await createQcow2(image('base.qcow2'), { sizeBytes: 1 << 20 });
  const backing = { backingFile: 'base.qcow2', backingFormat: 'qcow2' };
  await createQcow2(image('over.qcow2'), { sizeBytes: 1 << 20, ...backing });
});
after(() => rm(folder, { recursive: true }));

const nodesOf = (bare: BareVm): string[] => bare.vm.graph.list().nodes.map(({ nodeName }) => nodeName);

/** Something that is not what is expected, now and then. */
const odd = fc.oneof(
  fc.constantFrom(
    null,
    true,
    false,
    0,
    -1,
    1.5,
    2 ** 53,
    '',
    'on',
    'x',
    'f',
    'n',
    '__proto__',
    [],
    {},
    [null],
    ['f'],
  ),
  fc.jsonValue({ maxDepth: 2 }),
);
const option = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.constantFrom<[string, unknown]>(
      ['read-only', true],
      ['read-only', false],
      ['auto-read-only', true],
      ['force-share', true],
      ['discard', 'unmap'],
      ['detect-zeroes', 'on'],
      ['detect-zeroes', 'unmap'],
      ['cache', { 'no-flush': true }],
      ['node-name', 'n'],
      ['node-name', 'f'],
      ['node-name', 'inner'],
      ['locking', 'off'],
      ['size', 512],
      ['offset', 4096],
      ['backing', null],
      ['backing', 'f'],
      ['mode', 'primary'],
      ['mode', 'secondary'],
      ['top-id', 'n'],
      ['vote-threshold', 1],
      ['vote-threshold', 2],
      ['read-pattern', 'fifo'],
      ['blkverify', true],
      ['export', 'e'],
    ),
  },
  {
    weight: 1,
    arbitrary: fc.tuple(
      fc.oneof(fc.string(), fc.constantFrom('file', 'driver', 'children', 'node-name', 'a.b', '__proto__')),
      odd,
    ),
  },
);
const filename = fc
  .constantFrom('a.raw', 'b.raw', 'base.qcow2', 'over.qcow2', 'none', '')
  .map((name) => image(name));
const { node } = fc.letrec<{ node: Record<string, unknown> }>((tie) => ({
  node: fc
    .record({
      kind: fc.constantFrom(
        'file',
        'file',
        'raw',
        'qcow2',
        'quorum',
        'replication',
        'null-co',
        'nbd',
        'memory',
        'zig',
      ),
      filename,
      below: fc.oneof({ maxDepth: 4 }, fc.constantFrom('f', 'zz'), tie('node'), odd),
      list: fc.array(fc.oneof({ maxDepth: 4 }, fc.constantFrom('f', 'zz'), tie('node')), { maxLength: 3 }),
      options: fc.array(option, { maxLength: 3 }),
    })
    .map(({ kind, filename: name, below, list, options }) => {
      const own: Record<string, unknown> = { driver: kind };
      if (kind === 'file') own['filename'] = name;
      else if (kind === 'quorum') Object.assign(own, { children: list, 'vote-threshold': 1 });
      else if (kind === 'nbd') own['server'] = { type: 'unix', path: image('none') };
      else if (kind === 'replication') Object.assign(own, { file: below, mode: 'primary' });
      else if (kind === 'raw' || kind === 'qcow2') own['file'] = below;
      return Object.fromEntries([...Object.entries(own), ...options]);
    }),
}));

test('whatever blockdev-add is given, a failure leaves nothing open', { timeout: 120_000 }, async (t) => {
  const bare = await bareVm(t);
  await bare.execute('blockdev-add', { driver: 'null-co', 'node-name': 'f', size: 1 << 20 });
  let added = 0;
  await fc.assert(
    fc.asyncProperty(node, async (options) => {
      try {
        await bare.execute('blockdev-add', { 'node-name': 'n', ...options });
        added++;
        const [name] = nodesOf(bare).filter(
          (one) => bare.vm.graph.findNode(one)?.users.size === 0 && one !== 'f',
        );
        await bare.execute('query-named-block-nodes');
        await bare.execute('query-blockstats', { 'query-nodes': true });
        await bare.execute('blockdev-del', { 'node-name': name });
      } catch (error) {
        assert.ok('qmpClass' in (error as object), `a fault of ours: ${(error as Error).stack}`);
      }
      assert.deepEqual(nodesOf(bare), ['f']);
      assert.deepEqual([...bare.vm.graph.require('f').users], []);
      // Locks are per file: each can be had for writing again.
      for (const name of ['a.raw', 'b.raw', 'base.qcow2', 'over.qcow2']) {
        await bare.execute('blockdev-add', { driver: 'file', 'node-name': 'lock', filename: image(name) });
        await bare.execute('blockdev-del', { 'node-name': 'lock' });
      }
    }),
    { numRuns: 400 },
  );
  assert.ok(added > 20, `${added} of the graphs could be opened`);
});

test('a node goes after its requests, and not while it is used', async (t) => {
  const bare = await bareVm(t);
  const add = (name: string, more: object): Promise<unknown> =>
    bare.execute('blockdev-add', { 'node-name': name, ...more });
  await add('a', { driver: 'file', filename: image('a.raw') });
  const inFlight = Array.from({ length: 50 }, (_, at) =>
    bare.vm.graph.require('a').write(at * 4096, new Uint8Array(4096).fill(at)),
  );
  // Others come and go meanwhile.
  for (let at = 0; at < 20; at++) {
    await add('b', { driver: 'raw', file: { driver: 'file', filename: image('b.raw') } });
    await bare.execute('blockdev-del', { 'node-name': 'b' });
  }
  await add('r', { driver: 'raw', file: 'a' });
  assert.equal(
    await bare.failure('blockdev-del', { 'node-name': 'a' }),
    'GenericError: Block device a is in use',
  );
  const last = bare.vm.graph.require('r').write(0, new Uint8Array(512));
  await bare.execute('blockdev-del', { 'node-name': 'r' });
  await bare.execute('blockdev-del', { 'node-name': 'a' });
  await Promise.all([...inFlight, last]);
  assert.deepEqual(nodesOf(bare), []);
});

test('nodes that are added at once under one name: one of them is there', async (t) => {
  const bare = await bareVm(t);
  const add = (): Promise<string | null> =>
    bare.execute('blockdev-add', { driver: 'raw', 'node-name': 'n', file: { driver: 'null-co' } }).then(
      () => null,
      (error: unknown) => (error as Error).message,
    );
  const results = await Promise.all([add(), add(), add()]);
  assert.deepEqual(
    results.filter((one) => one === null),
    [null],
  );
  assert.equal(results.filter((one) => one === "Duplicate nodes with node-name='n'").length, 2);
  assert.equal(nodesOf(bare).length, 2);
});

test('nesting and the number of nodes are bounded', { timeout: 120_000 }, async (t) => {
  const bare = await bareVm(t);
  let deep: object = { driver: 'null-co', size: 4096 };
  for (let at = 0; at < 250; at++) deep = { driver: 'raw', file: deep };
  assert.equal(
    await bare.failure('blockdev-add', { 'node-name': 'deep', ...deep }),
    'GenericError: Block nodes are nested deeper than 200',
  );
  for (let at = 0; at < 10_000; at++) {
    await bare.execute('blockdev-add', { driver: 'null-co', 'node-name': `n${at}`, size: 512 });
  }
  assert.equal(
    await bare.failure('blockdev-add', { driver: 'null-co', 'node-name': 'more', size: 512 }),
    'GenericError: There are already 10000 block nodes',
  );
  assert.equal(((await bare.execute('query-named-block-nodes', { flat: true })) as unknown[]).length, 10_000);
});
