/**
 * The built program without a guest: disks that are replicated to another process and taken back, monitors on several
 * ways at once, and how it ends. The same with QEMU's answers: test/interop/qmp/same-*.test.ts.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';
import { freePorts } from '../../src/demo/free-ports.ts';
import { QmpClient } from '../../src/qmp/client.ts';
import {
  BARE,
  CAPABILITIES,
  STEP_MS,
  execute,
  hmp,
  rawNode,
  startBare,
  testFolder,
} from '../helpers/bare-process.ts';
import { ColoProcess, colo, until } from '../helpers/colo.ts';
import { QmpTypist } from '../helpers/qmp-typist.ts';

const HOST = '127.0.0.1';
const quorum = {
  driver: 'quorum',
  'node-name': 'q',
  children: ['a'],
  'vote-threshold': 1,
  'read-pattern': 'fifo',
};

test('disks without a guest: replication to another process, a failover of the disk, and a resync', async (t) => {
  const folder = await testFolder(t);
  const there = await startBare(t, 'colo', path.join(folder, 'there'));
  const line = '-drive if=none,id=disk,format=raw,file=DIR/a.raw';
  const here = await startBare(t, 'colo', path.join(folder, 'here'), line);
  for (const bare of [there, here]) await bare.type(CAPABILITIES);
  const nbd = path.join(there.home, 'nbd');
  await there.type(execute('nbd-server-start', { addr: { type: 'unix', data: { path: 'DIR/nbd' } } }));
  await there.type(execute('blockdev-add', rawNode('copy', 'b.raw')));
  await there.type(execute('nbd-server-add', { device: 'copy', writable: true }));
  const fill = async (text: string): Promise<void> => {
    const file = path.join(folder, text);
    await writeFile(file, Buffer.alloc(1 << 20, text));
    await colo(
      'img',
      'convert',
      '-n',
      '-f',
      'raw',
      '-O',
      'raw',
      file,
      `nbd+unix:///q?socket=${here.home}/nbd`,
    );
  };
  // The source is a quorum of one; drive-mirror copies it to the other process, as a resync does.
  await here.type(execute('blockdev-add', { ...quorum, children: ['disk'] }));
  await here.type(execute('blockdev-add', rawNode('spare', 'b.raw')));
  await here.type(execute('x-blockdev-change', { parent: 'q', node: 'spare' }));
  await here.type(execute('x-blockdev-change', { parent: 'q', child: 'children.1' }));
  await here.type(execute('nbd-server-start', { addr: { type: 'unix', data: { path: 'DIR/nbd' } } }));
  await here.type(execute('nbd-server-add', { device: 'q', writable: true }));
  await fill('first');
  const target = `nbd+unix:///copy?socket=${nbd}`;
  const job = { device: 'disk', 'job-id': 'resync', target, sync: 'full', mode: 'existing', format: 'raw' };
  await here.type(execute('drive-mirror', job));
  await here.qmp.event('BLOCK_JOB_READY', 0, STEP_MS);
  await here.type(execute('stop'));
  await here.type(execute('block-job-cancel', { device: 'resync' }));
  await here.qmp.event('BLOCK_JOB_COMPLETED', 0, STEP_MS);
  assert.ok((await readFile(path.join(there.home, 'b.raw'))).equals(Buffer.alloc(1 << 20, 'first')));
  // A replication node in front of the export: it forwards nothing before replication begins.
  const add =
    'drive_add -n buddy driver=replication,mode=primary,file.driver=nbd,file.server.type=unix,' +
    `file.server.path=${nbd},file.export=copy,node-name=replication0`;
  assert.equal(await here.type(hmp(add)), '');
  await here.type(execute('x-blockdev-change', { parent: 'q', node: 'replication0' }));
  await here.type(execute('xen-set-replication', { enable: true, primary: true }));
  assert.deepEqual(await here.type(execute('query-xen-replication-status')), { error: false });
  await fill('second');
  await here.type(execute('xen-set-replication', { enable: false, primary: true }));
  await here.type(execute('x-blockdev-change', { parent: 'q', child: 'children.1' }));
  assert.equal(await here.type(hmp('drive_del replication0')), '');
  for (const bare of [here, there]) {
    await bare.type(execute('quit'));
    await until('it ends', STEP_MS, () => bare.child.exitCode !== null);
    assert.equal(bare.child.exitCode, 0, bare.stderr());
  }
  for (const file of [path.join(here.home, 'a.raw'), path.join(there.home, 'b.raw')]) {
    assert.ok((await readFile(file)).equals(Buffer.alloc(1 << 20, 'second')), file);
  }
});

test('monitors on standard input, a unix socket and TCP at once, with several clients', async (t) => {
  const folder = await testFolder(t);
  const [port] = (await freePorts(1, [HOST])) as [number];
  const socket = path.join(folder, 'several.qmp');
  const line = `-qmp stdio -qmp unix:${socket},server=on,wait=off -qmp tcp:${HOST}:${port},server=on,wait=off`;
  const vm = new ColoProcess('vm', ...BARE, ...line.split(' '));
  t.after(() => vm.kill());
  const typist = new QmpTypist(vm.child.stdout, vm.child.stdin);
  await typist.greeted(STEP_MS);
  await typist.type(CAPABILITIES);
  const clients: QmpClient[] = [];
  await until('the sockets listen', STEP_MS, async () => {
    const client = await QmpClient.connect({ host: HOST, port }).catch(() => null);
    if (client) clients.push(client);
    return client !== null;
  });
  clients.push(await QmpClient.connect({ path: socket }), await QmpClient.connect({ path: socket }));
  // One that never negotiates is told no events and holds nobody up.
  const silent = net.connect(socket);
  await once(silent, 'data');
  const heard = clients.map((client) => client.waitFor('STOP', () => true, STEP_MS));
  const from = typist.events.length;
  await clients[1]!.execute('stop');
  await Promise.all([...heard, typist.event('STOP', from, STEP_MS)]);
  // Each is answered in its own order, all at once.
  const answers = await Promise.all([
    typist.type("{'execute':'query-status'}"),
    ...clients.map((client) => client.execute('query-status')),
  ]);
  for (const said of answers) assert.deepEqual(said, { status: 'paused', singlestep: false, running: false });
  // Whoever leaves takes nobody along, not even the one on standard input.
  silent.destroy();
  clients[0]!.close();
  vm.child.stdin.end();
  vm.child.stdout.destroy();
  await clients[1]!.execute('cont');
  assert.deepEqual(await clients[2]!.execute('query-status'), {
    status: 'running',
    singlestep: false,
    running: true,
  });
  assert.ok(vm.isAlive, vm.stderr);
  await clients[2]!.execute('quit');
  await until('it ends', STEP_MS, () => !vm.isAlive);
  assert.equal(vm.child.exitCode, 0, vm.stderr);
});

test('with nobody connected and nothing to do it stays, and a signal ends it in order', async (t) => {
  const folder = await testFolder(t);
  const vm = new ColoProcess('vm', ...BARE, '-pidfile', path.join(folder, 'pid'));
  t.after(() => vm.kill());
  await until(
    'it has started',
    STEP_MS,
    async () => (await readFile(path.join(folder, 'pid'), 'utf8').catch(() => '')) !== '',
  );
  // Standard error that nobody reads any more is no reason to end, nor is the end of standard input.
  vm.child.stderr.destroy();
  vm.child.stdin.end();
  await vm.kill('SIGTERM');
  assert.equal(vm.child.signalCode, null);
  await assert.rejects(readFile(path.join(folder, 'pid')), { code: 'ENOENT' });
});
