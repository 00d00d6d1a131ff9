// Block commands: quorum children, nodes, the NBD server and jobs, with QEMU 7.2's refusals.
import assert from 'node:assert/strict';
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { bareVm } from '../../helpers/bare-vm.ts';
import type { BareVm } from '../../helpers/bare-vm.ts';

const MIB = 1 << 20;
let folder: string;
const image = (name: string): string => path.join(folder, name);

before(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'colo-block-commands-'));
});
after(() => rm(folder, { recursive: true }));

async function raw(name: string, bytes = MIB): Promise<string> {
  await writeFile(image(name), '');
  await truncate(image(name), bytes);
  return image(name);
}

async function addRaw(bare: BareVm, node: string, bytes = MIB): Promise<void> {
  const filename = await raw(`${node}.raw`, bytes);
  await bare.execute('blockdev-add', {
    driver: 'raw',
    'node-name': node,
    file: { driver: 'file', filename },
  });
}

/** Each: arguments, then `Class: text`, or null for success. */
async function refusals(
  bare: BareVm,
  name: string,
  cases: readonly [unknown, string | RegExp | null][],
): Promise<void> {
  for (const [args, failure] of cases) {
    if (failure === null) await bare.execute(name, args);
    else if (failure instanceof RegExp) assert.match(await bare.failure(name, args), failure);
    else assert.equal(await bare.failure(name, args), failure, JSON.stringify(args));
  }
}

test('x-blockdev-change', async (t) => {
  const bare = await bareVm(t);
  for (const node of ['a', 'b', 'c']) await addRaw(bare, node);
  await addRaw(bare, 'big', 2 * MIB);
  const quorum = {
    driver: 'quorum',
    'node-name': 'q',
    children: ['a'],
    'vote-threshold': 1,
    'read-pattern': 'fifo',
  };
  await bare.execute('blockdev-add', quorum);
  await refusals(bare, 'x-blockdev-change', [
    [{}, "GenericError: Parameter 'parent' is missing"],
    [{ parent: 'q', node: 5 }, "GenericError: Invalid parameter type for 'node', expected: string"],
    [{ parent: 'nope' }, "GenericError: Cannot find device='nope' nor node-name='nope'"],
    [{ parent: 'q' }, 'GenericError: Either child or node must be specified'],
    [
      { parent: 'q', node: 'b', child: 'children.0' },
      'GenericError: The parameters child and node are in conflict',
    ],
    [{ parent: 'q', child: 'children.7' }, "GenericError: Node 'q' does not have child 'children.7'"],
    [{ parent: 'q', node: 'nosuch' }, "GenericError: Node 'nosuch' not found"],
    [{ parent: 'q', node: 'a' }, 'GenericError: The node a already has a parent'],
    [{ parent: 'b', node: 'c' }, 'GenericError: The node b does not support adding a child'],
    [{ parent: 'b', child: 'file' }, 'GenericError: The node b does not support removing a child'],
    [
      { parent: 'q', child: 'children.0' },
      'GenericError: The number of children cannot be lower than the vote threshold 1',
    ],
    [
      { parent: 'q', node: 'big' },
      `GenericError: Node 'big' has ${2 * MIB} bytes, but quorum 'q' has ${MIB}; use an image of the same length`,
    ],
    [{ parent: 'q', node: 'b' }, null],
    [{ parent: 'q', node: 'b' }, 'GenericError: The node b already has a parent'],
    [{ parent: 'q', child: 'children.1' }, null],
    // The last number is given back.
    [{ parent: 'q', node: 'c' }, null],
    [{ parent: 'q', child: 'children.1' }, null],
  ]);
});

