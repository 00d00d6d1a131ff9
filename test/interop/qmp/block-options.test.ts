/**
 * Every option that QEMU 7.2 knows for a node of our drivers, tried out: honoured (what that means is tested where the
 * driver is), accepted because it has no meaning here, or refused by its name with a way out. The list of options is
 * QEMU's own, from query-qmp-schema.
 */
import assert from 'node:assert/strict';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { createQcow2 } from '../../../src/block/drivers/qcow2/create.ts';
import { BLOCKDEV_MEMBERS } from '../../../src/monitor/commands/blockdev-schema.ts';
import { NbdServer } from '../../../src/nbd/server.ts';
import { bareVm } from '../../helpers/bare-vm.ts';
import type { BareVm } from '../../helpers/bare-vm.ts';
import {
  CAPABILITIES,
  emptyImages,
  execute,
  qemuVersion,
  startBare,
  testFolder,
} from '../../helpers/bare-process.ts';
import { MemorySource } from '../../unit/nbd/support.ts';

/** What an option is tried with, and how it ends: null for success, otherwise the error. */
type Trial = readonly [value: unknown, outcome: RegExp | null];
type Trials = Readonly<Record<string, readonly Trial[]>>;

const yes = (...values: unknown[]): Trial[] => values.map((value) => [value, null]);
/** Honoured. */
const BASE: Trials = {
  driver: [['nosuch', /^Parameter 'driver' does not accept value 'nosuch'$/]],
  'node-name': yes('n'),
  discard: yes('ignore', 'unmap'),
  cache: [
    ...yes({ 'no-flush': true }, { direct: false, 'no-flush': false }),
    [{ direct: true }, /'cache.direct=on' is not supported; images use the host page cache/],
    [{ zig: true }, /cache/],
  ],
  'read-only': yes(true, false),
  'auto-read-only': yes(true, false),
  'force-share': [...yes(false), [true, /^force-share=on can only be used with read-only images$/]],
  'detect-zeroes': [
    ...yes('off', 'on'),
    ['unmap', /^setting detect-zeroes to unmap is not allowed without setting discard operation to unmap$/],
  ],
};
const FILE: Trials = {
  filename: yes('DIR/a.raw'),
  locking: yes('auto', 'on', 'off'),
  // How QEMU's requests reach the kernel, and what its migration needs: without a meaning here.
  aio: yes('threads', 'native', 'io_uring'),
  'aio-max-batch': yes(4),
  'drop-cache': yes(true, false),
  'x-check-cache-dropped': [...yes(false), [true, /^x-check-cache-dropped=on is not supported/]],
  'pr-manager': [['pr0', /^pr-manager is not supported by the 'file' driver/]],
};
const TRIALS: Readonly<Record<string, Trials>> = {
  file: FILE,
  host_device: FILE,
  raw: { file: yes({ driver: 'file', filename: 'DIR/b.raw' }, 'f'), offset: yes(512), size: yes(1024) },
  qcow2: {
    file: yes({ driver: 'file', filename: 'DIR/z.qcow2' }),
    backing: yes(null, 'f', { driver: 'null-co' }),
    // Tuning of QEMU's caches and of checks that are always made here.
    ...Object.fromEntries(
      ['lazy-refcounts', 'pass-discard-request', 'pass-discard-snapshot', 'pass-discard-other'].map((key) => [
        key,
        yes(true),
      ]),
    ),
    'overlap-check': yes('all', { template: 'cached' }),
    ...Object.fromEntries(
      ['cache-size', 'l2-cache-entry-size', 'refcount-cache-size', 'cache-clean-interval'].map((key) => [
        key,
        yes(65536),
      ]),
    ),
    'l2-cache-size': yes(65536),
    encrypt: [[{ format: 'luks', 'key-secret': 's' }, /^encrypt is not supported by the qcow2 driver/]],
    'data-file': [['f', /^data-file is not supported by the qcow2 driver/]],
  },
  nbd: {
    server: yes({ type: 'unix', path: 'DIR/nbd' }),
    export: [...yes('e'), ['zz', /^Requested export not available/]],
    'open-timeout': yes(1),
    'reconnect-delay': yes(0),
    'tls-creds': [['t', /tls/i]],
    // Without credentials it means nothing, in QEMU too.
    'tls-hostname': yes('h'),
    'x-dirty-bitmap': [['b', /^x-dirty-bitmap is not supported by the nbd driver/]],
  },
  quorum: {
    children: [
      ...yes(['f', { driver: 'null-co', size: 1 << 20 }]),
      [[], /^Number of provided children must be 1 or more$/],
    ],
    'vote-threshold': [...yes(1), [3, /^threshold may not exceed children count$/]],
    blkverify: yes(false, true),
    'rewrite-corrupted': yes(true),
    'read-pattern': yes('fifo', 'quorum'),
  },
  replication: {
    file: yes('f'),
    mode: [...yes('primary'), ['secondary', /^Missing the option top-id$/]],
    'top-id': [['t', /^The primary side does not support option top-id$/]],
  },
  'null-co': {
    size: yes(4096),
    'read-zeroes': yes(true),
    'latency-ns': [...yes(0), [5, /^latency-ns is not supported/]],
  },
};
const REQUIRED: Readonly<Record<string, object>> = {
  file: { filename: 'DIR/b.raw' },
  host_device: { filename: 'DIR/b.raw' },
  raw: { file: { driver: 'file', filename: 'DIR/b.raw' } },
  qcow2: { file: { driver: 'file', filename: 'DIR/z.qcow2' } },
  nbd: { server: { type: 'unix', path: 'DIR/nbd' }, export: 'e' },
  quorum: { children: ['f', { driver: 'null-co', size: 1 << 20 }], 'vote-threshold': 2 },
  replication: { file: 'f', mode: 'primary' },
  'null-co': {},
};

