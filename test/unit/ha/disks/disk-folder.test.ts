/** The disk folder of a VM: disks from images of every kind, and a start from each thing that they can be. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { ClosedError } from '../../../../src/base/errors.ts';
import { createQcow2 } from '../../../../src/block/drivers/qcow2/create.ts';
import { BlockGraph } from '../../../../src/block/graph.ts';
import { DiskFolder, type DiskOptions } from '../../../../src/ha/disks/disk-folder.ts';
import { DisksError } from '../../../../src/ha/disks/record.ts';
import { doDiskWork } from '../../../../src/ha/disks/work.ts';
import { settleBeforeTakeOver } from '../../../../src/ha/disks/settle.ts';
import type { DiskSpec, VmSpec } from '../../../../src/ha/spec/vm-spec.ts';
import type { VmDisk } from '../../../../src/ha/room.ts';
import { smallMount } from '../../../helpers/small-mount.ts';

const MIB = 2 ** 20;
/** In this process; what is tested here is not where the work is done. */
const here: DiskOptions = { run: (work, options) => doDiskWork(work, options?.onBytes) };
const first = { epoch: 1, nonce: 'a' };
const pair = { epoch: 2, nonce: 'b' };
const after = { epoch: 3, nonce: 'c' };

function specOf(...disks: Omit<DiskSpec, 'interface'>[]): VmSpec {
  return {
    version: 1,
    name: 'vm',
    engine: 'v86',
    cpus: 1,
    memoryMiB: 64,
    disks: disks.map((disk) => ({ ...disk, interface: 'ide' as const })),
    nics: [],
    hosts: [],
    checkpoint: { maxDelayMs: 1000 },
    heartbeat: { intervalMs: 100, patienceMs: 500, linkPatienceMs: 5000 },
    resync: { bytesPerSecond: 0 },
    options: [],
  };
}

/** Writes pieces into an image, or reads all of it. */
async function write(file: string, pieces: readonly (readonly [number, Buffer])[]): Promise<void> {
  const graph = new BlockGraph();
  const node = await graph.openImage(file, { format: 'qcow2', backing: '' });
  for (const [offset, bytes] of pieces) await node.write(offset, bytes);
  await graph.closeAll();
}

async function content(file: string): Promise<Buffer> {
  const graph = new BlockGraph();
  const node = await graph.openImage(file, { readOnly: true });
  const bytes = Buffer.alloc(node.lengthBytes);
  await node.read(0, bytes);
  await graph.closeAll();
  return bytes;
}

function only(disks: readonly VmDisk[]): VmDisk {
  assert.equal(disks.length, 1);
  return disks[0]!;
}

