// query-colo-traffic and query-colo-checkpoints with `after`: what is counted is what has gone over the wire.
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { FrameSocket } from '../../interop/net/qemu.ts';
import { bareVm } from '../../helpers/bare-vm.ts';
import type { CheckpointRecord } from '../../../src/checkpoint/guest.ts';
import { udp } from '../net/frames.ts';

interface Traffic {
  readonly filters: readonly Readonly<Record<string, unknown>>[];
  readonly replication: readonly Readonly<Record<string, unknown>>[];
  readonly channel?: unknown;
}

const nothing = { 'frames-out': 0, 'bytes-out': 0, 'frames-lost': 0, 'frames-in': 0, 'bytes-in': 0 };

test('query-colo-traffic: the filters count frames and bytes, those that were lost, and those that came in', async (t) => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-traffic-'));
  t.after(() => rm(folder, { recursive: true }));
  const listener = (id: string): string => `-chardev socket,id=${id},path=${folder}/${id},server=on,wait=off`;
  const bare = await bareVm(
    t,
    `-netdev stream,id=n0,server=on,addr.type=unix,addr.path=${folder}/n0 -netdev hubport,id=h0,hubid=0,netdev=n0 ${listener('m')} ${listener('i')} ` +
      '-object filter-mirror,id=m0,netdev=n0,queue=tx,outdev=m ' +
      '-object filter-redirector,id=r0,netdev=n0,queue=rx,indev=i',
  );
  const traffic = async (): Promise<Traffic> => (await bare.execute('query-colo-traffic')) as Traffic;
  const filter = async (id: string): Promise<unknown> => {
    const found = (await traffic()).filters.find((one) => one['id'] === id);
    return Object.fromEntries(Object.keys(nothing).map((name) => [name, found?.[name]]));
  };
  assert.deepEqual(await traffic(), {
    filters: [
      { id: 'm0', 'qom-type': 'filter-mirror', netdev: 'n0', ...nothing },
      { id: 'r0', 'qom-type': 'filter-redirector', netdev: 'n0', ...nothing },
    ],
    replication: [],
  });

  const network = await FrameSocket.connect(path.join(folder, 'n0'));
  t.after(() => network.close());
  const frame = udp('to the guest');
  const settled = async (id: string, counts: object): Promise<void> => {
    for (;;) {
      if (JSON.stringify(await filter(id)) === JSON.stringify({ ...nothing, ...counts })) return;
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  network.send(frame);
  await settled('m0', { 'frames-lost': 1 });
  const copies = await FrameSocket.connect(path.join(folder, 'm'));
  t.after(() => copies.close());
  network.send(frame);
  await copies.until((frames) => frames.length === 1, 'the copy');
  await settled('m0', { 'frames-out': 1, 'bytes-out': frame.length, 'frames-lost': 1 });

  const compared = await FrameSocket.connect(path.join(folder, 'i'));
  t.after(() => compared.close());
  compared.send(frame);
  await network.until((frames) => frames.length === 1, 'the packet that was let out');
  await settled('r0', { 'frames-in': 1, 'bytes-in': frame.length });
});

test('query-colo-checkpoints: `after` a count come only those that are new', async (t) => {
  const bare = await bareVm(t);
  const { stats } = bare.vm.migration;
  const record = (sequence: number): CheckpointRecord => ({
    ...{ sequence, cause: 'timer' as const, atMs: 1_790_000_000_000 + sequence, pauseMs: 9 },
    ...{ heldMs: 30, totalMs: 40, pages: 12, bytes: 50_000 },
  });
  // A secondary was lost after the third: the next one's are numbered from 1 again. The first is not kept any more.
  stats.count = 5;
  stats.records.push(record(2), record(3), record(1), record(2));
  stats.loadsMs.push(4);
  const sequences = async (args?: object): Promise<number[]> => {
    const reply = (await bare.execute('query-colo-checkpoints', args)) as { records: { sequence: number }[] };
    return reply.records.map(({ sequence }) => sequence);
  };
  assert.deepEqual(await sequences(), [2, 3, 1, 2]);
  assert.deepEqual(await sequences({ after: 0 }), [2, 3, 1, 2]);
  assert.deepEqual(await sequences({ after: 1 }), [2, 3, 1, 2]);
  assert.deepEqual(await sequences({ after: 3 }), [1, 2]);
  assert.deepEqual(await sequences({ after: 5 }), []);
  assert.deepEqual(await sequences({ after: 999 }), []);
  const byCause = { timer: 0, mismatch: 0, parameter: 0, request: 0 };
  assert.deepEqual(await bare.execute('query-colo-checkpoints', { after: 4 }), {
    count: 5,
    'by-cause': byCause,
    records: [record(2)],
  });
  assert.match(
    await bare.failure('query-colo-checkpoints', { after: -1 }),
    /'after' expects an integer in the range/,
  );
  assert.match(await bare.failure('query-colo-checkpoints', { after: 'x' }), /'after' expects uint64/);
});