let home: string;
const cleaning: (() => unknown)[] = [];
before(async () => {
  home = await testFolder({ after: (clean) => void cleaning.push(clean as () => unknown) });
  await emptyImages(home);
  await createQcow2(path.join(home, 'z.qcow2'), { sizeBytes: 1 << 20 });
  const server = new NbdServer();
  cleaning.unshift(() => server.close());
  await server.listen({ path: path.join(home, 'nbd') });
  server.addExport({ name: 'e', source: new MemorySource(1 << 20), writable: true });
});
after(async () => {
  for (const clean of cleaning) await clean();
});

/** How blockdev-add ends; the node is taken away again. */
async function tryOptions(bare: BareVm, options: object): Promise<string | null> {
  const placed = JSON.parse(JSON.stringify(options).replaceAll('DIR', home)) as Record<string, unknown>;
  try {
    await bare.execute('blockdev-add', placed);
  } catch (error) {
    return (error as Error).message;
  }
  await bare.execute('blockdev-del', { 'node-name': placed['node-name'] });
  return null;
}

for (const [driver, own] of Object.entries(TRIALS)) {
  test(`options of ${driver}`, async (t) => {
    const bare = await bareVm(t);
    await bare.execute('blockdev-add', {
      ...{ driver: 'file', 'node-name': 'f', filename: path.join(home, 'a.raw') },
      locking: 'off',
    });
    const open = bare.vm.graph.list().nodes.length;
    for (const [option, trials] of Object.entries({ ...BASE, ...own })) {
      for (const [value, outcome] of trials) {
        const options = { driver, 'node-name': 'n', ...REQUIRED[driver], [option]: value };
        const error = await tryOptions(bare, options);
        const what = `${option}=${JSON.stringify(value)}: ${error ?? 'accepted'}`;
        if (outcome === null) assert.equal(error, null, what);
        else assert.match(error ?? '', outcome, what);
      }
    }
    assert.match(
      (await tryOptions(bare, { driver, 'node-name': 'n', ...REQUIRED[driver], zig: 1 })) ?? '',
      /zig/,
    );
    assert.equal(bare.vm.graph.list().nodes.length, open, 'nodes that were left behind');
  });
}

interface SchemaEntry {
  readonly name: string;
  readonly 'arg-type'?: string;
  readonly members?: readonly { readonly name: string }[];
  readonly variants?: readonly { readonly case: string; readonly type: string }[];
}

const skip = qemuVersion?.startsWith('7.2') === true ? false : 'QEMU 7.2 is not installed';
test('the options tried are all that QEMU 7.2 knows', { skip }, async (t) => {
  const qemu = await startBare(t, 'qemu', path.join(await testFolder(t), 'qemu'));
  await qemu.type(CAPABILITIES);
  const schema = new Map(
    ((await qemu.type(execute('query-qmp-schema'))) as SchemaEntry[]).map((entry) => [entry.name, entry]),
  );
  const argument = schema.get(schema.get('blockdev-add')?.['arg-type'] ?? '');
  const names = (entry: SchemaEntry | undefined): string[] =>
    (entry?.members ?? []).map(({ name }) => name).sort();
  assert.deepEqual(Object.keys(BASE).sort(), names(argument));
  for (const [driver, own] of Object.entries(TRIALS)) {
    const variant = argument?.variants?.find((one) => one.case === driver);
    const theirs = names(schema.get(variant?.type ?? ''));
    assert.ok(theirs.length > 0, driver);
    assert.deepEqual(Object.keys(own).sort(), theirs, driver);
    const checked = Object.keys(BLOCKDEV_MEMBERS[driver] ?? {}).filter((name) => name !== 'request-timeout');
    assert.deepEqual(checked.sort(), theirs, `${driver} in blockdev-schema.ts`);
  }
});
