import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { DeviceNotFoundError, ParameterError } from '../../../src/base/errors.ts';
import { DumpFilter } from '../../../src/net/filters/dump.ts';
import { Netdev } from '../../../src/net/netdev.ts';
import { createColoCompare, createFilter, setCompareProperty } from '../../../src/net/objects.ts';
import type { FilterType, NetObjectContext } from '../../../src/net/objects.ts';
import { udp } from './frames.ts';
import { MemoryChardev } from './memory-chardev.ts';

function setUp() {
  const netdevs = new Map(['hn0', 'hn1'].map((id) => [id, new Netdev({ id })]));
  const chardevs = new Map(['a', 'b', 'c', 'd'].map((id) => [id, new MemoryChardev(id)]));
  const owners = new Map<string, Netdev>();
  const context: NetObjectContext = {
    netdev: (id) => netdevs.get(id) ?? null,
    chardev: (id) => chardevs.get(id) ?? null,
    netdevOfFilter: (id) => owners.get(id) ?? null,
    hasIothread: (id) => id === 'iothread1',
  };
  const add = (type: FilterType, id: string, properties: Record<string, unknown>): Netdev => {
    const { netdev } = createFilter(type, id, properties, context);
    owners.set(id, netdev);
    return netdev;
  };
  return { context, chardevs, add };
}

test('the objects of the guide are made, at their places', () => {
  const { add, context } = setUp();
  add('filter-rewriter', 'rew0', { netdev: 'hn0', queue: 'all' });
  const front = { netdev: 'hn0', insert: 'before', position: 'id=rew0' };
  add('filter-mirror', 'm0', { ...front, queue: 'tx', outdev: 'a' });
  add('filter-redirector', 'redire0', { ...front, queue: 'rx', indev: 'b' });
  const netdev = add('filter-redirector', 'redire1', { ...front, queue: 'rx', outdev: 'c', status: 'off' });
  assert.deepEqual(
    netdev.filters.map((filter) => filter.id),
    ['m0', 'redire0', 'redire1', 'rew0'],
  );
  assert.deepEqual(netdev.filterById('redire1')?.properties(), {
    netdev: 'hn0',
    queue: 'rx',
    status: 'off',
    indev: '',
    outdev: 'c',
    vnet_hdr_support: false,
  });
  assert.throws(() => createFilter('filter-mirror', 'x', { netdev: 'hn0', outdev: 'a' }, context), {
    message: "chardev 'a' is already in use",
  });
});

const filterErrors: [FilterType, Record<string, unknown>, string][] = [
  ['filter-mirror', { outdev: 'a' }, "Parameter 'netdev' is missing"],
  ['filter-mirror', { netdev: 'zz', outdev: 'a' }, "Parameter 'netdev' expects a network backend id"],
  ['filter-mirror', { netdev: 'hn0' }, "Parameter 'outdev' is missing"],
  ['filter-mirror', { netdev: 'hn0', outdev: 'nope' }, "Device 'nope' not found"],
  [
    'filter-mirror',
    { netdev: 'hn0', outdev: 'a', queue: 'xx' },
    "Parameter 'queue' does not accept value 'xx'",
  ],
  [
    'filter-mirror',
    { netdev: 'hn0', outdev: 'a', status: 'maybe' },
    "Invalid value for netfilter status, should be 'on' or 'off'",
  ],
  [
    'filter-mirror',
    { netdev: 'hn0', outdev: 'a', position: 'nowhere' },
    "Parameter 'position' expects 'head', 'tail' or 'id=<id>'",
  ],
  ['filter-mirror', { netdev: 'hn0', outdev: 'a', position: 'id=zz' }, "filter 'zz' not found"],
  [
    'filter-mirror',
    { netdev: 'hn0', outdev: 'a', position: 'id=far' },
    "filter 'far' belongs to a different netdev",
  ],
  [
    'filter-mirror',
    { netdev: 'hn0', outdev: 'a', insert: 'after' },
    "Parameter 'insert' does not accept value 'after'",
  ],
  ['filter-mirror', { netdev: 'hn0', outdev: 'a', foo: '1' }, "Invalid parameter 'foo'"],
  [
    'filter-redirector',
    { netdev: 'hn0' },
    "filter redirector needs 'indev' or 'outdev' at least one property set",
  ],
  [
    'filter-redirector',
    { netdev: 'hn0', indev: 'a', outdev: 'a' },
    "'indev' and 'outdev' could not be same for filter redirector",
  ],
  ['filter-redirector', { netdev: 'hn0', indev: 'nope' }, "IN Device 'nope' not found"],
  ['filter-redirector', { netdev: 'hn0', outdev: 'nope' }, "OUT Device 'nope' not found"],
];

test('filters are refused with QEMU’s words, and leave nothing behind', () => {
  const { add, chardevs } = setUp();
  add('filter-rewriter', 'far', { netdev: 'hn1' });
  for (const [type, properties, message] of filterErrors) {
    assert.throws(
      () => add(type, 'x', properties),
      (error: Error) => {
        assert.equal(error.message, message);
        assert.ok(
          error instanceof
            (/[Nn]ot found$/.test(message) && /Device/.test(message) ? DeviceNotFoundError : ParameterError),
        );
        return true;
      },
    );
    assert.equal(chardevs.get('a')?.user, null, message);
  }
});

