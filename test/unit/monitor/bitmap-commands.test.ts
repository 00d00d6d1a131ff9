// block-dirty-bitmap-*: QEMU 7.2's texts, and what query-block shows.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bareVm } from '../../helpers/bare-vm.ts';
import type { BareVm } from '../../helpers/bare-vm.ts';

const MIB = 1 << 20;

async function addNode(bare: BareVm, name: string, size = MIB): Promise<void> {
  await bare.execute('blockdev-add', { driver: 'null-co', 'node-name': name, size });
}

async function shown(bare: BareVm, name: string): Promise<unknown> {
  const nodes = (await bare.execute('query-named-block-nodes')) as Record<string, unknown>[];
  return nodes.find((node) => node['node-name'] === name)?.['dirty-bitmaps'];
}

test('bitmaps are refused, made, listed and removed as QEMU does it', async (t) => {
  const bare = await bareVm(t);
  await addNode(bare, 'n');
  await addNode(bare, 'small', MIB / 2);
  const granularity = 'GenericError: Granularity must be power of 2 and at least 512';
  const cases: [string, Record<string, unknown>, string | null][] = [
    ['add', { node: 'nope', name: 'x' }, "GenericError: Cannot find device='nope' nor node-name='nope'"],
    ['add', { node: 'n', name: '' }, 'GenericError: Bitmap name cannot be empty'],
    ['add', { node: 'n', name: 'x', granularity: 1000 }, granularity],
    ['add', { node: 'n', name: 'x', granularity: 256 }, granularity],
    [
      'add',
      { node: 'n', name: 'x', granularity: 2 ** 32 },
      "GenericError: Parameter 'granularity' expects uint32_t",
    ],
    [
      'add',
      { node: 'n', name: 'x', persistent: true },
      "GenericError: Can't store persistent bitmaps to n: Operation not supported",
    ],
    ['add', { node: 'n', name: 'x', granularity: 2 ** 31 }, null],
    ['add', { node: 'n', name: 'x' }, 'GenericError: Bitmap already exists: x'],
    ['add', { node: 'n', name: 'é'.repeat(512) }, `GenericError: Bitmap name too long: ${'é'.repeat(512)}`],
    ['add', { node: 'n', name: 'off', granularity: 4096, disabled: true }, null],
    ['add', { node: 'small', name: 's' }, null],
    ['remove', { node: 'n', name: 'nope' }, "GenericError: Dirty bitmap 'nope' not found"],
    ['clear', { node: 'n', name: 'nope' }, "GenericError: Dirty bitmap 'nope' not found"],
    ['enable', { node: 'n', name: 'off' }, null],
    ['disable', { node: 'n', name: 'off' }, null],
    [
      'merge',
      { node: 'n', target: 'x', bitmaps: ['off', 'nope'] },
      "GenericError: Dirty bitmap 'nope' not found",
    ],
    ['merge', { node: 'n', target: 'nope', bitmaps: ['off'] }, "GenericError: Dirty bitmap 'nope' not found"],
    ['merge', { node: 'n', target: 'x', bitmaps: ['off', 'x'] }, null],
    ['merge', { node: 'n', target: 'x', bitmaps: [] }, null],
    [
      'merge',
      { node: 'n', target: 'x', bitmaps: [{ node: 'small', name: 's' }] },
      'GenericError: Bitmaps are of different sizes (destination size is 1048576, source size is 524288) ' +
        "and can't be merged",
    ],
    ['clear', { node: 'n', name: 'x' }, null],
  ];
  for (const [verb, args, failure] of cases) {
    if (failure === null) await bare.execute(`block-dirty-bitmap-${verb}`, args);
    else assert.equal(await bare.failure(`block-dirty-bitmap-${verb}`, args), failure, JSON.stringify(args));
  }
  const common = { busy: false, persistent: false, count: 0 };
  assert.deepEqual(await shown(bare, 'n'), [
    { ...common, name: 'off', granularity: 4096, recording: false },
    { ...common, name: 'x', granularity: 2 ** 31, recording: true },
  ]);
  await bare.execute('block-dirty-bitmap-remove', { node: 'small', name: 's' });
  assert.equal(await shown(bare, 'small'), undefined);
});

test('writes show up as dirty bytes, also in the bitmap that they are merged into', async (t) => {
  const bare = await bareVm(t);
  await addNode(bare, 'n');
  for (const [name, granularity] of [
    ['fine', 512],
    ['coarse', 65536],
  ]) {
    await bare.execute('block-dirty-bitmap-add', { node: 'n', name, granularity });
  }
  await bare.execute('block-dirty-bitmap-add', { node: 'n', name: 'sum', granularity: 4096, disabled: true });
  const node = bare.vm.graph.require('n');
  await node.write(65530, new Uint8Array(12));
  await node.writeZeroes(MIB - 512, 512);
  const counts = async (): Promise<Record<string, number>> =>
    Object.fromEntries(
      ((await shown(bare, 'n')) as { name: string; count: number }[]).map(({ name, count }) => [name, count]),
    );
  assert.deepEqual(await counts(), { fine: 3 * 512, coarse: 3 * 65536, sum: 0 });
  await bare.execute('block-dirty-bitmap-merge', {
    node: 'n',
    target: 'sum',
    bitmaps: ['fine', { node: 'n', name: 'fine' }],
  });
  await bare.execute('block-dirty-bitmap-clear', { node: 'n', name: 'fine' });
  assert.deepEqual(await counts(), { fine: 0, coarse: 3 * 65536, sum: 3 * 4096 });
});

