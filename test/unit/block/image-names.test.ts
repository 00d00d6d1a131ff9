/** What nodes are called: names that open the same again, and no name or answer that grows without bound. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { createQcow2 } from '../../../src/block/drivers/qcow2/create.ts';
import { BlockGraph } from '../../../src/block/graph.ts';
import { ImageNames } from '../../../src/block/image-names.ts';
import type { BlockNode } from '../../../src/block/node.ts';
import type { OptionTree } from '../../../src/block/options.ts';
import { BlockDescriber } from '../../../src/monitor/commands/block-info.ts';

let folder: string;
const image = (name: string): string => path.join(folder, name);

before(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'colo-names-'));
  await writeFile(image('a.raw'), '');
  await truncate(image('a.raw'), 1 << 20);
  await createQcow2(image('base.qcow2'), { sizeBytes: 1 << 20 });
  const backing = { backingFile: 'base.qcow2', backingFormat: 'qcow2' };
  await createQcow2(image('over.qcow2'), { sizeBytes: 1 << 20, ...backing });
});
after(() => rm(folder, { recursive: true }));

const file = (name: string): OptionTree => ({ driver: 'file', filename: image(name), locking: 'off' });
const nameOf = (node: BlockNode): string => new ImageNames().of(node);

test('a name opens the same again', async () => {
  const graph = new BlockGraph();
  const cases: [OptionTree, RegExp][] = [
    [file('a.raw'), /^\/.*a\.raw$/],
    [{ driver: 'raw', file: file('a.raw') }, /^\/.*a\.raw$/],
    [{ driver: 'raw', offset: '512', size: '1024', file: file('a.raw') }, /^json:/],
    [{ driver: 'qcow2', file: file('over.qcow2'), 'read-only': 'on' }, /^\/.*over\.qcow2$/],
    [
      { driver: 'qcow2', file: file('over.qcow2'), backing: '', 'read-only': 'on' },
      /^json:.*"backing": null/,
    ],
    [
      { driver: 'qcow2', file: file('over.qcow2'), backing: file('a.raw'), 'read-only': 'on' },
      /^json:.*a\.raw/,
    ],
    [{ driver: 'null-co' }, /^null-co:\/\/$/],
    [{ driver: 'null-co', size: '4096' }, /^json:/],
    [
      { driver: 'quorum', 'vote-threshold': '1', 'read-pattern': 'fifo', children: { 0: file('a.raw') } },
      /^json:.*"children": \[/,
    ],
  ];
  for (const [options, expected] of cases) {
    const node = await graph.addNode({ 'node-name': 'n', ...options });
    const name = nameOf(node);
    assert.match(name, expected);
    await graph.removeNode('n');
    if (!name.startsWith('json:')) continue;
    const again = await graph.openImage(name, { readOnly: true });
    assert.equal(nameOf(again), name);
    await graph.closeImage(again);
  }
  assert.deepEqual(graph.list().nodes, []);
});

test('an overlay whose backing file is replaced is called by both', async () => {
  const graph = new BlockGraph();
  const node = await graph.addNode({
    ...{ driver: 'qcow2', 'node-name': 'n', 'read-only': 'on' },
    file: file('over.qcow2'),
  });
  assert.equal(nameOf(node), image('over.qcow2'));
  assert.equal(nameOf(node.backing!), image('base.qcow2'));
  await graph.closeAll();
});

test(
  'a graph that unfolds without bound has names and answers of bounded length',
  { timeout: 60_000 },
  async () => {
    const graph = new BlockGraph();
    await graph.addNode({ driver: 'null-co', 'node-name': 'q0', size: '4096' });
    for (let at = 1; at <= 60; at++) {
      const children = { 0: `q${at - 1}`, 1: `q${at - 1}` };
      await graph.addNode({ driver: 'quorum', 'node-name': `q${at}`, 'vote-threshold': '1', children });
    }
    for (let at = 1; at <= 40; at++) {
      const below = at === 1 ? 'q60' : `r${at - 1}`;
      await graph.addNode({ driver: 'replication', mode: 'primary', 'node-name': `r${at}`, file: below });
    }
    const { nodes } = graph.list();
    const names = new ImageNames();
    for (const node of nodes) assert.ok(names.of(node).length < 4100);
    assert.match(names.of(nodes.at(-1)!), /^json:.*\.\.\.$/);
    const describer = new BlockDescriber();
    const answers = [];
    for (const node of nodes) answers.push(await describer.node(node));
    for (const node of nodes) answers.push(describer.nodeStats(node, true));
    assert.ok(JSON.stringify(answers).length < 64 << 20);
    await graph.closeAll();
  },
);
