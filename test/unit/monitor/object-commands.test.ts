// Chardevs, objects, links and migration settings over QMP, with QEMU 7.2's refusals.
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { testFolder } from '../../helpers/bare-process.ts';
import { bareVm } from '../../helpers/bare-vm.ts';
import type { BareVm } from '../../helpers/bare-vm.ts';

const CHARDEVS = '-chardev null,id=a -chardev null,id=b -chardev null,id=c -netdev hubport,id=hn0,hubid=0';

async function refusals(
  bare: BareVm,
  name: string,
  cases: readonly [unknown, string | null][],
): Promise<void> {
  for (const [args, failure] of cases) {
    if (failure === null) await bare.execute(name, args);
    else assert.equal(await bare.failure(name, args), failure, JSON.stringify(args));
  }
}

test('object-add and object-del', async (t) => {
  const bare = await bareVm(t, CHARDEVS);
  const mirror = { 'qom-type': 'filter-mirror', id: 'm0', netdev: 'hn0', outdev: 'a' };
  const compare = {
    'qom-type': 'colo-compare',
    id: 'c0',
    primary_in: 'a',
    secondary_in: 'b',
    outdev: 'c',
    iothread: 'io',
  };
  await refusals(bare, 'object-add', [
    [{}, "GenericError: Parameter 'qom-type' is missing"],
    [{ 'qom-type': 'iothread' }, "GenericError: Parameter 'id' is missing"],
    [{ 'qom-type': 5, id: 'x' }, "GenericError: Invalid parameter type for 'qom-type', expected: string"],
    [{ 'qom-type': 'zig', id: 'x' }, "GenericError: Parameter 'qom-type' does not accept value 'zig'"],
    [{ 'qom-type': 'iothread', id: '1x' }, "GenericError: Parameter 'id' expects an identifier"],
    [{ 'qom-type': 'iothread', id: 'x', foo: 1 }, "GenericError: Parameter 'foo' is unexpected"],
    [
      { 'qom-type': 'iothread', id: 'x', props: 5 },
      "GenericError: Invalid parameter type for 'props', expected: dict",
    ],
    [{ 'qom-type': 'filter-mirror', id: 'm0', netdev: 'hn0' }, "GenericError: Parameter 'outdev' is missing"],
    [{ ...mirror, netdev: 'nope' }, "GenericError: Parameter 'netdev' expects a network backend id"],
    [
      { ...mirror, netdev: 'nope', queue: 'zig' },
      "GenericError: Parameter 'queue' does not accept value 'zig'",
    ],
    [{ ...mirror, outdev: 'nope' }, "DeviceNotFound: Device 'nope' not found"],
    [
      { ...mirror, status: 'zig' },
      "GenericError: Invalid value for netfilter status, should be 'on' or 'off'",
    ],
    [
      { ...mirror, position: 'zig' },
      "GenericError: Parameter 'position' expects 'head', 'tail' or 'id=<id>'",
    ],
    [{ ...mirror, position: 'id=zig' }, "GenericError: filter 'zig' not found"],
    [{ 'qom-type': 'colo-compare', id: 'c0' }, "GenericError: Parameter 'primary_in' is missing"],
    [compare, "DeviceNotFound: Device 'io' not found"],
    [{ 'qom-type': 'iothread', id: 'io' }, null],
    [{ ...compare, outdev: 'a' }, "GenericError: 'indev' and 'outdev' could not be same for compare module"],
    [{ ...compare, outdev: 'zz' }, "DeviceNotFound: Device 'zz' not found"],
    [
      { ...compare, compare_timeout: 0 },
      "GenericError: Property 'colo-compare.compare_timeout' requires a positive value",
    ],
    // What failed left nothing behind: the chardevs are free.
    [compare, null],
    [compare, "GenericError: attempt to add duplicate property 'c0' to object (type 'container')"],
    [mirror, "GenericError: chardev 'a' is already in use"],
  ]);
  assert.equal(await bare.failure('chardev-remove', { id: 'a' }), "GenericError: Chardev 'a' is busy");
  await refusals(bare, 'object-del', [
    [{}, "GenericError: Parameter 'id' is missing"],
    [{ id: 'zz' }, "GenericError: object 'zz' not found"],
    [{ id: 'c0' }, null],
    [{ id: 'c0' }, "GenericError: object 'c0' not found"],
  ]);
  await bare.execute('object-add', {
    'qom-type': 'filter-mirror',
    id: 'm0',
    props: { netdev: 'hn0', outdev: 'a' },
  });
  await bare.execute('object-del', { id: 'm0' });
  await bare.execute('chardev-remove', { id: 'a' });
});

