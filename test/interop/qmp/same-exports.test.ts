/** Exports and sizes that change while nodes are open: the same lines to our program and to QEMU 7.2. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { NbdClient } from '../../../src/nbd/client.ts';
import {
  CAPABILITIES,
  STEP_MS,
  emptyImages,
  execute,
  qemuVersion,
  rawNode,
  startBare,
  testFolder,
} from '../../helpers/bare-process.ts';
import { compareScript, maskNodes } from '../../helpers/same-script.ts';
import type { ScriptLine } from '../../helpers/same-script.ts';

const exportAdd = (more: object): string => execute('block-export-add', { type: 'nbd', ...more });
const e1 = { id: 'e1', 'node-name': 'a' };
const server = execute('nbd-server-start', { addr: { type: 'unix', data: { path: 'DIR/nbd' } } });
const quorum = { driver: 'quorum', 'node-name': 'q', children: ['c'], 'vote-threshold': 1 };

const EXPORTS: readonly ScriptLine[] = [
  execute('qmp_capabilities'),
  execute('blockdev-add', rawNode('a', 'a.raw')),
  execute('blockdev-add', { ...rawNode('b', 'b.raw'), 'read-only': true }),
  execute('blockdev-add', rawNode('c', 'c.raw')),
  exportAdd(e1),
  execute('nbd-server-add', { device: 'a' }),
  execute('nbd-server-remove', { name: 'a' }),
  execute('query-block-exports'),
  server,
  execute('block-export-add', {}),
  execute('block-export-add', { type: 'zig', ...e1 }),
  exportAdd({ 'node-name': 'a' }),
  exportAdd({ id: 'e1' }),
  exportAdd({ ...e1, id: '1e' }),
  exportAdd({ ...e1, 'node-name': 'zz' }),
  exportAdd({ ...e1, foo: 1 }),
  ...['writable', 'writethrough', 'fixed-iothread', 'allocation-depth', 'name', 'bitmaps'].map((key) =>
    exportAdd({ ...e1, [key]: 5 }),
  ),
  exportAdd({ ...e1, iothread: 'zz' }),
  exportAdd({ ...e1, bitmaps: ['zz'] }),
  exportAdd({
    ...e1,
    name: 'na me',
    description: 'd',
    writable: true,
    writethrough: true,
    'allocation-depth': false,
    bitmaps: [],
  }),
  exportAdd(e1),
  exportAdd({ ...e1, id: 'e2', name: 'na me' }),
  exportAdd({ id: 'e2', 'node-name': 'b', writable: true }),
  exportAdd({ id: 'e2', 'node-name': 'b' }),
  execute('nbd-server-add', { device: 'zz', writable: true }),
  execute('nbd-server-add', { device: 'b', writable: true }),
  execute('nbd-server-add', { device: 'c', name: 'e2' }),
  execute('nbd-server-add', { device: 'c', name: 'c c' }),
  execute('nbd-server-add', { device: 'c', name: 'cc', bitmap: 'zz' }),
  execute('nbd-server-add', { device: 'c', name: 'cc', description: 'x' }),
  execute('query-block-exports'),
  execute('blockdev-del', { 'node-name': 'c' }),
  execute('block-export-del', { id: 'zz' }),
  execute('block-export-del', { id: 'e1', mode: 'zig' }),
  execute('nbd-server-remove', { name: 'na me' }),
  execute('nbd-server-remove', { name: 'e1', mode: 'safe' }),
  execute('block-export-del', { id: 'e2', mode: 'hard' }),
  execute('query-block-exports'),
  execute('nbd-server-stop'),
  [execute('block-export-add', { type: 'fuse', id: 'f', 'node-name': 'a' }), 'there are NBD exports only'],
  execute('quit'),
];

const resize = (more: object): string => execute('block_resize', more);
const RESIZES: readonly ScriptLine[] = [
  execute('qmp_capabilities'),
  execute('blockdev-add', {
    ...rawNode('a', 'a.raw'),
    file: { driver: 'file', filename: 'DIR/a.raw', 'node-name': 'af' },
  }),
  execute('blockdev-add', { ...rawNode('b', 'b.raw'), 'read-only': true }),
  execute('blockdev-add', { ...rawNode('window', 'big.raw'), offset: 512, size: 1024 }),
  execute('blockdev-add', {
    driver: 'qcow2',
    'node-name': 'z',
    file: { driver: 'file', filename: 'DIR/z.qcow2', 'node-name': 'zf' },
  }),
  execute('blockdev-add', { driver: 'null-co', 'node-name': 'nothing', size: 1 << 20 }),
  resize({ size: 1 }),
  resize({ device: 'zz', size: 1 }),
  resize({ 'node-name': 'zz', size: 1 }),
  resize({ 'node-name': 'disk', size: 1 }),
  resize({ device: 'a', size: 1 }),
  resize({ 'node-name': 'a' }),
  resize({ 'node-name': 'a', size: -1 }),
  resize({ 'node-name': 'a', size: '1M' }),
  [
    '{"execute":"block_resize","arguments":{"node-name":"a","size":9000000000000000000}}',
    'numbers above 2^53 are not lengths here',
  ],
  resize({ device: 'a', 'node-name': 'a', size: 2 << 20 }),
  resize({ 'node-name': 'a', size: 512 }),
  resize({ 'node-name': 'a', size: 0 }),
  resize({ 'node-name': 'af', size: 3 << 20 }),
  resize({ device: 'disk', size: 2 << 20 }),
  resize({ 'node-name': 'b', size: 2 << 20 }),
  resize({ 'node-name': 'window', size: 2048 }),
  resize({ 'node-name': 'nothing', size: 2048 }),
  resize({ 'node-name': 'z', size: 2 << 20 }),
  resize({ 'node-name': 'z', size: (2 << 20) + 1 }),
  resize({ 'node-name': 'zf', size: 2 << 20 }),
  execute('query-named-block-nodes', { flat: true }),
  server,
  execute('nbd-server-add', { device: 'a', writable: true }),
  resize({ 'node-name': 'a', size: 4 << 20 }),
  execute('nbd-server-remove', { name: 'a' }),
  resize({ 'node-name': 'a', size: 4 << 20 }),
  execute('blockdev-add', rawNode('c', 'c.raw')),
  execute('blockdev-add', quorum),
  resize({ 'node-name': 'c', size: 4 << 20 }),
  resize({ 'node-name': 'q', size: 4 << 20 }),
  execute('query-named-block-nodes', { flat: true }),
  execute('quit'),
];

async function prepare(home: string): Promise<void> {
  await emptyImages(home);
  if (qemuVersion !== null) {
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', 'z.qcow2', '1M'], { cwd: home });
  }
}

test('exports as in QEMU', (t) => compareScript(t, { lines: EXPORTS, atLeast: { good: 12, bad: 25 } }));

const skip = qemuVersion === null ? 'qemu-img is not installed' : false;

test('sizes change as in QEMU', { skip }, (t) =>
  compareScript(t, {
    line: '-drive if=none,id=disk,format=raw,file=DIR/c.raw,file.locking=off',
    lines: RESIZES,
    prepare,
    // What a growing image takes is decided by the host's file system, in time.
    mask: (reply) => maskNodes(reply, ['actual-size']),
    atLeast: { good: 15, bad: 12 },
  }),
);

for (const program of ['colo', 'qemu'] as const) {
  test(
    `an export with a client goes by force only: ${program}`,
    { skip: program === 'qemu' && skip },
    async (t) => {
      const bare = await startBare(t, program, path.join(await testFolder(t), 'vm'));
      for (const line of [CAPABILITIES, execute('blockdev-add', rawNode('a', 'a.raw')), server])
        await bare.type(line);
      await bare.type(exportAdd({ ...e1, writable: true }));
      const client = await NbdClient.connect({ path: path.join(bare.home, 'nbd') }, { exportName: 'a' });
      await client.read(0, new Uint8Array(512));
      for (const line of [
        execute('block-export-del', { id: 'e1' }),
        execute('nbd-server-remove', { name: 'e1', mode: 'safe' }),
      ]) {
        await assert.rejects(bare.type(line), { message: "GenericError: export 'e1' still in use" });
      }
      assert.deepEqual(bare.qmp.events, []);
      await bare.type(execute('block-export-del', { id: 'e1', mode: 'hard' }));
      const gone = await bare.qmp.event('BLOCK_EXPORT_DELETED', 0, STEP_MS);
      assert.deepEqual(gone.data, { id: 'e1' });
      await assert.rejects(client.read(0, new Uint8Array(512)));
      await client.close();
    },
  );
}

for (const program of ['colo', 'qemu'] as const) {
  test(
    `a client's discard reaches the file with discard=unmap only: ${program}`,
    { skip: program === 'qemu' && skip },
    async (t) => {
      const bare = await startBare(t, program, path.join(await testFolder(t), 'vm'), '', async (home) => {
        for (const name of ['a.raw', 'b.raw'])
          await writeFile(path.join(home, name), Buffer.alloc(1 << 20, 1));
      });
      const nodes = [rawNode('a', 'a.raw'), { ...rawNode('b', 'b.raw'), discard: 'unmap' }];
      for (const line of [CAPABILITIES, ...nodes.map((node) => execute('blockdev-add', node)), server]) {
        await bare.type(line);
      }
      const kept: boolean[] = [];
      for (const name of ['a', 'b']) {
        await bare.type(execute('nbd-server-add', { device: name, writable: true }));
        const client = await NbdClient.connect({ path: path.join(bare.home, 'nbd') }, { exportName: name });
        await client.trim(0, 1 << 20);
        await client.flush();
        await client.close();
        kept.push((await stat(path.join(bare.home, `${name}.raw`))).blocks * 512 >= 1 << 20);
      }
      assert.deepEqual(kept, [true, false]);
    },
  );
}