test('blockdev-add and blockdev-del', async (t) => {
  const bare = await bareVm(t);
  const filename = await raw('f.raw');
  const quorum = { driver: 'quorum', 'node-name': 'q', children: ['f'], 'vote-threshold': 1 };
  const thresholdless = { driver: 'quorum', 'node-name': 'q', children: ['f'] };
  const childless = { driver: 'quorum', 'node-name': 'q', 'vote-threshold': 1 };
  await refusals(bare, 'blockdev-add', [
    [{}, "GenericError: Parameter 'driver' is missing"],
    [{ driver: 'file', filename }, "GenericError: 'node-name' must be specified for the root node"],
    [{ driver: 'zig', 'node-name': 'n' }, "GenericError: Parameter 'driver' does not accept value 'zig'"],
    [
      { driver: 'raw', 'node-name': 'n', file: { driver: 'zig' } },
      "GenericError: Parameter 'driver' does not accept value 'zig'",
    ],
    [{ driver: 'file', 'node-name': 'n' }, "GenericError: Parameter 'filename' is missing"],
    [{ driver: 'file', 'node-name': '1n', filename }, "GenericError: Invalid node-name: '1n'"],
    [
      { driver: 'file', 'node-name': 'n', filename: image('none') },
      `GenericError: Could not open '${image('none')}': No such file or directory`,
    ],
    [
      { driver: 'raw', 'node-name': 'n', file: 'nope' },
      "GenericError: Cannot find device='nope' nor node-name='nope'",
    ],
    [{ driver: 'file', 'node-name': 'f', filename }, null],
    [{ driver: 'file', 'node-name': 'f', filename }, "GenericError: Duplicate nodes with node-name='f'"],
    [thresholdless, "GenericError: Parameter 'vote-threshold' is missing"],
    [childless, "GenericError: Parameter 'children' is missing"],
    [
      { driver: 'raw', 'node-name': 'n', file: thresholdless },
      "GenericError: Parameter 'file.vote-threshold' is missing",
    ],
    [
      { ...quorum, 'vote-threshold': 'x' },
      "GenericError: Invalid parameter type for 'vote-threshold', expected: integer",
    ],
    [{ ...quorum, 'vote-threshold': 0 }, "GenericError: Parameter 'vote-threshold' expects a value >= 1"],
    [{ ...quorum, 'vote-threshold': 2 }, 'GenericError: threshold may not exceed children count'],
    [{ ...quorum, children: [] }, 'GenericError: Number of provided children must be 1 or more'],
    [
      { ...quorum, 'read-pattern': 'zig' },
      "GenericError: Parameter 'read-pattern' does not accept value 'zig'",
    ],
    [
      { ...quorum, blkverify: true },
      'GenericError: blkverify=on can only be set if there are exactly two files and vote-threshold is 2',
    ],
    [quorum, null],
  ]);
  await refusals(bare, 'blockdev-del', [
    [{}, "GenericError: Parameter 'node-name' is missing"],
    [{ 'node-name': 'nope' }, "GenericError: Failed to find node with node-name='nope'"],
    [{ 'node-name': 'f' }, 'GenericError: Block device f is in use'],
    [{ 'node-name': 'q' }, null],
    [{ 'node-name': 'f' }, null],
  ]);
});

test('the NBD server', async (t) => {
  const bare = await bareVm(t);
  await addRaw(bare, 'a');
  const taken = net.createServer();
  await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
  t.after(() => taken.close());
  const { port } = taken.address() as net.AddressInfo;
  const inet = (data: object): object => ({ addr: { type: 'inet', data } });
  const unix = (file: string): object => ({ addr: { type: 'unix', data: { path: file } } });

  assert.equal(await bare.failure('nbd-server-add', { device: 'a' }), 'GenericError: NBD server not running');
  assert.equal(await bare.failure('nbd-server-stop'), 'GenericError: NBD server not running');
  await refusals(bare, 'nbd-server-start', [
    [{}, "GenericError: Parameter 'addr' is missing"],
    [{ addr: {} }, "GenericError: Parameter 'addr.type' is missing"],
    [{ addr: { type: 'inet' } }, "GenericError: Parameter 'addr.data' is missing"],
    [{ addr: { type: 'zig', data: {} } }, "GenericError: Parameter 'type' does not accept value 'zig'"],
    [inet({ host: 'h' }), "GenericError: Parameter 'addr.data.port' is missing"],
    [
      inet({ host: 'h', port: 1 }),
      "GenericError: Invalid parameter type for 'addr.data.port', expected: string",
    ],
    [
      inet({ host: '127.0.0.1', port: 'x' }),
      'GenericError: address resolution failed for 127.0.0.1:x: Servname not supported for ai_socktype',
    ],
    [
      inet({ host: '127.0.0.1', port: '65536' }),
      "GenericError: Parameter 'port' expects a port number, not '65536'",
    ],
    [
      inet({ host: '127.0.0.1', port: String(port) }),
      'GenericError: Failed to find an available port: Address already in use',
    ],
    [
      unix(image('no/such')),
      `GenericError: Failed to bind socket to ${image('no/such')}: No such file or directory`,
    ],
    [unix(image('nbd')), null],
    [unix(image('nbd2')), 'GenericError: NBD server already running'],
  ]);
  await refusals(bare, 'nbd-server-add', [
    [{}, "GenericError: Parameter 'device' is missing"],
    [{ device: 'nope' }, "GenericError: Cannot find device='nope' nor node-name='nope'"],
    [
      { device: 'a', writable: 'yes' },
      "GenericError: Invalid parameter type for 'writable', expected: boolean",
    ],
    [{ device: 'a', name: 'x'.repeat(5000) }, 'GenericError: export name too long'],
    [{ device: 'a', writable: true }, null],
    [{ device: 'a' }, "GenericError: Block export id 'a' is already in use"],
    [{ device: 'a', name: 'second' }, null],
  ]);
  assert.equal(await bare.failure('blockdev-del', { 'node-name': 'a' }), 'GenericError: Node a is in use');
  await refusals(bare, 'nbd-server-remove', [
    [{ name: 'zz' }, "GenericError: Export 'zz' is not found"],
    [{ name: 'a', mode: 'zig' }, "GenericError: Parameter 'mode' does not accept value 'zig'"],
    [{ name: 'second' }, null],
  ]);
  await bare.execute('nbd-server-stop');
  assert.deepEqual(
    bare.events.map(({ event, data }) => [event, data?.['id']]),
    [
      ['BLOCK_EXPORT_DELETED', 'second'],
      ['BLOCK_EXPORT_DELETED', 'a'],
    ],
  );
  assert.deepEqual(await bare.execute('query-block-exports'), []);
  await bare.execute('blockdev-del', { 'node-name': 'a' });
});