test('qom-get, qom-set and qom-list', async (t) => {
  const bare = await bareVm(
    t,
    `${CHARDEVS} -object iothread,id=io -object filter-rewriter,id=rew0,netdev=hn0 ` +
      '-object colo-compare,id=c0,primary_in=a,secondary_in=b,outdev=c,iothread=io',
  );
  const get = (where: string, property: string): Promise<unknown> =>
    bare.execute('qom-get', { path: where, property });
  assert.equal(await get('/objects/c0', 'compare_timeout'), 3000);
  assert.equal(await get('/objects/c0', 'notify_dev'), '');
  assert.equal(await get('/objects/c0', 'type'), 'colo-compare');
  assert.equal(await get('/objects/c0', 'iothread'), '/objects/io');
  await bare.execute('object-del', { id: 'io' });
  assert.equal(
    await get('/objects/c0', 'iothread'),
    '',
    'as in QEMU a comparer outlives its iothread’s name',
  );
  assert.equal(
    await bare.failure('qom-get', { path: '/objects/c0', property: 'nope' }),
    "GenericError: Property 'colo-compare.nope' not found",
  );
  assert.equal(
    await bare.failure('qom-get', { path: '/objects/zz', property: 'x' }),
    "DeviceNotFound: Device '/objects/zz' not found",
  );
  const timeout = { path: '/objects/c0', property: 'compare_timeout' };
  await refusals(bare, 'qom-set', [
    [timeout, "GenericError: Parameter 'value' is missing"],
    [
      { ...timeout, value: 0 },
      "GenericError: Property 'colo-compare.compare_timeout' requires a positive value",
    ],
    [{ ...timeout, property: 'nope', value: 1 }, "GenericError: Property 'colo-compare.nope' not found"],
    [{ ...timeout, value: 5 }, null],
    [
      { path: '/objects/rew0', property: 'status', value: 'zig' },
      "GenericError: Invalid value for netfilter status, should be 'on' or 'off'",
    ],
    [
      { path: '/objects/rew0', property: 'nope', value: 1 },
      "GenericError: Property 'filter-rewriter.nope' not found",
    ],
    [
      { path: '/objects/rew0', property: 'netdev', value: 'hn1' },
      "GenericError: Property 'filter-rewriter.netdev' cannot be changed",
    ],
    [{ path: '/objects/rew0', property: 'queue', value: 'rx' }, null],
    [{ path: '/objects/rew0', property: 'status', value: 'off' }, null],
  ]);
  assert.equal(await get('/objects/c0', 'compare_timeout'), 5);
  assert.equal(await get('rew0', 'status'), 'off');
  assert.equal(await get('rew0', 'queue'), 'rx');
  const names = async (where: string): Promise<string[]> =>
    ((await bare.execute('qom-list', { path: where })) as { name: string; type: string }[]).map(
      ({ name, type }) => `${name}: ${type}`,
    );
  assert.deepEqual(await names('/objects'), [
    'type: string',
    'rew0: child<filter-rewriter>',
    'c0: child<colo-compare>',
  ]);
  assert.ok((await names('/objects/c0')).includes('compare_timeout: uint64'));
  assert.deepEqual(await names('/'), [
    'type: string',
    'objects: child<container>',
    'chardevs: child<container>',
  ]);
  assert.equal(await bare.failure('qom-list', { path: '/zz' }), "DeviceNotFound: Device '/zz' not found");
});

