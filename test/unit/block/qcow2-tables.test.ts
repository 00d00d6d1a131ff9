/**
 * The qcow2 driver's L2 tables when the cache holds fewer than are being changed, over a file whose reads end at once
 * (as out of the page cache) and whose writes take a turn of the event loop. How the calls meet is swept, one turn of
 * the microtask queue at a time: who pushes whose table out depends on it.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Deferred, ENDED } from '../../../src/base/async.ts';
import { IoError } from '../../../src/base/errors.ts';
import { Allocator } from '../../../src/block/drivers/qcow2/allocator.ts';
import { createQcow2 } from '../../../src/block/drivers/qcow2/create.ts';
import { entryOffset, isCopied, putEntry, viewOf } from '../../../src/block/drivers/qcow2/format.ts';
import { HostFile } from '../../../src/block/drivers/qcow2/host-file.ts';
import { readQcow2Info } from '../../../src/block/drivers/qcow2/open.ts';
import { Refcounts } from '../../../src/block/drivers/qcow2/refcounts.ts';
import { MappingTables } from '../../../src/block/drivers/qcow2/tables.ts';
import { BlockNode } from '../../../src/block/node.ts';
import { Dice } from '../../helpers/dice.ts';
import { BufferDisk } from './qcow2-recorder.ts';

const TABLES = 6;
const CLUSTER = 512;
const ENTRIES = CLUSTER / 8;
/** Tables that the cache holds. */
const ROOM = 2;

class CachedDisk extends BufferDisk {
  reads = 0;
  /** Called when a write is in the file and has not ended yet. */
  onWrite: (offset: number) => void = () => undefined;

  override read(offset: number, target: Uint8Array): Promise<void> {
    // Calls that go on for ever without a turn of the event loop could not be stopped by a timer.
    if (++this.reads > 10_000) throw new IoError('EIO', 'read for ever');
    void super.read(offset, target);
    return ENDED;
  }

  override async write(offset: number, source: Uint8Array): Promise<void> {
    await nextTurn();
    await super.write(offset, source);
    this.onWrite(offset);
  }
}

/** An image of TABLES tables, all there; `shared`: no flag says that nothing else refers to them, so they are copied. */
async function image(shared: boolean): Promise<Buffer> {
  const folder = await mkdtemp(join(tmpdir(), 'colo-qcow2-'));
  const path = join(folder, 'a');
  await createQcow2(path, {
    sizeBytes: TABLES * ENTRIES * CLUSTER,
    clusterBits: 9,
    preallocation: 'metadata',
  });
  const bytes = await readFile(path);
  await rm(folder, { recursive: true });
  const { header } = await readQcow2Info(new BlockNode('file', new BufferDisk(bytes)), false);
  for (let index = 0; index < TABLES; index++) {
    const at = header.l1Offset + index * 8;
    assert.ok(isCopied(bytes.readUint32BE(at)));
    if (shared) bytes.writeUint32BE(bytes.readUint32BE(at) & 0x7fffffff, at);
  }
  return bytes;
}

interface Opened {
  readonly disk: CachedDisk;
  readonly tables: MappingTables;
  readonly l1Offset: number;
}

async function open(bytes: Buffer): Promise<Opened> {
  const disk = new CachedDisk(Buffer.from(bytes));
  const node = new BlockNode('file', disk);
  const { header } = await readQcow2Info(node, true);
  const file = new HostFile(node, CLUSTER);
  const allocator = new Allocator(await Refcounts.load(file, header), file, CLUSTER);
  const tables = await MappingTables.load(file, header, allocator, ROOM * CLUSTER);
  disk.reads = 0;
  return { disk, tables, l1Offset: header.l1Offset };
}

/** Makes one entry of a table point to `place`. */
function set(tables: MappingTables, l1Index: number, entry: number, place: number): Promise<void> {
  return tables.update(l1Index, entry, 1, (view, at) =>
    putEntry(view, at, place * CLUSTER, { copied: true, zero: false }),
  );
}

