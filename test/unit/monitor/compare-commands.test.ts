// query-colo-compare, `info colo-compare` and COLO_COMPARE_REQUEST: the shape of what is told, and that it is what happened.
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { FrameSocket } from '../../interop/net/qemu.ts';
import { bareVm } from '../../helpers/bare-vm.ts';
import type { BareVm } from '../../helpers/bare-vm.ts';
import { PROTOCOL } from '../../../src/net/packet.ts';
import { ipv6, tcp, udp, vlan } from '../net/frames.ts';

interface Peers {
  readonly bare: BareVm;
  readonly primary: FrameSocket;
  readonly secondary: FrameSocket;
  readonly out: FrameSocket;
  readonly notify: FrameSocket;
}

/** A comparer with its four sockets, and a COLO frame of the test's behind notify_dev. */
async function comparer(t: TestContext): Promise<Peers> {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-query-'));
  t.after(() => rm(folder, { recursive: true }));
  const ids = ['p', 's', 'o', 'n'];
  const chardevs = ids.map((id) => `-chardev socket,id=${id},path=${folder}/${id},server=on,wait=off`);
  const compare =
    '-object colo-compare,id=comp0,primary_in=p,secondary_in=s,outdev=o,notify_dev=n,iothread=io,' +
    'compare_timeout=60000,max_queue_size=4';
  const bare = await bareVm(t, [...chardevs, '-object iothread,id=io', compare].join(' '));
  const [primary, secondary, out, notify] = (await Promise.all(
    ids.map((id) => FrameSocket.connect(path.join(folder, id))),
  )) as [FrameSocket, FrameSocket, FrameSocket, FrameSocket];
  t.after(() => [primary, secondary, out, notify].forEach((socket) => socket.close()));
  return { bare, primary, secondary, out, notify };
}

type Counts = Record<string, number>;
interface Report {
  requests: Counts;
  frames: Counts;
  bytes: Counts;
  held: Counts;
  'held-us': Record<string, Counts>;
}

async function report({ bare }: Peers): Promise<Report> {
  const [first] = (await bare.execute('query-colo-compare')) as Report[];
  assert.ok(first);
  return first;
}

/** Every member's name, however deep. */
function members(value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return [];
  if (Array.isArray(value)) return value.flatMap(members);
  return Object.entries(value).flatMap(([name, member]) => [name, ...members(member)]);
}

test('query-colo-compare: nothing without a comparer, zeros for a new one', async (t) => {
  const bare = await bareVm(t);
  assert.deepEqual(await bare.execute('query-colo-compare'), []);
  assert.equal(
    await bare.failure('query-colo-compare', { id: 'comp0' }),
    "GenericError: Parameter 'id' is unexpected",
  );
  const none = { count: 0, p50: 0, p90: 0, p99: 0, p999: 0, max: 0 };
  const peers = await comparer(t);
  assert.deepEqual(await peers.bare.execute('query-colo-compare'), [
    {
      id: 'comp0',
      mode: 'comparing',
      requests: {
        total: 0,
        payload: 0,
        length: 0,
        timeout: 0,
        'queue-full': 0,
        'new-connection': 0,
        protocol: 0,
        ack: 0,
      },
      frames: {
        'primary-in': 0,
        'secondary-in': 0,
        released: 0,
        'released-by-checkpoint': 0,
        repeated: 0,
        forwarded: 0,
        'dropped-primary': 0,
        'dropped-secondary': 0,
        stale: 0,
        ignored: 0,
        'zero-length': 0,
        lost: 0,
      },
      bytes: { 'primary-in': 0, 'secondary-in': 0, released: 0 },
      held: {
        connections: 0,
        'evicted-connections': 0,
        'primary-packets': 0,
        'primary-bytes': 0,
        'secondary-packets': 0,
        'secondary-bytes': 0,
      },
      limits: { connections: 16_384, packets: 4, bytes: 64 * 1024 * 1024 },
      'held-us': { 'by-comparison': none, 'by-checkpoint': none, recent: { count: 0, p50: 0, p99: 0 } },
    },
  ]);
  // QEMU's rule for names (docs/devel/qapi-code-gen).
  for (const name of members(await peers.bare.execute('query-colo-compare'))) {
    assert.match(name, /^[a-z][a-z0-9]*(-[a-z0-9]+)*$/);
  }
  await peers.bare.execute('object-del', { id: 'comp0' });
  assert.deepEqual(await peers.bare.execute('query-colo-compare'), []);
});