test('chardev-add and query-chardev', async (t) => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-chardevs-'));
  t.after(() => rm(folder, { recursive: true }));
  const bare = await bareVm(t);
  const socket = (data: object): object => ({ id: 's', backend: { type: 'socket', data } });
  const unix = { type: 'unix', data: { path: path.join(folder, 's') } };
  await refusals(bare, 'chardev-add', [
    [{ id: 's' }, "GenericError: Parameter 'backend' is missing"],
    [{ id: 's', backend: {} }, "GenericError: Parameter 'backend.type' is missing"],
    [
      { id: 's', backend: { type: 'zig', data: {} } },
      "GenericError: Parameter 'type' does not accept value 'zig'",
    ],
    [{ id: 's', backend: { type: 'null', data: {} }, x: 1 }, "GenericError: Parameter 'x' is unexpected"],
    [socket({}), "GenericError: Parameter 'backend.data.addr' is missing"],
    [
      socket({ addr: unix, server: false }),
      `GenericError: Failed to add chardev 's': Failed to connect to '${unix.data.path}': No such file or directory`,
    ],
    [socket({ addr: unix }), null],
    [socket({ addr: unix }), "GenericError: Chardev with id 's' already exists"],
  ]);
  assert.deepEqual(await bare.execute('query-chardev'), [
    { label: 's', filename: `disconnected:unix:${unix.data.path},server=on`, 'frontend-open': false },
  ]);
  assert.equal(await bare.failure('chardev-remove', { id: 'zz' }), "GenericError: Chardev 'zz' not found");
});

test('migration settings', async (t) => {
  const bare = await bareVm(t);
  const capability = (...list: unknown[]): object => ({ capabilities: list });
  await refusals(bare, 'migrate-set-capabilities', [
    [{}, "GenericError: Parameter 'capabilities' is missing"],
    [
      capability({ capability: 'zig', state: true }),
      "GenericError: Parameter 'capability' does not accept value 'zig'",
    ],
    [capability({ capability: 'x-colo' }), "GenericError: Parameter 'capabilities[0].state' is missing"],
    [capability({ capability: 'x-colo', state: true }, { capability: 'return-path', state: true }), null],
  ]);
  await refusals(bare, 'migrate-set-parameters', [
    [{ 'x-checkpoint-delay': -1 }, "GenericError: Parameter 'x-checkpoint-delay' expects uint32_t"],
    [{ 'x-checkpoint-delay': 'x' }, "GenericError: Parameter 'x-checkpoint-delay' expects uint64"],
    [{ nope: 1 }, "GenericError: Parameter 'nope' is unexpected"],
    [
      { 'max-bandwidth': 1 },
      "GenericError: Parameter 'max-bandwidth' is not supported; x-checkpoint-delay, x-mismatch-run-share, x-colo-heartbeat-*, tls-creds, tls-hostname and announce-* are",
    ],
    // All or nothing.
    [{ 'x-checkpoint-delay': 5, nope: 1 }, "GenericError: Parameter 'nope' is unexpected"],
  ]);
  assert.deepEqual(await bare.execute('query-migrate-parameters'), {
    'x-checkpoint-delay': 20000,
    'x-mismatch-run-share': 50,
    'x-colo-heartbeat-interval': 100,
    'x-colo-heartbeat-patience': 400,
    'tls-creds': '',
    'tls-hostname': '',
    'announce-initial': 50,
    'announce-max': 550,
    'announce-rounds': 5,
    'announce-step': 100,
  });
  await bare.execute('migrate-set-parameters', { 'x-checkpoint-delay': 0 });
  await refusals(bare, 'migrate-set-parameters', [
    [
      { 'x-mismatch-run-share': 91 },
      "GenericError: Parameter 'x-mismatch-run-share' expects an integer in the range of 0 to 90",
    ],
  ]);
  await bare.execute('migrate-set-parameters', { 'x-mismatch-run-share': 0 });
  await bare.execute('migrate-set-parameters', { 'announce-initial': 0, 'announce-rounds': 1000 });
  await bare.execute('migrate-set-parameters', { 'announce-max': 7, 'announce-step': 8 });
  assert.deepEqual(await bare.execute('query-migrate-parameters'), {
    'x-checkpoint-delay': 0,
    'x-mismatch-run-share': 0,
    'x-colo-heartbeat-interval': 100,
    'x-colo-heartbeat-patience': 400,
    'tls-creds': '',
    'tls-hostname': '',
    'announce-initial': 0,
    'announce-max': 7,
    'announce-rounds': 1000,
    'announce-step': 8,
  });
  await refusals(bare, 'migrate', [
    [{}, "GenericError: Parameter 'uri' is missing"],
    [{ uri: 5 }, "GenericError: Invalid parameter type for 'uri', expected: string"],
    [{ uri: 'zig:1' }, "GenericError: Parameter 'uri' expects a valid migration protocol"],
    [
      { uri: 'exec:cat' },
      "GenericError: Migration protocol 'exec' is not supported; use tcp:HOST:PORT or unix:PATH",
    ],
    [{ uri: 'tcp:0' }, "GenericError: error parsing address '0'"],
  ]);
  assert.equal(
    await bare.failure('migrate-incoming', { uri: 'tcp:127.0.0.1:0' }),
    "GenericError: '-incoming' was not specified on the command line",
  );
  assert.equal(await bare.failure('x-colo-lost-heartbeat'), 'GenericError: VM is not in COLO mode');
  assert.deepEqual(await bare.execute('query-migrate'), {});
});