/** Every entry that was set (`table:entry` → place) is what it was set to, in the file and in memory. */
async function check(
  when: string,
  { disk, tables, l1Offset }: Opened,
  model: ReadonlyMap<string, number>,
): Promise<void> {
  const l1 = viewOf(disk.bytes.subarray(l1Offset));
  for (const [key, place] of model) {
    const [l1Index = 0, entry = 0] = key.split(':').map(Number);
    const offset = entryOffset(l1.getUint32(l1Index * 8), l1.getUint32(l1Index * 8 + 4));
    const held = await tables.table(l1Index);
    assert.ok(held);
    for (const [where, bytes] of [
      ['file', disk.bytes.subarray(offset, offset + CLUSTER)],
      ['memory', held.bytes],
    ] as const) {
      const view = viewOf(bytes);
      const points = entryOffset(view.getUint32(entry * 8), view.getUint32(entry * 8 + 4)) / CLUSTER;
      assert.equal(points, place, `${when}: table ${l1Index}, entry ${entry}, in the ${where}`);
    }
  }
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await Promise.resolve();
}

describe('qcow2 L2 tables, more in use than the cache holds', () => {
  for (const writers of [2, 3, 4, TABLES]) {
    it(`gets each of ${writers} tables that are changed from the file once`, async () => {
      const bytes = await image(false);
      for (let apart = 0; apart < 16; apart++) {
        const { disk, tables } = await open(bytes);
        await Promise.all(
          Array.from({ length: writers }, async (_, which) => {
            await turns(which * apart);
            await set(tables, which, 3, 100 + which);
          }),
        );
        assert.equal(disk.reads, writers, `${apart} turns apart`);
      }
    });
  }

  for (const shared of [false, true]) {
    it(`loses no change of a ${shared ? 'shared' : 'plain'} table, whoever meets whom`, async () => {
      const bytes = await image(shared);
      for (let seed = 1; seed <= 150; seed++) {
        const dice = new Dice(seed);
        const opened = await open(bytes);
        const { tables } = opened;
        const model = new Map<string, number>();
        const jobs = Array.from({ length: 24 }, async (_, which) => {
          const l1Index = dice.roll(TABLES);
          const wait = dice.roll(40);
          const entry = which % ENTRIES;
          const reads = dice.roll(3) === 0;
          if (!reads) model.set(`${l1Index}:${entry}`, 1000 + which);
          await turns(wait % 20);
          if (wait >= 20) await nextTurn();
          if (reads) await tables.table(l1Index);
          else await set(tables, l1Index, entry, 1000 + which);
        });
        await Promise.all(jobs);
        await check(`seed ${seed}`, opened, model);
      }
    });
  }

  it('never goes on with a table that was read while its copy was made', async () => {
    const bytes = await image(true);
    for (let late = 0; late < 30; late++) {
      const opened = await open(bytes);
      const { disk, tables, l1Offset } = opened;
      const reader = new Deferred<void>();
      await tables.table(0);
      const writer = set(tables, 0, 1, 1000);
      await tables.table(1);
      await tables.table(2);
      disk.onWrite = (offset) => {
        if (offset !== l1Offset) return;
        disk.onWrite = () => undefined;
        void turns(late)
          .then(() => tables.table(0))
          .then(() => reader.resolve());
      };
      await Promise.all([writer, reader.promise]);
      await set(tables, 0, 2, 1001);
      await check(
        `${late} turns late`,
        opened,
        new Map([
          ['0:1', 1000],
          ['0:2', 1001],
        ]),
      );
    }
  });

  it('never changes a table that is not the one in the cache', async () => {
    const bytes = await image(true);
    for (let evicted = 0; evicted < 30; evicted++) {
      for (let again = 0; again < 30; again++) {
        const opened = await open(bytes);
        const { disk, tables, l1Offset } = opened;
        const later: Promise<unknown>[] = [];
        disk.onWrite = (offset) => {
          if (offset !== l1Offset + 8) return;
          disk.onWrite = () => undefined;
          later.push(turns(evicted).then(() => Promise.all([tables.table(4), tables.table(5)])));
          later.push(turns(evicted + again).then(() => set(tables, 0, 3, 1003)));
        };
        // The third waits until the second has its table, and the first has long ended then.
        await Promise.all([
          set(tables, 0, 1, 1001).then(() => Promise.all([tables.table(2), tables.table(3)])),
          set(tables, 1, 1, 1000),
          turns(20).then(() => set(tables, 0, 2, 1002)),
        ]);
        await Promise.all(later);
        const want = new Map([
          ['1:1', 1000],
          ['0:1', 1001],
          ['0:2', 1002],
          ['0:3', 1003],
        ]);
        await check(`${evicted}, ${again} turns late`, opened, want);
      }
    }
  });
});
