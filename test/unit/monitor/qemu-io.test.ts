// The human monitor's qemu-io, over a quorum with a blkdebug child, and x-blkdebug: requests without a guest.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bareVm } from '../../helpers/bare-vm.ts';

const DRIVE =
  '-drive if=none,id=d0,driver=quorum,vote-threshold=1,children.0.driver=memory,children.0.size=1048576,' +
  'children.1.driver=raw,children.1.file.driver=blkdebug,children.1.file.node-name=bad,' +
  'children.1.file.image.driver=memory,children.1.file.image.size=1048576,children.1.node-name=child1';

test('commands, and what they say', async (t) => {
  const bare = await bareVm(t, DRIVE);
  const line = (text: string): Promise<unknown> =>
    bare.execute('human-monitor-command', { 'command-line': text });
  const usage = 'Try "help qemu-io" for more information\r\n';
  const answers: [string, string][] = [
    ['qemu-io', `qemu-io: block device name expected\r\n${usage}`],
    ['qemu-io d0', `qemu-io: string expected\r\n${usage}`],
    ['qemu-io -x d0 length', `qemu-io: unsupported option -x\r\n${usage}`],
    ['qemu-io -d d0 length', "Error: Device 'd0' not found\r\n"],
    ['qemu-io nope "read 0 1"', "Error: Cannot find device='' nor node-name='nope'\r\n"],
    ['qemu-io d0 "foo"', 'command "foo" not found\r\n'],
    ['qemu-io d0 length', '1048576\r\n'],
    ['qemu-io d0 "write -P 7 1k 2k"', 'wrote 2048/2048 bytes at offset 1024\r\n'],
    ['qemu-io d0 "read -P 7 0x400 2048"', 'read 2048/2048 bytes at offset 1024\r\n'],
    ['qemu-io d0 "read -P 7 -s 1k -l 2k 0 4k"', 'read 4096/4096 bytes at offset 0\r\n'],
    ['qemu-io d0 "read -qP 8 1k 2k"', 'Pattern verification failed at offset 1024, 2048 bytes\r\n'],
    ['qemu-io d0 "read -P 7 -l 3k 1k 2k"', 'pattern verification range exceeds end of read data\r\n'],
    ['qemu-io d0 "write -qz 1k 512"', ''],
    ['qemu-io d0 "write -zu -P 3 1k 512"', '-z and -P cannot be specified at the same time\r\n'],
    ['qemu-io d0 "write -u 1k 512"', '-u requires -z to be specified\r\n'],
    ['qemu-io d0 "read -P 0 1k 512"', 'read 512/512 bytes at offset 1024\r\n'],
    ['qemu-io d0 "read 0 512 5"', 'read [-q] [-P pattern [-s off] [-l len]] off len\r\n'],
    ['qemu-io d0 "read -Z 0 512"', 'read [-q] [-P pattern [-s off] [-l len]] off len\r\n'],
    ['qemu-io d0 "read 2M 512"', 'read failed: Invalid argument\r\n'],
    ['qemu-io d0 "read 0 1T"', 'length cannot exceed 33554432, given 1T\r\n'],
    ['qemu-io d0 "read 0 x"', 'non-numeric offset or length argument -- x\r\n'],
    ['qemu-io d0 "write -P 300 0 1"', '300 is not a valid pattern byte\r\n'],
    ['qemu-io d0 "discard 0 1M"', 'discard 1048576/1048576 bytes at offset 0\r\n'],
    ['qemu-io d0 flush', ''],
    ['qemu-io child1 "break write_aio A"', ''],
    ['qemu-io child1 "wait_break B"', 'Could not wait for breakpoint B: No such file or directory\r\n'],
    ['qemu-io child1 "break foo A"', 'Could not set breakpoint: No such file or directory\r\n'],
    ['qemu-io d0 "break write_aio A"', 'Could not set breakpoint: Operation not supported\r\n'],
    ['qemu-io child1 "resume B"', 'Could not resume request: No such file or directory\r\n'],
    ['qemu-io child1 "remove_break B"', 'Could not remove breakpoint B: No such file or directory\r\n'],
    ['qemu-io d0 "aio_write -P 9 0 512"', ''],
    ['qemu-io child1 "wait_break A"', ''],
    ['qemu-io child1 "resume A"', ''],
    ['qemu-io d0 aio_flush', 'wrote 512/512 bytes at offset 0\r\n'],
    ['qemu-io child1 "remove_break A"', ''],
    ['qemu-io d0 "aio_flush" x', `qemu-io: extraneous characters at the end of line\r\n${usage}`],
  ];
  for (const [typed, answer] of answers) assert.equal(await line(typed), answer, typed);
});