test('a filter that would make garbage of packets with vnet headers is refused', () => {
  const { context, chardevs } = setUp();
  const netdev = new Netdev({ id: 'v', vnetHeaderBytes: 12 });
  const withHeaders: NetObjectContext = { ...context, netdev: () => netdev };
  const all: [FilterType, Record<string, unknown>][] = [
    ['filter-mirror', { outdev: 'a' }],
    ['filter-redirector', { indev: 'b' }],
    ['filter-rewriter', {}],
  ];
  for (const [type, properties] of all) {
    const message = `the packets of netdev 'v' have vnet headers (vnet_hdr=on): ${type} and the comparer need vnet_hdr_support=on`;
    assert.throws(() => createFilter(type, 'x', { netdev: 'v', ...properties }, withHeaders), { message });
    createFilter(type, 'x', { netdev: 'v', vnet_hdr_support: 'on', ...properties }, withHeaders);
  }
  assert.equal(netdev.filters.length, 3);
  const { filter } = createFilter('filter-buffer', 'x', { netdev: 'v', interval: '1000' }, withHeaders);
  filter.close();
  assert.equal(chardevs.get('c')?.user, null);
});

const compare = { primary_in: 'a', secondary_in: 'b', outdev: 'c', iothread: 'iothread1' };
const compareErrors: [Record<string, unknown>, string][] = [
  [{ ...compare, iothread: undefined }, "Parameter 'iothread' is missing"],
  [{ ...compare, primary_in: undefined }, "Parameter 'primary_in' is missing"],
  [{ ...compare, iothread: 'nope' }, "Device 'nope' not found"],
  [{ ...compare, secondary_in: 'nope' }, "Device 'nope' not found"],
  [{ ...compare, outdev: 'a' }, "'indev' and 'outdev' could not be same for compare module"],
  [{ ...compare, compare_timeout: 0 }, "Property 'colo-compare.compare_timeout' requires a positive value"],
  [
    { ...compare, expired_scan_cycle: '0' },
    "Property 'colo-compare.expired_scan_cycle' requires a positive value",
  ],
  [{ ...compare, max_queue_size: -1 }, "Parameter 'max_queue_size' expects uint32_t"],
  [{ ...compare, vnet_hdr_support: 'perhaps' }, "Parameter 'vnet_hdr_support' expects 'on' or 'off'"],
];

test('colo-compare has QEMU’s defaults, limits and words', () => {
  const { context, chardevs } = setUp();
  for (const [properties, message] of compareErrors) {
    assert.throws(() => createColoCompare('comp0', properties, context), { message });
    assert.equal(chardevs.get('a')?.user, null, message);
  }
  const comparer = createColoCompare('comp0', { ...compare, compare_timeout: '2500' }, context);
  try {
    assert.deepEqual(comparer.properties(), {
      ...compare,
      notify_dev: '',
      vnet_hdr_support: false,
      compare_timeout: 2500,
      expired_scan_cycle: 1000,
      max_queue_size: 1024,
    });
    setCompareProperty(comparer, 'max_queue_size', 7);
    assert.equal(comparer.maxQueueSize, 7);
    assert.throws(() => setCompareProperty(comparer, 'compare_timeout', 0), /requires a positive value/);
  } finally {
    comparer.close();
  }
});

test('filter-dump writes a capture file', async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-dump-'));
  try {
    const file = path.join(folder, 'x.pcap');
    const filter = new DumpFilter('d', { queue: 'all', enabled: true, file, maxBytes: 40 });
    filter.receive(udp('hello'));
    filter.close();
    await filter.finished;
    const bytes = await readFile(file);
    assert.equal(bytes.subarray(0, 8).toString('hex'), 'd4c3b2a102000400');
    assert.deepEqual([bytes.readUInt32LE(20), bytes.readUInt32LE(32), bytes.readUInt32LE(36)], [1, 40, 47]);
    assert.deepEqual(bytes.subarray(40), Buffer.from(udp('hello').subarray(0, 40)));
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('filter-buffer holds packets until its interval has passed, and lets go when turned off', (t) => {
  t.mock.timers.enable({ apis: ['setInterval'] });
  const { add } = setUp();
  const netdev = add('filter-buffer', 'buf', { netdev: 'hn0', queue: 'rx', interval: 2000 });
  const wire: string[] = [];
  netdev.wire = (frame) => wire.push(Buffer.from(frame).toString());
  netdev.guest = () => undefined;
  netdev.sendFromGuest(Buffer.from('1'));
  assert.deepEqual(wire, []);
  t.mock.timers.tick(2);
  assert.deepEqual(wire, ['1']);
  netdev.sendFromGuest(Buffer.from('2'));
  netdev.filterById('buf')!.enabled = false;
  assert.deepEqual(wire, ['1', '2']);
  netdev.filterById('buf')!.close();
});
