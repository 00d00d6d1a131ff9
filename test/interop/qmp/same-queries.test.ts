/** What there is, told by query-block and the like: the same graph in our program and in QEMU 7.2, member by member. */
import { execFileSync } from 'node:child_process';
import { truncateSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { execute, hmp, qemuVersion, rawNode } from '../../helpers/bare-process.ts';
import { NbdServer } from '../../../src/nbd/server.ts';
import { compareScript, maskNodes } from '../../helpers/same-script.ts';
import type { ScriptLine } from '../../helpers/same-script.ts';
import { MemorySource } from '../../unit/nbd/support.ts';

const skip = qemuVersion?.startsWith('7.2') === true ? false : 'QEMU 7.2 is not installed';

/** Images of one content for both programs: made by qemu-img. */
function prepare(home: string): Promise<void> {
  const make = (...args: string[]): unknown =>
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...args], { cwd: home });
  for (const name of ['a.raw', 'b.raw', 'c.raw', 'd.raw']) {
    execFileSync('qemu-img', ['create', '-q', '-f', 'raw', name, '1M'], { cwd: home });
  }
  truncateSync(path.join(home, 'd.raw'), 1 << 20);
  make('base.qcow2', '1M');
  make('-b', 'base.qcow2', '-F', 'qcow2', 'over.qcow2');
  make('-b', 'a.raw', '-F', 'raw', '-o', 'cluster_size=4096,lazy_refcounts=on', 'onraw.qcow2');
  make('-o', 'compat=0.10', 'v2.qcow2', '1M');
  make('active.qcow2', '1M');
  make('hidden.qcow2', '1M');
  return Promise.resolve();
}

const QUERIES: readonly ScriptLine[] = [
  execute('query-block'),
  execute('query-named-block-nodes'),
  execute('query-named-block-nodes', { flat: true }),
  execute('query-named-block-nodes', { flat: 'x' }),
  execute('query-blockstats'),
  execute('query-blockstats', { 'query-nodes': true }),
  execute('query-blockstats', { 'query-nodes': 1 }),
];

const file = (name: string, more: object = {}): object => ({
  driver: 'file',
  filename: `DIR/${name}`,
  ...more,
});
const qcow2 = (node: string, name: string, more: object = {}): object => ({
  driver: 'qcow2',
  'node-name': node,
  file: file(name),
  ...more,
});
const add = (options: object): string => execute('blockdev-add', options);

const LINES: readonly ScriptLine[] = [
  execute('qmp_capabilities'),
  ...QUERIES,
  add(qcow2('overlay', 'over.qcow2')),
  hmp('drive_add 0 if=none,id=disk,format=qcow2,file=DIR/onraw.qcow2'),
  add({ ...rawNode('ro', 'c.raw'), 'read-only': true }),
  ...QUERIES,
  add({ driver: 'raw', 'node-name': 'window', offset: 512, size: 1024, file: 'f' }),
  add(file('b.raw', { 'node-name': 'f', discard: 'unmap', 'detect-zeroes': 'unmap' })),
  add({
    driver: 'raw',
    'node-name': 'window',
    offset: 512,
    size: 1024,
    file: 'f',
    cache: { 'no-flush': true },
  }),
  add(qcow2('v2', 'v2.qcow2', { discard: 'unmap', 'detect-zeroes': 'on' })),
  add(qcow2('alone', 'base.qcow2', { backing: null, 'read-only': true })),
  add({
    driver: 'quorum',
    'node-name': 'q1',
    children: ['window'],
    'vote-threshold': 1,
    'read-pattern': 'fifo',
  }),
  add({ driver: 'null-co', 'node-name': 'nothing' }),
  add({ driver: 'null-co', 'node-name': 'little', size: 1048576 }),
  add({ driver: 'quorum', 'node-name': 'q2', children: ['little', 'v2'], 'vote-threshold': 2 }),
  ...QUERIES,
  execute('nbd-server-start', { addr: { type: 'unix', data: { path: 'DIR/nbd' } } }),
  execute('query-block-exports'),
  execute('quit'),
];

test('nodes, devices and statistics as QEMU tells them', { skip }, (t) =>
  compareScript(t, {
    line: '-drive if=none,id=first,format=raw,file=DIR/d.raw',
    lines: LINES,
    prepare,
    mask: (reply) => maskNodes(reply),
    atLeast: { good: 20, bad: 3 },
  }),
);

const unix = { type: 'unix', path: 'DIR/peer' };
const REPLICATED: readonly ScriptLine[] = [
  execute('qmp_capabilities'),
  add(rawNode('disk', 'a.raw')),
  add({ driver: 'nbd', 'node-name': 'there', server: unix, export: 'na me' }),
  add({ driver: 'raw', 'node-name': 'window', file: { driver: 'nbd', server: unix, export: 'e' } }),
  hmp('drive_add 0 if=none,id=remote,format=raw,file=nbd+unix:///e?socket=DIR/peer'),
  add({ driver: 'replication', mode: 'primary', 'node-name': 'forward', file: 'there' }),
  add({
    ...{ driver: 'replication', mode: 'secondary', 'node-name': 'view', 'top-id': 'view' },
    file: qcow2('active', 'active.qcow2', { backing: qcow2('hidden', 'hidden.qcow2', { backing: 'disk' }) }),
  }),
  add({
    ...{ driver: 'quorum', 'node-name': 'q', children: ['forward'] },
    ...{ 'vote-threshold': 1, 'read-pattern': 'fifo' },
  }),
  execute('block-dirty-bitmap-add', { node: 'disk', name: 'changes', granularity: 65536 }),
  ...QUERIES,
  execute('quit'),
];

/** QEMU opens the hidden disk for reading until replication starts; here it is opened for writing at once. */
function writableHidden(reply: unknown): unknown {
  if (!Array.isArray(reply)) return reply;
  return (reply as Record<string, unknown>[]).map((node) =>
    typeof node['drv'] === 'string' && /hidden\.qcow2/.test(JSON.stringify(node['file']))
      ? { ...node, ro: false }
      : node,
  );
}

test('replication and NBD nodes as QEMU tells them', { skip }, (t) =>
  compareScript(t, {
    lines: REPLICATED,
    prepare: async (home) => {
      await prepare(home);
      const server = new NbdServer();
      t.after(() => server.close());
      await server.listen({ path: path.join(home, 'peer') });
      for (const name of ['e', 'na me'])
        server.addExport({ name, source: new MemorySource(1 << 20), writable: true });
    },
    mask: (reply, whose) => maskNodes(whose === 'qemu' ? writableHidden(reply) : reply),
    atLeast: { good: 12, bad: 2 },
  }),
);