test('the VM can be closed while a request is held', async (t) => {
  const bare = await bareVm(t, DRIVE);
  for (const command of ['qemu-io child1 "break write_aio A"', 'qemu-io d0 "aio_write 0 512"']) {
    assert.equal(await bare.execute('human-monitor-command', { 'command-line': command }), '');
  }
  await bare.execute('human-monitor-command', { 'command-line': 'qemu-io child1 "wait_break A"' });
  await bare.vm.close();
});

test('other faults while the node is in use', async (t) => {
  const bare = await bareVm(t, DRIVE);
  const line = (text: string): Promise<unknown> =>
    bare.execute('human-monitor-command', { 'command-line': text });
  const untouched = { state: 1, injected: 0, suspended: 0 };
  const ask = async (): Promise<unknown> => {
    const { requests, ...rest } = (await bare.execute('x-blkdebug', { 'node-name': 'bad' })) as {
      requests: Record<string, number>;
    };
    return { ...rest, writes: requests['write'] };
  };
  assert.deepEqual(await ask(), { ...untouched, writes: 0 });
  const rule = { event: 'none', iotype: 'write', errno: 28, once: true };
  await bare.execute('x-blkdebug', { 'node-name': 'bad', 'inject-error': [rule] });
  assert.equal(await line('qemu-io child1 "write 0 512"'), 'write failed: No space left on device\r\n');
  assert.equal(await line('qemu-io child1 "write -q 0 512"'), '');
  await bare.execute('x-blkdebug', {
    'node-name': 'bad',
    'inject-error': [{ ...rule, times: 3, once: false }],
  });
  await bare.execute('x-blkdebug', { 'node-name': 'bad', 'inject-error': [] });
  assert.equal(await line('qemu-io child1 "write -q 0 512"'), '');
  assert.deepEqual(await ask(), { ...untouched, injected: 1, writes: 3 });
  for (const [args, text] of [
    [{ 'node-name': 'zz' }, "GenericError: Failed to find node with node-name='zz'"],
    [{ 'node-name': 'child1' }, "GenericError: Node 'child1' is of driver 'raw', not blkdebug"],
    [
      { 'node-name': 'bad', 'inject-error': [{}] },
      "GenericError: Parameter 'inject-error[0].event' is missing",
    ],
    [
      { 'node-name': 'bad', 'inject-error': [{ event: 'none', sectors: 0 }] },
      /^GenericError: Parameter 'sectors'/,
    ],
  ] as const) {
    const said = await bare.failure('x-blkdebug', args);
    if (typeof text === 'string') assert.equal(said, text);
    else assert.match(said, text);
  }
});

test("blockdev-add says what QEMU's schema says", async (t) => {
  const bare = await bareVm(t);
  const image = { driver: 'memory', size: 65536 };
  const node = { driver: 'blkdebug', 'node-name': 'x', image };
  const refused: [object, string][] = [
    [{ driver: 'blkdebug', 'node-name': 'x' }, "Parameter 'image' is missing"],
    [{ ...node, 'inject-error': [{}] }, "Parameter 'inject-error[0].event' is missing"],
    [{ ...node, 'inject-error': [{ event: 'foo' }] }, "Parameter 'event' does not accept value 'foo'"],
    [
      { ...node, 'inject-error': [{ event: 'none', iotype: 'foo' }] },
      "Parameter 'iotype' does not accept value 'foo'",
    ],
    [
      { ...node, 'inject-error': [{ event: 'none', errno: 'a' }] },
      "Invalid parameter type for 'inject-error[0].errno', expected: integer",
    ],
    [
      { ...node, 'inject-error': [{ event: 'none', once: 'a' }] },
      "Invalid parameter type for 'inject-error[0].once', expected: boolean",
    ],
    [
      { ...node, 'inject-error': [{ event: 'none', foo: 1 }] },
      "Parameter 'inject-error[0].foo' is unexpected",
    ],
    [
      { ...node, 'inject-error': { event: 'none' } },
      "Invalid parameter type for 'inject-error', expected: array",
    ],
    [{ ...node, 'set-state': [{ event: 'none' }] }, "Parameter 'set-state[0].new_state' is missing"],
  ];
  for (const [args, text] of refused)
    assert.equal(await bare.failure('blockdev-add', args), `GenericError: ${text}`);
  await bare.execute('blockdev-add', {
    ...node,
    'inject-error': [{ event: 'none', once: true, 'delay-ms': 1 }],
  });
});
