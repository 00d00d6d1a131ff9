/** The library at its borders: what is handed in wrong is refused by name, and nothing breaks by it. */
import assert from 'node:assert/strict';
import { mkdtemp, open, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { PacketComparer, encodeFrame, readFrames } from '../../../src/lib/compare.ts';
import type { CheckpointNeed } from '../../../src/lib/compare.ts';
import { NbdClient, NbdServer, openFile } from '../../../src/lib/nbd.ts';
import { Qcow2 } from '../../../src/lib/qcow2.ts';
import { DeviceNotFoundError, QmpClient, QmpCommandError, QmpServer } from '../../../src/lib/qmp.ts';

async function folder(t: TestContext): Promise<string> {
  const made = await mkdtemp(path.join(tmpdir(), 'colo-lib-'));
  t.after(() => rm(made, { recursive: true, force: true }));
  return made;
}

function udp(text: string): Buffer {
  const frame = Buffer.alloc(42 + text.length);
  frame.set([0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 8, 0]);
  frame.set([0x45, 0, 0, 28 + text.length, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2], 14);
  frame.set([0, 7, 0, 9, 0, 8 + text.length, 0, 0], 34);
  frame.write(text, 42);
  return frame;
}

test('qcow2: sizes out of range are refused before anything is written', async (t) => {
  const image = path.join(await folder(t), 'a.qcow2');
  for (const sizeBytes of [-1, 1.5, NaN, 2 ** 60]) {
    await assert.rejects(Qcow2.create(image, { sizeBytes }), { name: 'ParameterError' });
  }
  for (const clusterBytes of [0, 256, 1000, 2 ** 22, NaN]) {
    await assert.rejects(Qcow2.create(image, { sizeBytes: 512, clusterBytes }), { name: 'ParameterError' });
  }
  await assert.rejects(Qcow2.open(image), { name: 'ColoError', message: /No such file/ });
});

test('qcow2: a read-only image takes no change, and requests outside of it fail', async (t) => {
  const path_ = path.join(await folder(t), 'a.qcow2');
  await Qcow2.create(path_, { sizeBytes: 1000, clusterBytes: 512 });
  const image = await Qcow2.open(path_, { readOnly: true });
  t.after(() => image.close());
  assert.deepEqual([image.lengthBytes, image.readOnly, image.clusterBytes], [1024, true, 512]);
  await assert.rejects(image.write(0, Buffer.alloc(1)), { errno: 'EPERM' });
  await assert.rejects(image.grow(2048), { errno: 'EPERM' });
  await assert.rejects(image.read(1020, Buffer.alloc(8)), { errno: 'EINVAL' });
  await image.close();
  await image.close();
  await assert.rejects(image.read(0, Buffer.alloc(8)), { errno: 'ESHUTDOWN' });
});

test('qcow2: one writer at a time, and no check beside it', async (t) => {
  const file = path.join(await folder(t), 'a.qcow2');
  await Qcow2.create(file, { sizeBytes: 65_536 });
  const image = await Qcow2.open(file);
  t.after(() => image.close());
  await assert.rejects(Qcow2.open(file), /lock/);
  await assert.rejects(Qcow2.check(file), /lock/);
  await assert.rejects(Qcow2.create(file, { sizeBytes: 512 }), /lock/);
});

test('qcow2: a backing file that is not opened reads as zeros', async (t) => {
  const dir = await folder(t);
  await writeFile(path.join(dir, 'base.raw'), 'x'.repeat(512));
  const file = path.join(dir, 'a.qcow2');
  await Qcow2.create(file, { sizeBytes: 512, backing: { file: 'base.raw', format: 'raw' } });
  for (const [openBacking, byte] of [
    [true, 0x78],
    [false, 0],
  ] as const) {
    const image = await Qcow2.open(file, { readOnly: true, openBacking });
    const byteRead = Buffer.alloc(1, 1);
    await image.read(511, byteRead);
    assert.equal(byteRead[0], byte);
    assert.equal(image.backingFile, 'base.raw');
    await image.close();
  }
});

test('qcow2: leaks are found and given back; a file of another format is no image', async (t) => {
  const dir = await folder(t);
  const file = path.join(dir, 'a.qcow2');
  await Qcow2.create(file, { sizeBytes: 65_536 });
  const image = await Qcow2.open(file);
  await image.write(0, Buffer.from('kept'));
  await image.discard(0, 65_536);
  assert.deepEqual(await image.blockStatus(0, 65_536), [
    { offset: 0, length: 65_536, zero: true, data: false, allocated: false },
  ]);
  await image.close();
  // One reference too many, to a cluster behind the others; the refcount block is the third cluster.
  const handle = await open(file, 'r+');
  await handle.truncate(7 * 65_536);
  await handle.write(Buffer.from([0, 1]), 0, 2, 2 * 65_536 + 6 * 2);
  await handle.close();
  const before = await Qcow2.check(file);
  assert.deepEqual([before.errors, before.leaks, before.messages.length], [0, 1, 1]);
  const after = await Qcow2.check(file, { repair: 'leaks' });
  assert.deepEqual([after.errors, after.leaks, after.leaksFixed], [0, 0, 1]);
  const raw = path.join(dir, 'b.raw');
  await writeFile(raw, '');
  await truncate(raw, 4096);
  await assert.rejects(Qcow2.open(raw), { name: 'ColoError', message: /b\.raw/ });
  await assert.rejects(Qcow2.check(raw), { name: 'ColoError', message: /b\.raw/ });
});

test('nbd: a qcow2 image is a source as it is, and so is a file', async (t) => {
  const dir = await folder(t);
  const file = path.join(dir, 'a.qcow2');
  await Qcow2.create(file, { sizeBytes: 2 ** 20 });
  await writeFile(path.join(dir, 'b.raw'), 'b'.repeat(1024));
  const image = await Qcow2.open(file);
  const raw = await openFile(path.join(dir, 'b.raw'), { readOnly: true });
  const server = new NbdServer();
  t.after(() => server.close());
  server.addExport({ name: 'image', source: image, writable: true });
  server.addExport({ name: 'raw', source: raw, writable: true });
  const address = await server.listen({ path: path.join(dir, 's') });
  const client = await NbdClient.connect(address, { exportName: 'image' });
  await client.write(1000, Buffer.from('through'), { fua: true });
  const read = Buffer.alloc(7);
  await image.read(1000, read);
  assert.equal(read.toString(), 'through');
  await client.close();
  const other = await NbdClient.connect(address, { exportName: 'raw' });
  assert.deepEqual([other.readOnly, other.lengthBytes], [true, 1024]);
  await other.close();
  await server.close();
  await raw.close();
  await image.close();
});

test('qmp: a command that throws is answered with its class, sooner or later', async (t) => {
  const server = new QmpServer({
    version: { qemu: { major: 7, minor: 2, micro: 0 }, package: '' },
    execute: (command) => {
      if (command === 'early') throw new DeviceNotFoundError('no such thing');
      if (command === 'late') return Promise.reject(new DeviceNotFoundError('no such thing'));
      return undefined;
    },
  });
  t.after(() => server.close());
  const client = await QmpClient.connect(await server.listen({ path: path.join(await folder(t), 'q') }));
  for (const command of ['early', 'late']) {
    await assert.rejects(client.execute(command), (error) => {
      assert.ok(error instanceof QmpCommandError);
      assert.deepEqual([error.class, error.desc], ['DeviceNotFound', 'no such thing']);
      return true;
    });
  }
  assert.deepEqual(await client.execute('other'), {});
  assert.equal(server.clientCount, 1);
  client.close();
});

test('compare: options and frames out of range are refused', () => {
  const quiet = { onRelease: () => undefined, onCheckpointNeeded: () => undefined };
  for (const wrong of [
    { compareTimeoutMs: 0 },
    { scanIntervalMs: NaN },
    { maxQueueSize: -1 },
    { maxHeldBytes: 0 },
  ]) {
    assert.throws(() => new PacketComparer({ ...quiet, ...wrong }), { name: 'ParameterError' });
  }
  const comparer = new PacketComparer(quiet);
  assert.throws(() => comparer.fromPrimary(new Uint8Array(69_633)), { name: 'ParameterError' });
  assert.throws(() => comparer.fromSecondary(udp('a'), -1), { name: 'ParameterError' });
  assert.throws(() => comparer.commitCheckpoint(), /no checkpoint has been begun/);
  comparer.close();
  comparer.close();
  assert.throws(() => comparer.fromPrimary(udp('a')), /closed/);
});

test('compare: frames wait while a checkpoint is taken, and what the secondary says then is void', () => {
  const out: string[] = [];
  const needs: CheckpointNeed[] = [];
  const comparer = new PacketComparer({
    onRelease: (frame) => out.push(Buffer.from(frame).toString('latin1', 42)),
    onCheckpointNeeded: (need) => needs.push(need),
  });
  comparer.fromPrimary(udp('before'));
  comparer.beginCheckpoint();
  comparer.fromSecondary(udp('before'));
  comparer.fromPrimary(udp('after'));
  assert.deepEqual([out, comparer.heldFrames, comparer.stats.stale], [[], 2, 1]);
  comparer.commitCheckpoint();
  assert.deepEqual([out, comparer.heldFrames], [['before'], 1]);
  comparer.fromSecondary(udp('after'));
  assert.deepEqual([out, needs], [['before', 'after'], []]);
  comparer.close();
});

test('compare: what a callback throws comes out, and nothing is held twice or lost', () => {
  let calls = 0;
  const comparer: PacketComparer = new PacketComparer({
    onRelease: () => {
      calls++;
      if (calls === 1) throw new Error('of the callback');
      assert.throws(() => comparer.beginCheckpoint(), /from within its own callback/);
    },
    onCheckpointNeeded: () => undefined,
  });
  comparer.fromPrimary(udp('one'));
  comparer.fromPrimary(udp('two'));
  assert.throws(() => comparer.fromSecondary(udp('one')), /of the callback/);
  comparer.fromSecondary(udp('two'));
  assert.deepEqual([calls, comparer.heldFrames, comparer.stats.released], [2, 0, 2]);
  comparer.close();
});

test('compare: what waits too long asks for a checkpoint', (t) => {
  t.mock.timers.enable({ apis: ['setInterval'] });
  let clock = 0;
  t.mock.method(performance, 'now', () => clock);
  const needs: string[] = [];
  const comparer = new PacketComparer({
    onRelease: () => undefined,
    onCheckpointNeeded: ({ cause }) => needs.push(cause),
    compareTimeoutMs: 1,
  });
  comparer.fromPrimary(udp('one'));
  clock = 2;
  t.mock.timers.tick(1000);
  assert.equal(needs.length, 1);
  comparer.close();
});

test('frames: any cut of the stream gives the same frames, which are copies; a length that is none ends it', async () => {
  const frames = [udp('one'), udp('two')];
  const bytes = Buffer.concat(frames.map((frame) => encodeFrame(frame, 12)));
  for (const size of [1, 7, bytes.length]) {
    const chunk = Buffer.alloc(size);
    const chunks = function* (): Generator<Uint8Array> {
      for (let at = 0; at < bytes.length; at += size) {
        const length = bytes.copy(chunk, 0, at, at + size);
        yield chunk.subarray(0, length);
      }
    };
    const got = [];
    const stream = { [Symbol.asyncIterator]: () => asAsync(chunks()) };
    for await (const frame of readFrames(stream, { vnetHdrSupport: true })) got.push(frame);
    chunk.fill(0);
    assert.deepEqual(
      got.map(({ bytes: frame, vnetHdrLen }) => [Buffer.from(frame), vnetHdrLen]),
      frames.map((frame) => [frame, 12]),
    );
  }
  assert.throws(() => encodeFrame(new Uint8Array(0)), { name: 'ParameterError' });
  const broken = {
    [Symbol.asyncIterator]: () => asAsync([encodeFrame(udp('one')), Buffer.alloc(8, 255)].values()),
  };
  let count = 0;
  await assert.rejects(
    async () => {
      for await (const frame of readFrames(broken)) count += frame.bytes.length > 0 ? 1 : 0;
    },
    { name: 'ProtocolError' },
  );
  assert.equal(count, 1);
});

function asAsync(chunks: Iterator<Uint8Array>): AsyncIterator<Uint8Array> {
  return { next: () => Promise.resolve(chunks.next()) };
}