test('migrate-incoming, for -incoming defer', async (t) => {
  const bare = await bareVm(t, '-incoming defer');
  const status = async (): Promise<string> =>
    ((await bare.execute('query-status')) as { status: string }).status;
  assert.equal(await status(), 'inmigrate');
  assert.equal(
    await bare.failure('migrate-incoming', { uri: 'zig:1' }),
    'GenericError: unknown migration protocol: zig:1',
  );
  await bare.execute('stop');
  assert.equal(await status(), 'inmigrate', 'stop means the guest that is to come');
  await bare.execute('cont');
  assert.equal(await status(), 'inmigrate');
  await bare.execute('migrate-incoming', { uri: 'tcp:127.0.0.1:0' });
  assert.equal(
    await bare.failure('migrate-incoming', { uri: 'tcp:127.0.0.1:0' }),
    'GenericError: The incoming migration has already been started',
  );
  const { 'socket-address': [address] = [] } = (await bare.execute('query-migrate')) as {
    'socket-address'?: { host: string }[];
  };
  assert.equal(address?.host, '127.0.0.1');
});

test('what the VM says of itself, and what it cannot do', async (t) => {
  const bare = await bareVm(
    t,
    '-uuid 0a0b0c0d-0000-0000-0000-00000000000f -name thing -netdev hubport,id=h,hubid=1',
  );
  assert.deepEqual(await bare.execute('query-uuid'), { UUID: '0a0b0c0d-0000-0000-0000-00000000000f' });
  assert.deepEqual(await bare.execute('query-name'), { name: 'thing' });
  assert.deepEqual(await bare.execute('query-status'), {
    status: 'running',
    singlestep: false,
    running: true,
  });
  assert.match(await bare.failure('system_powerdown'), /^GenericError: The v86 engine has no power button/);
  assert.equal(
    await bare.failure('set_link', { name: 'zz', up: true }),
    "DeviceNotFound: Device 'zz' not found",
  );
  await bare.execute('set_link', { name: 'h', up: false });
  assert.equal(bare.vm.netdevs.get('h')?.linkDown, true);
  assert.equal(await bare.failure('announce-self'), "GenericError: Parameter 'initial' is missing");
  const times = { initial: 1, max: 1, rounds: 1000, step: 0 };
  for (const [wrong, text] of [
    [{ rounds: 1001 }, "Parameter 'rounds' expects a value between 0 and 1000"],
    [{ max: -1 }, "Parameter 'max' expects a value between 0 and 100000"],
    [{ interfaces: 'e0' }, "Invalid parameter type for 'interfaces', expected: array"],
  ] as const) {
    assert.equal(await bare.failure('announce-self', { ...times, ...wrong }), `GenericError: ${text}`);
  }
  await bare.execute('announce-self', { ...times, interfaces: ['nobody'] });
  await bare.execute('announce-self', { ...times, id: 'x' });
  const hmp = (line: string): Promise<unknown> =>
    bare.execute('human-monitor-command', { 'command-line': line });
  assert.equal(await hmp('announce_self'), '');
  assert.equal(await hmp('announce_self e0,e1 y'), '');
  assert.deepEqual(bare.vm.announcer.underWay.sort(), ['', 'x', 'y']);
  await bare.execute('quit');
  await bare.execute('quit');
  assert.equal(await bare.vm.ended, 0);
  assert.deepEqual(
    bare.events.filter(({ event }) => event === 'SHUTDOWN').map(({ data }) => data),
    [{ guest: false, reason: 'host-qmp-quit' }],
  );
});

