/** The commands that ask a node, against one that answers over the real API: what is asked, printed, and told by the status. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { PassThrough } from 'node:stream';
import { after, before, test } from 'node:test';
import { ApiServer } from '../../../src/api/http-server.ts';
import type { NodeService, PeerService } from '../../../src/api/service.ts';
import { ColoError } from '../../../src/base/errors.ts';
import { attach } from '../../../src/cli/cluster/console.ts';
import { defaultNode } from '../../../src/cli/cluster/connection.ts';
import { vmDetails } from '../../../src/cli/cluster/status.ts';
import { vmTable } from '../../../src/cli/cluster/vm-table.ts';
import { age, printable, size } from '../../../src/cli/cluster/text.ts';
import { BusyError, NoSuchHostError, NoSuchVmError } from '../../../src/ha/errors.ts';
import { parseVmFile } from '../../../src/ha/spec/vm-file.ts';
import type { VmView } from '../../../src/ha/views.ts';
import { coloHere, type Ran } from '../../helpers/colo-here.ts';
import { eventOf, falseNode, HOST, VM, type FalseNode } from '../../helpers/false-node.ts';

let folder = '';
before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'cli-'));
});
after(() => rm(folder, { recursive: true, force: true }));

let sockets = 0;

async function nodeFor(
  t: { after: (done: () => Promise<void>) => void },
  own: Partial<NodeService & PeerService> = {},
): Promise<{ node: FalseNode; run: (...args: string[]) => Promise<Ran> }> {
  const node = falseNode(own);
  const server = await ApiServer.listen({ path: path.join(folder, `${++sockets}.sock`) }, { node });
  t.after(() => server.close());
  return { node, run: (...args) => coloHere(...args, '--node', server.address) };
}

test('status is a table of the VMs, or everything about one', async (t) => {
  const { run } = await nodeFor(t);
  const all = await run('status');
  assert.equal(all.status, 0);
  assert.match(all.out, /^\+ 1 VM: 1 syncing -+[-+]+\+\n\| VM +\| Role +\| Host +\| State +\|/);
  assert.match(all.out, /\| web1 \| primary \| alpha \| syncing +\| +7 \| +\| 128 MiB \| +2\.5 \| -/);
  assert.match(all.out, /\| web1 \| joining \| beta +\| resync 25% \| +7 \| 1\.5 KiB \| 128 MiB \|/);
  assert.match(all.out, /^web1: syncing for \d+ d: the disks are being copied to 'beta'$/m);
  const one = await run('status', 'web1');
  assert.match(one.out, /^web1: syncing for \d+ d: the disks are being copied to 'beta'$/m);
  assert.match(one.out, /^checkpoints: 41 \(40 timer, 1 mismatch\), 2\.5\/s, last pause 12 ms$/m);
  assert.match(one.out, /^\| beta +\| joining +\| +815 \| 25% of 2\.0 KiB +\|$/m);
  assert.deepEqual(JSON.parse((await run('status', '--json')).out), [VM]);
  assert.deepEqual(JSON.parse((await run('status', 'web1', '--json')).out), VM);
  assert.equal((await run('status', '--names')).out, 'web1\n');
  assert.match(
    (await run('hosts')).out,
    /\| alpha \| alive +\| 127\.0\.0\.1:7700 \| 3000 of 4096 MiB \| +1 \| +2 \|/,
  );
  assert.deepEqual(JSON.parse((await run('hosts', '--json')).out), [HOST]);
});

test('the table of no VMs says how to make one; what a terminal would obey is not printed', () => {
  assert.match(vmTable([], { nowMs: 0 }).join('\n'), /colo up/);
  const evil: VmView = {
    ...VM,
    reason: 'a\x1b[2Jb\nc\x9b',
    lastFailover: { atMs: 0, from: 'a\x07', to: 'b', reason: 'r' },
  };
  for (const text of [vmTable([evil], { nowMs: 0 }).join('\n'), vmDetails(evil, 0)]) {
    assert.doesNotMatch(text, /[\x00-\x09\x0b-\x1f\x7f-\x9f]/);
  }
  assert.equal(printable('a\tb\x1bc'), 'a b?c');
  assert.deepEqual(
    [0, 119_999, 120_000, 7_200_000, 200_000_000, -5].map((ms) => age(0, ms)),
    ['0 s', '119 s', '2 min', '2 h', '2 d', '0 s'],
  );
  assert.deepEqual([5, 1536, 2 ** 30].map(size), ['5 B', '1.5 KiB', '1.0 GiB']);
});

test('every action is the call that it names', async (t) => {
  const { node, run } = await nodeFor(t);
  const done = "web1: syncing on alpha, secondary on beta: the disks are being copied to 'beta'\n";
  assert.deepEqual(await run('checkpoint', 'web1'), { out: done, err: '', status: 0 });
  assert.deepEqual(await run('failover', 'web1'), { out: done, err: '', status: 0 });
  assert.deepEqual(await run('migrate', 'web1', 'gamma'), { out: done, err: '', status: 0 });
  await run('down', 'web1');
  await run('down', 'web1', '--purge', '--yes');
  await run('pause', 'web1');
  await run('resume', 'web1');
  await run('pause', '--host', 'beta');
  await run('resume', '--host', 'beta');
  const drained = await run('drain', 'beta');
  assert.equal(drained.out, 'alpha: in service, 1 primaries, 2 secondaries\n');
  await run('undrain', 'beta');
  assert.deepEqual(node.asked, [
    ['checkpoint', 'web1'],
    ['failover', 'web1'],
    ['migrate', 'web1', 'gamma'],
    ['down', 'web1', { purge: false }],
    ['down', 'web1', { purge: true }],
    ['setPaused', 'web1', true],
    ['setPaused', 'web1', false],
    ['setMaintenance', 'beta', true, { drain: false }],
    ['setMaintenance', 'beta', false, { drain: false }],
    ['setMaintenance', 'beta', true, { drain: true }],
    ['setMaintenance', 'beta', false, { drain: false }],
  ]);
  assert.deepEqual(JSON.parse((await run('failover', 'web1', '--json')).out), VM);
});

test('nothing is deleted, and nobody is paused, by an oversight', async (t) => {
  const { node, run } = await nodeFor(t);
  const purge = await run('down', 'web1', '--purge');
  assert.deepEqual([purge.status, purge.out], [2, '']);
  assert.match(purge.err, /^colo down: --purge deletes the disks of 'web1': add --yes if that is meant\n$/);
  for (const args of [['pause'], ['pause', 'web1', '--host', 'beta']]) {
    assert.match((await run(...args)).err, /^colo pause: give a VM, or --host HOST/);
  }
  assert.deepEqual(node.asked, []);
});

test('an error is one line, says what to do, and has its status', async (t) => {
  let error = new ColoError('the disk of web1 is\nfull');
  const { run } = await nodeFor(t, { failover: () => Promise.reject(error) });
  const fails = async (status: number, text: RegExp): Promise<void> => {
    const ran = await run('failover', 'web1');
    assert.equal(ran.status, status, ran.err);
    assert.match(ran.err, text);
    assert.equal(ran.err.split('\n').length, 2, ran.err);
    assert.equal(ran.out, '');
  };
  await fails(1, /^colo failover: the disk of web1 is full$/m);
  error = new NoSuchVmError('web1');
  await fails(3, /^colo failover: there is no VM 'web1'; colo status lists them$/m);
  error = new NoSuchHostError('gamma');
  await fails(3, /there is no host 'gamma'; colo hosts lists them$/m);
  error = new BusyError('a resync is under way');
  await fails(4, /a resync is under way$/m);
  const nobody = await coloHere('status', '--node', `unix:${folder}/none.sock`);
  assert.equal(nobody.status, 5);
  assert.match(
    nobody.err,
    /^colo status: no node answers at unix:.*none\.sock .*is 'colo node' running there\?\n$/,
  );
  const wrong = await coloHere('status', '--node', 'nonsense');
  assert.equal(wrong.status, 2);
  assert.match(wrong.err, /expected unix:PATH or HOST:PORT/);
});

test('events and logs are lines', async (t) => {
  const { run } = await nodeFor(t, {
    events: async function* ({ after: since, vm, follow }) {
      await Promise.resolve();
      assert.deepEqual([since, vm, follow], [4, 'web1', true]);
      yield eventOf(5);
      yield eventOf(6, { type: 'note', reason: 'a\x1b[31mred' });
    },
  });
  const events = ['events', '-f', '--vm', 'web1', '--after', '4'];
  const { out, status } = await run(...events);
  assert.equal(status, 0);
  assert.equal(
    out,
    '2026-01-02T03:04:05.678Z alpha web1 state syncing -> protecting: copied\n' +
      '2026-01-02T03:04:05.678Z alpha web1 note syncing -> protecting: a?[31mred\n',
  );
  const lines = (await run(...events, '--json')).out.trim().split('\n');
  assert.deepEqual(
    lines.map((line) => JSON.parse(line) as unknown),
    [eventOf(5), eventOf(6, { type: 'note', reason: 'a\x1b[31mred' })],
  );
  assert.equal((await run('logs', 'web1')).out, 'one\ntwo\n');
});

test('up reads the file, and with --wait tells each step until it is protected', async (t) => {
  const file = path.join(folder, 'web1.yaml');
  const text = 'name: web1\nimage: web.qcow2\n';
  const views: VmView[] = [
    { ...VM, state: 'syncing', reason: 'copied' },
    { ...VM, state: 'protecting', reason: 'first checkpoint' },
    { ...VM, state: 'protected', reason: 'whole' },
  ];
  await writeFile(file, text);
  const { node, run } = await nodeFor(t, {
    vm: () => Promise.resolve(views.length > 1 ? views.shift()! : views[0]!),
  });
  const spec = parseVmFile(text, { file, folder });
  const plain = await run('up', file);
  assert.equal(plain.status, 0, plain.err);
  assert.deepEqual(node.asked, [['up', spec]]);
  const waited = await run('up', file, '--wait');
  assert.equal(waited.status, 0);
  assert.deepEqual(
    waited.out.split('\n').map((line) => /: (\w+)/.exec(line)?.[1]),
    ['syncing', 'syncing', 'protecting', 'protected', undefined],
  );
  views[0] = { ...VM, state: 'blocked', reason: 'the arbiter is out of reach' };
  assert.equal((await run('up', file, '--wait')).status, 1);
});

test('check tells every finding; a file that is wrong is told by line and asks nobody', async (t) => {
  const file = path.join(folder, 'check.yaml');
  await writeFile(file, 'name: web1\nimage: web.qcow2\n');
  const { node, run } = await nodeFor(t);
  const warned = await run('check', file);
  assert.equal(warned.status, 0);
  assert.equal(
    warned.out,
    `${file}: warning on beta: disks[0].image: not there yet\nweb1: can be protected\n`,
  );
  const failing = await nodeFor(t, {
    check: () =>
      Promise.resolve([{ severity: 'error', host: null, path: 'memory', message: 'too much' } as const]),
  });
  const refused = await failing.run('check', file);
  assert.deepEqual([refused.status, refused.out], [1, `${file}: error: memory: too much\n`]);
  node.asked.length = 0;
  await writeFile(file, 'name: WEB\nmemroy: 5\n');
  for (const command of ['check', 'up']) {
    const wrong = await run(command, file);
    assert.equal(wrong.status, 2);
    for (const line of wrong.err.trimEnd().split('\n')) assert.match(line, /check\.yaml:\d+:\d+: /);
    assert.match(wrong.err, /memroy/);
  }
  assert.equal((await run('up', path.join(folder, 'none.yaml'))).status, 2);
  assert.deepEqual(node.asked, []);
});

test('the console passes every key but Ctrl-] to the guest', async () => {
  const guest = new PassThrough();
  const keys = new PassThrough();
  const screen = new PassThrough();
  const left = attach(guest, keys, screen, true);
  keys.write('ls\x03\r');
  keys.write('exit\x1dnot this');
  assert.equal(await left, 'person');
  // The guest of this test echoes.
  assert.equal(String(screen.read()), 'ls\x03\rexit');
  const closed = attach(new PassThrough().end(), new PassThrough(), screen, true);
  assert.equal(await closed, 'guest');
});

test('the node that is asked: COLO_NODE, else this host’s', () => {
  assert.equal(defaultNode({ COLO_NODE: '10.0.0.1:7700' }, 0), '10.0.0.1:7700');
  assert.equal(defaultNode({}, 0), 'unix:/run/colo/node.sock');
  assert.equal(defaultNode({ XDG_RUNTIME_DIR: '/run/user/7' }, 7), 'unix:/run/user/7/colo/node.sock');
  assert.equal(defaultNode({}, 7), `unix:${path.join(tmpdir(), 'colo-7', 'node.sock')}`);
});