describe('the disk folder of a VM', () => {
  let dir: string;
  let at: string;
  beforeEach(async () => {
    dir = await mkdtemp(path.join(tmpdir(), 'disk-folder-'));
    at = path.join(dir, 'vms', 'vm');
    await mkdir(path.dirname(at));
  });
  afterEach(() => rm(dir, { recursive: true, force: true }));
  const open = (): Promise<DiskFolder> => DiskFolder.open(at, 'vm');
  const file = (name: string): string => path.join(dir, name);
  /** One disk of 1 MiB that holds `value`. */
  const whole = async (value: number): Promise<DiskFolder> => {
    await writeFile(file('image.raw'), Buffer.alloc(MIB, value));
    const folder = await open();
    await folder.makeFirst(specOf({ id: 'disk0', image: file('image.raw') }), first, here);
    return folder;
  };

  test('several disks: raw, qcow2 above another, larger than its image, empty', async () => {
    const raw = Buffer.alloc(3 * MIB + 700);
    raw.fill(5, MIB, MIB + 9000);
    raw.fill(6, raw.byteLength - 3);
    await writeFile(file('a.raw'), raw);
    await createQcow2(file('below.qcow2'), { sizeBytes: 2 * MIB });
    await write(file('below.qcow2'), [[100_000, Buffer.alloc(5000, 7)]]);
    await createQcow2(file('b.qcow2'), {
      sizeBytes: 4 * MIB,
      backingFile: 'below.qcow2',
      backingFormat: 'qcow2',
    });
    const folder = await open();
    const told: string[] = [];
    const disks = await folder.makeFirst(
      specOf(
        { id: 'disk0', image: file('a.raw'), sizeBytes: 64 * MIB },
        { id: 'disk1', image: file('b.qcow2') },
        { id: 'disk2', sizeBytes: 10 * MIB },
      ),
      first,
      {
        ...here,
        onProgress: ({ disk, doneBytes, totalBytes }) => told.push(`${disk} ${doneBytes}/${totalBytes}`),
      },
    );
    assert.deepEqual(
      disks.map(({ id, sizeBytes }) => [id, sizeBytes / MIB]),
      [
        ['disk0', 64],
        ['disk1', 4],
        ['disk2', 10],
      ],
    );
    const [a, b, c] = await Promise.all(disks.map(({ image }) => content(image)));
    assert.ok(a && b && c);
    assert.ok(a.subarray(0, raw.byteLength).equals(raw));
    assert.ok(a.subarray(raw.byteLength).every((byte) => byte === 0));
    assert.ok(b.equals(await content(file('b.qcow2'))));
    assert.equal(b[100_000], 7);
    assert.ok(c.every((byte) => byte === 0));
    // Sparse, whatever the image was.
    assert.ok((await stat(disks[0]!.image)).size < MIB);
    assert.ok(told.includes(`disk0 ${3 * MIB + 1024}/${3 * MIB + 1024}`), told.join());
    assert.deepEqual((await readdir(at)).toSorted(), [
      'disk0.qcow2',
      'disk1.qcow2',
      'disk2.qcow2',
      'disks.json',
    ]);
    // As the next daemon finds it.
    const again = await open();
    assert.deepEqual(again.record, { kind: 'whole', of: first, isInStep: false, sizes: folder.record.sizes });
    assert.deepEqual(again.disks(), disks);
    await assert.rejects(again.makeFirst(specOf({ id: 'disk0', sizeBytes: MIB }), first), DisksError);
    await again.remove();
    assert.deepEqual(await readdir(at), []);
  });

  test('what cannot be a disk is refused by name, and nothing is left but what can be begun anew', async () => {
    await writeFile(file('small.raw'), Buffer.alloc(MIB));
    await writeFile(file('other.vmdk'), 'KDMV and more');
    await writeFile(file('empty.raw'), '');
    const cases: [Omit<DiskSpec, 'interface'>, RegExp][] = [
      [{ id: 'disk0', image: file('small.raw'), sizeBytes: MIB / 2 }, /nothing is cut off/],
      [{ id: 'disk0', image: file('other.vmdk') }, /is a VMDK image/],
      [{ id: 'disk0', image: file('none.raw') }, /none.raw: No such file/],
      [{ id: 'disk0', image: dir }, /directory/i],
      [{ id: 'disk0', image: file('empty.raw') }, /neither an image nor a size|no bytes/],
      [{ id: 'disk0' }, /neither an image nor a size/],
    ];
    const folder = await open();
    for (const [disk, expected] of cases) {
      await assert.rejects(folder.makeFirst(specOf(disk), first, here), (error) => {
        assert.ok(error instanceof DisksError, String(error));
        assert.match(error.message, expected);
        assert.match(error.message, /disk0/);
        return true;
      });
    }
    assert.deepEqual(await readdir(at), ['disks.json']);
    await folder.makeFirst(specOf({ id: 'disk0', image: file('small.raw') }), first, here);
  });

  test('making is broken off and begun anew; images of others are not taken for that', async () => {
    await writeFile(file('image.raw'), Buffer.alloc(64 * MIB, 3));
    const spec = specOf({ id: 'disk0', sizeBytes: MIB }, { id: 'disk1', image: file('image.raw') });
    for (let isBroken = false; !isBroken;) {
      const folder = await open();
      const breaking = new AbortController();
      const onProgress = (): void => breaking.abort();
      const made = folder.makeFirst(spec, first, { onProgress, signal: breaking.signal });
      // It may be through when the signal comes.
      isBroken = await made.then(
        () => false,
        (error: unknown) => error instanceof ClosedError,
      );
      if (!isBroken) await folder.remove();
    }
    // disk0 is there, and no record that says that it is whole.
    assert.ok((await readdir(at)).includes('disk0.qcow2'));
    const again = await open();
    assert.equal(again.record.kind, 'none');
    await assert.rejects(again.start(first), /there are no disks/);
    const disks = await again.makeFirst(spec, first, here);
    assert.equal((await content(disks[1]!.image))[64 * MIB - 1], 3);
    await rm(path.join(at, 'disks.json'));
    await assert.rejects((await open()).makeFirst(spec, first), /no disks.json that says what it is/);
  });

  test('a file system that is full', async (t) => {
    const mount = smallMount('size=2m');
    if (!mount) {
      t.skip('mounting needs root');
      return;
    }
    try {
      await writeFile(file('image.raw'), Buffer.alloc(8 * MIB, 9));
      const folder = await DiskFolder.open(path.join(mount.dir, 'vm'), 'vm');
      const spec = specOf({ id: 'disk0', image: file('image.raw') });
      await assert.rejects(folder.makeFirst(spec, first, here), /disk0: .*No space left on device/);
      assert.deepEqual(await readdir(folder.folder), ['disks.json']);
    } finally {
      mount.remove();
    }
  });

  test('whole: is started as it is', async () => {
    const folder = await whole(1);
    await folder.note({ type: 'holds', of: pair });
    const { image } = only(await (await open()).start(after, here));
    assert.ok((await content(image)).equals(Buffer.alloc(MIB, 1)));
    assert.deepEqual((await open()).record.of, after);
  });

  test('a target of a resync is no disk to start from, then a replica is, without its overlays', async () => {
    const folder = await open();
    const { image, active, hidden } = only(await folder.makeTarget([{ id: 'disk0', sizeBytes: MIB }], false));
    await assert.rejects(folder.start(after, here), /resync of these disks has not ended/);
    await write(image, [[0, Buffer.alloc(MIB, 2)]]);
    await folder.note({ type: 'loaded', of: pair });
    await write(active, [[0, Buffer.alloc(4096, 8)]]);
    await write(hidden, [[65_536, Buffer.alloc(4096, 9)]]);
    const disk = only(await (await open()).start(after, here));
    assert.ok((await content(disk.image)).equals(Buffer.alloc(MIB, 2)));
    assert.deepEqual((await readdir(at)).toSorted(), ['disk0.qcow2', 'disks.json']);
  });

  test('a takeover: the overlays are in the disk when it is started, and not once more', async () => {
    const folder = await open();
    const { image, active, hidden } = only(await folder.makeTarget([{ id: 'disk0', sizeBytes: MIB }], false));
    await write(image, [[0, Buffer.alloc(MIB, 2)]]);
    await folder.note({ type: 'loaded', of: pair });
    await write(hidden, [[0, Buffer.alloc(3 * 65_536, 9)]]);
    await write(active, [[65_536, Buffer.alloc(65_536, 8)]]);
    const asked: string[] = [];
    const qmp = {
      execute: (command: string) => {
        asked.push(command);
        return Promise.resolve({});
      },
    };
    await settleBeforeTakeOver(qmp, folder);
    assert.deepEqual(asked, ['x-colo-prepare-failover']);
    await folder.note({ type: 'takes-over', of: after });
    await assert.rejects(folder.note({ type: 'merged' }), /still holds what is not in disk0/);
    const expected = Buffer.alloc(MIB, 2)
      .fill(9, 0, 3 * 65_536)
      .fill(8, 65_536, 2 * 65_536);
    const disk = only(await (await open()).start(after, here));
    assert.ok((await content(disk.image)).equals(expected));
    assert.deepEqual((await readdir(at)).toSorted(), ['disk0.qcow2', 'disks.json']);
    // The guest has written since; nothing brings the overlays back.
    await write(disk.image, [[0, Buffer.alloc(MIB, 4)]]);
    await (await open()).start({ epoch: 4, nonce: 'd' });
    assert.ok((await content(disk.image)).equals(Buffer.alloc(MIB, 4)));
  });

  test('stale disks are not started from; their images are kept when a bitmap is enough', async () => {
    const folder = await open();
    const sizes = [{ id: 'disk0', sizeBytes: MIB }];
    const { image } = only(await folder.makeTarget(sizes, false));
    await write(image, [[0, Buffer.alloc(MIB, 2)]]);
    await folder.note({ type: 'loaded', of: pair });
    await folder.note({ type: 'left' });
    await assert.rejects(folder.start(after, here), /left a pair that went on without them/);
    assert.equal(await folder.isBitmapEnough(pair, sizes), true);
    assert.equal(await folder.isBitmapEnough(after, sizes), false);
    assert.equal(await folder.isBitmapEnough(pair, [{ id: 'disk0', sizeBytes: 2 * MIB }]), false);
    assert.equal(await folder.isBitmapEnough(pair, [...sizes, { id: 'disk1', sizeBytes: MIB }]), false);
    // The header's dirty flag (bit 0 of the incompatible features) asks for a repair.
    const bytes = await readFile(image);
    const flags = bytes.readBigUInt64BE(72);
    bytes.writeBigUInt64BE(flags | 1n, 72);
    await writeFile(image, bytes);
    assert.equal(await folder.isBitmapEnough(pair, sizes), false);
    bytes.writeBigUInt64BE(flags, 72);
    await writeFile(image, bytes);
    await folder.makeTarget(sizes, true);
    assert.ok((await content(image)).equals(Buffer.alloc(MIB, 2)));
    assert.equal(await folder.isBitmapEnough(pair, sizes), false, 'a resync has begun');
    await folder.makeTarget([{ id: 'disk1', sizeBytes: MIB }], false);
    assert.deepEqual((await readdir(at)).toSorted(), [
      'disk1.active.qcow2',
      'disk1.hidden.qcow2',
      'disk1.qcow2',
      'disks.json',
    ]);
  });

  test('whole disks are nobody’s target', async () => {
    const folder = await whole(1);
    await assert.rejects(folder.makeTarget([{ id: 'disk0', sizeBytes: MIB }], false), /whole/);
    await folder.note({ type: 'left' });
    await folder.makeTarget([{ id: 'disk0', sizeBytes: MIB }], false);
  });

  test('an image that is gone is told of, and not made anew', async () => {
    const folder = await whole(1);
    await rm(only(folder.disks()).image);
    await assert.rejects(folder.start(after, here), /the record says that it is there/);
  });
});
