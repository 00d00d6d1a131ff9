// TLS credentials as objects, and the NBD server and disks that use them. Texts: asked of QEMU 7.2.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import { startMonitors } from '../../../src/monitor/monitors.ts';
import { bareVm } from '../../helpers/bare-vm.ts';

const dir = mkdtempSync(path.join(os.tmpdir(), 'tls-qmp-'));
after(() => rmSync(dir, { recursive: true }));
const SECRET = '0badcafe'.repeat(8);
writeFileSync(path.join(dir, 'keys.psk'), `qemu:${SECRET}\n`);

const SERVER = { 'qom-type': 'tls-creds-psk', id: 'srv', dir, endpoint: 'server' };
const CLIENT = { 'qom-type': 'tls-creds-psk', id: 'cli', dir, endpoint: 'client' };
const ANY_PORT = { type: 'inet', data: { host: '127.0.0.1', port: '0' } };

test('credentials are made, shown without their keys, used and deleted', async (t) => {
  const bare = await bareVm(t, '-blockdev driver=memory,node-name=disk,size=1048576');
  assert.deepEqual(await bare.execute('object-add', SERVER), {});
  assert.deepEqual(await bare.execute('object-add', CLIENT), {});
  const listed = JSON.stringify(await bare.execute('qom-list', { path: '/objects/srv' }));
  assert.match(listed, /"name":"endpoint","type":"QCryptoTLSCredsEndpoint"/);
  for (const [property, value] of [
    ['endpoint', 'server'],
    ['dir', dir],
    ['verify-peer', true],
    ['username', ''],
  ]) {
    assert.equal(await bare.execute('qom-get', { path: '/objects/srv', property }), value);
  }
  assert.equal(
    await bare.failure('qom-set', { path: 'srv', property: 'dir', value: '/tmp' }),
    "GenericError: Property 'tls-creds-psk.dir' cannot be changed",
  );
  const start = (more: object): Promise<string> =>
    bare.failure('nbd-server-start', { addr: ANY_PORT, ...more });
  assert.equal(await start({ 'tls-creds': 'nope' }), "GenericError: No TLS credentials with id 'nope'");
  assert.equal(
    await start({ 'tls-creds': 'cli' }),
    'GenericError: Expected TLS credentials for a server endpoint',
  );
  assert.match(await start({ 'tls-creds': 'srv', 'tls-authz': 'a' }), /tls-authz is not supported/);
  await bare.execute('object-add', { 'qom-type': 'iothread', id: 'io' });
  assert.equal(
    await start({ 'tls-creds': 'io' }),
    "GenericError: Object with id 'io' is not TLS credentials",
  );
  await bare.execute('nbd-server-start', { addr: ANY_PORT, 'tls-creds': 'srv' });
  await bare.execute('nbd-server-add', { device: 'disk', writable: true });
  const { address } = bare.vm.exports;
  assert.ok(address && 'port' in address);
  const server = { type: 'inet', host: '127.0.0.1', port: String(address.port) };
  const node = { driver: 'nbd', 'node-name': 'remote', server, export: 'disk' };
  assert.match(await bare.failure('blockdev-add', node), /Did you forget a valid tls-creds/);
  assert.equal(
    await bare.failure('blockdev-add', { ...node, 'tls-creds': 'srv' }),
    'GenericError: Expected TLS credentials for a client endpoint',
  );
  await bare.execute('blockdev-add', { ...node, 'tls-creds': 'cli', 'reconnect-delay': 5 });
  const remote = bare.vm.graph.require('remote');
  await remote.write(0, Buffer.from('secret'));
  const back = Buffer.alloc(6);
  await bare.vm.graph.require('disk').read(0, back);
  assert.equal(back.toString(), 'secret');
  // The forwarded disk of a pair, as docs/procedure.md has it.
  const buddy =
    'drive_add -n buddy driver=replication,mode=primary,file.driver=nbd,file.host=127.0.0.1,' +
    `file.port=${address.port},file.export=disk,file.tls-creds=cli,node-name=replication0`;
  assert.equal(await bare.execute('human-monitor-command', { 'command-line': buddy }), '');
  await bare.execute('human-monitor-command', { 'command-line': 'drive_del replication0' });
  // What is in use goes on without the object.
  await bare.execute('object-del', { id: 'srv' });
  await bare.execute('object-del', { id: 'cli' });
  await remote.read(0, back);
  await bare.execute('blockdev-del', { 'node-name': 'remote' });
  assert.match(await bare.failure('qom-get', { path: '/objects/srv', property: 'dir' }), /not found/);
});