test('two monitors that start the NBD server at once: one of them is told so', async (t) => {
  const bare = await bareVm(t);
  const start = (): Promise<unknown> =>
    bare.execute('nbd-server-start', { addr: { type: 'inet', data: { host: '127.0.0.1', port: '0' } } });
  const results = await Promise.allSettled([start(), start()]);
  assert.deepEqual(results.map(({ status }) => status).toSorted(), ['fulfilled', 'rejected']);
});

test('jobs', async (t) => {
  const bare = await bareVm(t);
  await addRaw(bare, 'a');
  for (const name of ['cancel', 'complete', 'pause', 'resume']) {
    assert.equal(
      await bare.failure(`block-job-${name}`, { device: 'zz' }),
      "DeviceNotActive: Block job 'zz' not found",
    );
  }
  assert.equal(
    await bare.failure('block-job-set-speed', { device: 'zz', speed: -1 }),
    "DeviceNotActive: Block job 'zz' not found",
  );
  const mirror = {
    device: 'a',
    target: await raw('t.raw'),
    sync: 'full',
    mode: 'existing',
    format: 'raw',
    'job-id': 'j',
  };
  await refusals(bare, 'drive-mirror', [
    [{ ...mirror, device: 'nope' }, "GenericError: Cannot find device='nope' nor node-name='nope'"],
    [{ ...mirror, sync: 'zig' }, "GenericError: Parameter 'sync' does not accept value 'zig'"],
    [{ ...mirror, speed: -1 }, "GenericError: Parameter 'speed' expects a non-negative value"],
    [{ ...mirror, 'job-id': '1x' }, "GenericError: Invalid job ID '1x'"],
    [{ ...mirror, format: 'zig' }, "GenericError: Unknown driver 'zig'"],
    [
      { ...mirror, target: image('none') },
      `GenericError: Could not open '${image('none')}': No such file or directory`,
    ],
    [
      { ...mirror, target: 'nbd://127.0.0.1:1/x' },
      "GenericError: Failed to connect to '127.0.0.1:1': Connection refused",
    ],
    [
      { ...mirror, target: 'nbd://127.0.0.1:1/x', mode: 'absolute-paths' },
      "GenericError: Protocol driver 'nbd' does not support image creation; make the target there and use mode=existing",
    ],
    [
      { ...mirror, target: '/nope/t', mode: 'absolute-paths' },
      "GenericError: Could not create '/nope/t': No such file or directory",
    ],
    [{ ...mirror, replaces: 'b', 'node-name': 'n' }, /Parameter 'replaces' is not supported/],
  ]);
  assert.deepEqual(await bare.execute('query-block-jobs'), []);
});