test('a filter-buffer lets go of what it holds when it is turned off and when it is deleted', async (t) => {
  const bare = await bareVm(t, '-netdev hubport,id=hn0,hubid=0');
  const netdev = bare.vm.netdevs.get('hn0')!;
  const heard: string[] = [];
  netdev.guest = (frame) => heard.push(Buffer.from(frame).toString());
  const buffer = { 'qom-type': 'filter-buffer', id: 'b', netdev: 'hn0', interval: 4_000_000_000 };
  await bare.execute('object-add', buffer);
  netdev.receiveFromWire(Buffer.from('1'));
  netdev.receiveFromWire(Buffer.from('2'));
  assert.deepEqual(heard, []);
  await bare.execute('qom-set', { path: '/objects/b', property: 'status', value: 'off' });
  assert.deepEqual(heard, ['1', '2']);
  await bare.execute('qom-set', { path: '/objects/b', property: 'status', value: 'on' });
  netdev.receiveFromWire(Buffer.from('3'));
  assert.deepEqual(heard, ['1', '2']);
  await bare.execute('object-del', { id: 'b' });
  assert.deepEqual(heard, ['1', '2', '3']);
  netdev.receiveFromWire(Buffer.from('4'));
  assert.deepEqual(heard, ['1', '2', '3', '4']);
});

test('a capture file is there with its object, and whole without it', async (t) => {
  const bare = await bareVm(t, '-netdev hubport,id=hn0,hubid=0');
  const folder = await testFolder(t);
  const dump = { 'qom-type': 'filter-dump', id: 'd', netdev: 'hn0', file: path.join(folder, 'x') };
  await refusals(bare, 'object-add', [
    [{ ...dump, file: folder }, `GenericError: net dump: can't open ${folder}: Is a directory`],
    [
      { ...dump, file: path.join(folder, 'a/b') },
      `GenericError: net dump: can't open ${folder}/a/b: No such file or directory`,
    ],
    [{ ...dump, maxlen: 0 }, "GenericError: Property 'filter-dump.maxlen' doesn't take value '0'"],
    [dump, null],
  ]);
  assert.equal((await readFile(dump.file)).length, 24);
  const netdev = bare.vm.netdevs.get('hn0')!;
  netdev.guest = () => undefined;
  for (let count = 0; count < 1000; count++) netdev.receiveFromWire(new Uint8Array(60));
  await bare.execute('object-del', { id: 'd' });
  assert.equal((await readFile(dump.file)).length, 24 + 1000 * 76);
});