test('credentials of the command line are there before the disks that need them', async (t) => {
  const server = await bareVm(
    t,
    `-object tls-creds-psk,id=srv,dir=${dir},endpoint=server -blockdev driver=memory,node-name=d,size=1048576`,
  );
  await server.execute('nbd-server-start', { addr: ANY_PORT, 'tls-creds': 'srv' });
  await server.execute('nbd-server-add', { device: 'd', writable: true });
  const { address } = server.vm.exports;
  assert.ok(address && 'port' in address);
  const disk = `driver=nbd,node-name=n,server.type=inet,server.host=127.0.0.1,server.port=${address.port},export=d`;
  // The object stands behind the disk, as it may in QEMU.
  const client = await bareVm(t, `-blockdev ${disk},tls-creds=cli -object tls-creds-psk,id=cli,dir=${dir}`);
  await client.vm.graph.require('n').write(512, Buffer.from('x'));
  assert.deepEqual(
    client.vm.objects.list().map(({ id, typeName }) => [id, typeName]),
    [['cli', 'tls-creds-psk']],
  );
  await assert.rejects(bareVm(t, `-object tls-creds-psk,id=x,dir=${dir}/none`), {
    message: new RegExp(
      `^-object tls-creds-psk,id=x,dir=${dir}/none: Unable to access credentials ${dir}/none/keys.psk`,
    ),
  });
});

test('a chardev and a migration have them, on their own end', async (t) => {
  const bare = await bareVm(
    t,
    `-object tls-creds-psk,id=srv,dir=${dir},endpoint=server -object tls-creds-psk,id=cli,dir=${dir},endpoint=client ` +
      '-chardev socket,id=door,host=127.0.0.1,port=0,server=on,wait=off,tls-creds=srv',
  );
  const add = (more: object, addr: object = ANY_PORT): object => ({
    id: 'c',
    backend: { type: 'socket', data: { addr, wait: false, 'tls-creds': 'srv', ...more } },
  });
  const failure = (args: object): Promise<string> => bare.failure('chardev-add', args);
  assert.equal(
    await failure(add({ 'tls-creds': 'nope' })),
    "GenericError: No TLS credentials with id 'nope'",
  );
  assert.equal(
    await failure(add({ 'tls-creds': 'cli' })),
    'GenericError: Expected TLS credentials for a server endpoint',
  );
  assert.match(await failure(add({ 'tls-authz': 'a' })), /tls-authz is not supported/);
  assert.match(
    await failure(add({}, { type: 'unix', data: { path: path.join(dir, 's') } })),
    /'tls_creds' option is incompatible with 'unix' address type/,
  );
  const [{ filename }] = (await bare.execute('query-chardev')) as [{ filename: string }];
  const port = /:(\d+),/.exec(filename)?.[1] ?? '';
  const data = { addr: { type: 'inet', data: { host: '127.0.0.1', port } }, server: false };
  await bare.execute('chardev-add', {
    id: 'c',
    backend: { type: 'socket', data: { ...data, 'tls-creds': 'cli' } },
  });
  await bare.execute('chardev-remove', { id: 'c' });

  const set = (args: object): Promise<unknown> => bare.execute('migrate-set-parameters', args);
  const shown = async (): Promise<unknown[]> => {
    const all = (await bare.execute('query-migrate-parameters')) as Record<string, unknown>;
    return [all['tls-creds'], all['tls-hostname']];
  };
  assert.deepEqual(await shown(), ['', '']);
  await set({ 'tls-creds': 'cli', 'tls-hostname': 'other' });
  assert.deepEqual(await shown(), ['cli', 'other']);
  await set({ 'x-checkpoint-delay': 1000 });
  assert.deepEqual(await shown(), ['cli', 'other']);
  await set({ 'tls-creds': null, 'tls-hostname': '' });
  assert.deepEqual(await shown(), ['', '']);
  assert.match(
    await bare.failure('migrate-set-parameters', { 'tls-authz': 'x' }),
    /'tls-authz' is not supported/,
  );
});

test('a monitor does not take them for a lock that is not there', async (t) => {
  const bare = await bareVm(t, '-qmp tcp:127.0.0.1:0,server=on,wait=off,tls-creds=srv');
  await assert.rejects(startMonitors(bare.vm), /-qmp.*'tls-creds' is not supported on a monitor/);
});