test('query-colo-compare: counts what happened, and COLO_COMPARE_REQUEST says why', async (t) => {
  const peers = await comparer(t);
  const { bare, primary, secondary, out, notify } = peers;
  // The server side may take a connection a moment later than connect tells.
  primary.send(udp('same'));
  secondary.send(udp('same'));
  await out.until((frames) => frames.length === 1, 'the first packet');
  primary.send(tcp({ seq: 100, ack: 1, payload: 'abc' }));
  secondary.send(tcp({ seq: 100, ack: 1, payload: 'abX' }));
  await notify.until((frames) => frames.length === 1, 'the request');

  const before = await report(peers);
  const [said, sent] = [udp('same').length, tcp({ seq: 100, ack: 1, payload: 'abc' }).length];
  assert.deepEqual(before.bytes, { 'primary-in': said + sent, 'secondary-in': said + sent, released: said });
  assert.equal(before['held-us']['recent']?.['count'], 1);
  assert.deepEqual(before.held, {
    connections: 2,
    'evicted-connections': 0,
    'primary-packets': 1,
    'primary-bytes': before.held['primary-bytes'],
    'secondary-packets': 1,
    'secondary-bytes': before.held['secondary-bytes'],
  });
  assert.ok(before.held['primary-bytes']! >= tcp({ payload: 'abc' }).length);
  assert.ok(before.held['secondary-bytes']! >= 3);
  assert.deepEqual([before.requests['total'], before.requests['payload']], [1, 1]);

  const [event, ...more] = bare.events.filter((candidate) => candidate.event === 'COLO_COMPARE_REQUEST');
  assert.equal(more.length, 0);
  assert.deepEqual(event?.data, {
    id: 'comp0',
    cause: 'payload',
    flow: {
      protocol: 'tcp',
      source: { host: '10.0.2.15', port: '80' },
      destination: { host: '10.0.2.2', port: '40000' },
    },
    difference: {
      'packet-offset': 56,
      'payload-offset': 2,
      'primary-byte': 'c'.charCodeAt(0),
      'secondary-byte': 'X'.charCodeAt(0),
    },
  });

  notify.send(Buffer.from('COLO_CHECKPOINT'));
  await out.until((frames) => frames.length === 2, 'the flush');
  const after = await report(peers);
  const { released, 'released-by-checkpoint': byCheckpoint } = after.frames;
  assert.deepEqual([released, byCheckpoint], [1, 1]);
  assert.deepEqual([after.frames['primary-in'], after.frames['secondary-in']], [2, 2]);
  assert.deepEqual(
    [after.held['primary-packets'], after.held['primary-bytes'], after.held['secondary-bytes']],
    [0, 0, 0],
  );
  const held = after['held-us'];
  assert.deepEqual([held['by-comparison']!['count'], held['by-checkpoint']!['count']], [1, 1]);
  assert.ok(held['by-checkpoint']!['max']! > 0);

  const text = String(
    await bare.execute('human-monitor-command', { 'command-line': 'info colo-compare' }),
  ).split('\r\n');
  assert.equal(text[0], 'comp0: comparing');
  assert.match(text[1] ?? '', /^ +requests: total 1, payload 1, length 0, /);
  assert.match(
    text[2] ?? '',
    /^ +frames: primary-in 2, secondary-in 2, released 1, released-by-checkpoint 1, /,
  );
});

test('COLO_COMPARE_REQUEST: a flow of IPv6 in a VLAN', async (t) => {
  const { bare, primary, secondary, notify } = await comparer(t);
  const frame = (text: string): Uint8Array => vlan(5, ipv6(PROTOCOL.UDP, udp(text).subarray(34)));
  primary.send(frame('mine'));
  secondary.send(frame('mind'));
  await notify.until((frames) => frames.length === 1, 'the request');
  const event = bare.events.find((candidate) => candidate.event === 'COLO_COMPARE_REQUEST');
  assert.deepEqual(event?.data, {
    id: 'comp0',
    cause: 'payload',
    flow: {
      protocol: 'udp',
      source: { host: 'fd00::f', port: '53' },
      destination: { host: 'fd00::2', port: '5000' },
      vlans: [5],
    },
    difference: {
      // Ethernet, the tag, IPv6, UDP, and three letters.
      'packet-offset': 14 + 4 + 40 + 8 + 3,
      'payload-offset': 8 + 3,
      'primary-byte': 'e'.charCodeAt(0),
      'secondary-byte': 'd'.charCodeAt(0),
    },
  });
});

test('COLO_COMPARE_REQUEST: one a second for each comparer; a full queue has no difference to show', async (t) => {
  const peers = await comparer(t);
  const { bare, primary, notify } = peers;
  for (let id = 0; id < 5; id++) primary.send(udp(`unanswered ${id}`));
  await notify.until((frames) => frames.length === 1, 'the request');
  const events = bare.events.filter(({ event }) => event === 'COLO_COMPARE_REQUEST');
  assert.deepEqual(
    events.map(({ data }) => data),
    [
      {
        id: 'comp0',
        cause: 'queue-full',
        flow: {
          protocol: 'udp',
          source: { host: '10.0.2.15', port: '53' },
          destination: { host: '10.0.2.2', port: '5000' },
        },
      },
    ],
  );
  assert.equal((await report(peers)).frames['dropped-primary'], 1);
});