test('the number and the memory of bitmaps are bounded', async (t) => {
  const bare = await bareVm(t);
  await addNode(bare, 'n', 2 ** 41);
  const add = { node: 'n', name: 'x', granularity: 512 };
  assert.equal(
    await bare.failure('block-dirty-bitmap-add', add),
    'GenericError: The bitmaps of one node may take 67108864 bytes; use a larger granularity',
  );
  for (let at = 0; at < 32; at++) {
    await bare.execute('block-dirty-bitmap-add', { node: 'n', name: `b${at}`, granularity: 2 ** 30 });
  }
  assert.match(await bare.failure('block-dirty-bitmap-add', { node: 'n', name: 'x' }), /32 bitmaps already/);
});

test('a mirror by bitmap is asked for as a backup is in QEMU', async (t) => {
  const bare = await bareVm(t);
  for (const [name, size] of [
    ['n', MIB],
    ['copy', MIB],
  ] as const) {
    await bare.execute('blockdev-add', { driver: 'memory', 'node-name': name, size });
  }
  await bare.execute('block-dirty-bitmap-add', { node: 'n', name: 'x' });
  await bare.execute('block-dirty-bitmap-add', { node: 'n', name: 'off', disabled: true });
  const mirror = { device: 'n', target: 'copy', 'job-id': 'j' };
  const cases: [Record<string, unknown>, string][] = [
    [{ sync: 'bitmap' }, "Sync mode 'bitmap' not supported"],
    [{ sync: 'bitmap', bitmap: 'x' }, 'Bitmap sync mode must be given when providing a bitmap'],
    [{ sync: 'bitmap', bitmap: 'nope', 'bitmap-mode': 'never' }, "Bitmap 'nope' could not be found"],
    [
      { sync: 'incremental', bitmap: 'x', 'bitmap-mode': 'never' },
      "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'",
    ],
    [
      { sync: 'full', bitmap: 'x', 'bitmap-mode': 'never' },
      "A mirror with sync mode 'full' uses no bitmap; use sync mode 'bitmap'",
    ],
    [
      { sync: 'incremental', bitmap: 'off' },
      "Bitmap 'off' is disabled, so it does not know every change; a mirror needs one that records",
    ],
  ];
  for (const [args, text] of cases) {
    assert.equal(
      await bare.failure('blockdev-mirror', { ...mirror, ...args }),
      `GenericError: ${text}`,
      JSON.stringify(args),
    );
  }
  assert.equal(
    await bare.failure('drive-mirror', {
      ...mirror,
      target: '/nonexistent',
      sync: 'incremental',
      bitmap: 'x',
    }),
    "GenericError: A mirror by bitmap needs a target that holds the rest already; use mode 'existing'",
  );
  await bare.execute('blockdev-mirror', { ...mirror, sync: 'incremental', bitmap: 'x' });
  assert.equal(
    await bare.failure('block-dirty-bitmap-clear', { node: 'n', name: 'x' }),
    "GenericError: Bitmap 'x' is currently in use by another operation and cannot be used",
  );
  const job = bare.vm.jobs.find('j');
  await job?.becameReady;
  await bare.execute('block-job-cancel', { device: 'j' });
  await job?.ended;
  await bare.execute('block-dirty-bitmap-clear', { node: 'n', name: 'x' });
});

test('what the peer lacks goes with the device when a mirror is completed', async (t) => {
  const bare = await bareVm(t, '-drive if=none,id=d0,driver=memory,size=1048576,node-name=old');
  await bare.execute('blockdev-add', { driver: 'memory', 'node-name': 'new', size: MIB });
  await bare.execute('block-dirty-bitmap-add', { node: 'd0', name: 'parted' });
  await bare.vm.graph.require('d0').write(0, new Uint8Array(512));
  await bare.execute('blockdev-mirror', { device: 'd0', target: 'new', 'job-id': 'j', sync: 'full' });
  const job = bare.vm.jobs.find('j');
  await job?.becameReady;
  await bare.execute('block-job-complete', { device: 'j' });
  await job?.ended;
  assert.equal(bare.vm.graph.require('d0').nodeName, 'new');
  const parted = { name: 'parted', count: 65536, granularity: 65536 };
  assert.deepEqual(await shown(bare, 'new'), [
    { ...parted, recording: true, busy: false, persistent: false },
  ]);
});

test('when replication ends, the disk above it gets a bitmap, wherever the node was when it began', async (t) => {
  const bare = await bareVm(t);
  for (const name of ['disk', 'far'])
    await bare.execute('blockdev-add', { driver: 'memory', 'node-name': name, size: MIB });
  const quorum = { driver: 'quorum', 'vote-threshold': 1, 'read-pattern': 'fifo', children: ['disk'] };
  await bare.execute('blockdev-add', { ...quorum, 'node-name': 'q' });
  await bare.execute('blockdev-add', {
    driver: 'replication',
    mode: 'primary',
    file: 'far',
    'node-name': 'replication0',
  });
  await bare.execute('xen-set-replication', { enable: true, primary: true });
  await bare.execute('x-blockdev-change', { parent: 'q', node: 'replication0' });
  const q = bare.vm.graph.require('q');
  await q.write(0, new Uint8Array(512));
  await q.flush();
  await q.write(65536, new Uint8Array(512));
  assert.equal(await shown(bare, 'q'), undefined);
  await bare.execute('x-blockdev-change', { parent: 'q', child: 'children.1' });
  await bare.execute('query-xen-replication-status');
  await bare.execute('xen-set-replication', { enable: false, primary: true });
  await q.write(3 * 65536, new Uint8Array(512));
  const parted = { name: 'parted', count: 2 * 65536, granularity: 65536 };
  assert.deepEqual(await shown(bare, 'q'), [{ ...parted, recording: true, busy: false, persistent: false }]);
  assert.equal(await shown(bare, 'replication0'), undefined);
});
