// A mirror by bitmap: what it copies, what becomes of the bitmap, and targets that it refuses.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { DirtyBitmap } from '../../../src/block/dirty-bitmap.ts';
import { ErrorFilter } from '../../../src/block/filters/error.ts';
import { BitmapSync } from '../../../src/block/jobs/bitmap-sync.ts';
import type { BitmapMode } from '../../../src/block/jobs/bitmap-sync.ts';
import { MirrorJob } from '../../../src/block/jobs/mirror.ts';
import type { BlockNode } from '../../../src/block/node.ts';
import { CLUSTER, EventLog, bytesOf, filled, memory } from './jobs-helpers.ts';

const CHUNKS = 32;
const LENGTH = CHUNKS * CLUSTER;

/** Two disks with the same content, apart from chunks 3 and 20, which the bitmap holds. */
async function parted(): Promise<{
  source: BlockNode;
  target: BlockNode;
  faults: ErrorFilter;
  bitmap: DirtyBitmap;
}> {
  const box: { faults?: ErrorFilter } = {};
  const source = memory('source', LENGTH);
  const target = memory('target', LENGTH, { wrap: (driver) => (box.faults = new ErrorFilter(driver)) });
  for (const node of [source, target]) await node.write(0, filled(LENGTH / 2, 7));
  const bitmap = source.dirtyBitmaps.add('x', LENGTH);
  await source.write(3 * CLUSTER + 512, filled(512, 8));
  await source.write(20 * CLUSTER, filled(512, 9));
  return { source, target, faults: box.faults ?? assert.fail(), bitmap };
}

function mirror(source: BlockNode, target: BlockNode, bitmap: DirtyBitmap, mode: BitmapMode): MirrorJob {
  const sync = new BitmapSync(bitmap, mode);
  const emit = new EventLog().emit;
  const job = new MirrorJob({ id: 'j', emit, source, target, sync: 'full', bitmap: sync });
  job.start();
  return job;
}

const dirty = (bitmap: DirtyBitmap): number[] =>
  Array.from({ length: CHUNKS }, (_, chunk) => chunk).filter((chunk) => bitmap.has(chunk * CLUSTER));

describe('a mirror by bitmap', () => {
  for (const [mode, left] of [
    ['on-success', [5]],
    ['always', [5]],
    ['never', [3, 4, 5, 20]],
  ] as const) {
    it(`copies what is dirty and what is written meanwhile; ${mode} leaves chunks ${left.join(', ')}`, async () => {
      const { source, target, bitmap } = await parted();
      const job = mirror(source, target, bitmap, mode);
      assert.equal(bitmap.info().busy, true);
      await job.becameReady;
      await source.write(4 * CLUSTER, filled(512, 5));
      job.cancel();
      await job.ended;
      assert.equal(job.failure, null);
      assert.ok((await bytesOf(target)).equals(await bytesOf(source)));
      assert.ok(job.progress().len <= 4 * CLUSTER, `${job.progress().len} bytes`);
      await source.write(5 * CLUSTER, filled(512, 5));
      assert.deepEqual(dirty(bitmap), left);
      assert.equal(bitmap.info().busy, false);
    });
  }

  it('that is broken off gives the bits back, and those written meanwhile', async () => {
    const { source, target, bitmap } = await parted();
    const job = mirror(source, target, bitmap, 'on-success');
    await job.becameReady;
    await source.write(4 * CLUSTER, filled(512, 5));
    job.cancel(true);
    await job.ended;
    assert.deepEqual(dirty(bitmap), [3, 4, 20]);
  });

  it('that never began gives them back too', async () => {
    const { source, target, bitmap } = await parted();
    const job = mirror(source, target, bitmap, 'on-success');
    job.abandon();
    await job.ended;
    assert.deepEqual(dirty(bitmap), [3, 20]);
    assert.equal(bitmap.info().busy, false);
  });

  it('that fails keeps with always only what it has not copied', async () => {
    for (const [mode, left] of [
      ['on-success', [3, 20]],
      ['always', [20]],
    ] as const) {
      const { source, target, faults, bitmap } = await parted();
      faults.add({ op: 'write', offset: 20 * CLUSTER, length: CLUSTER });
      const job = mirror(source, target, bitmap, mode);
      await job.ended;
      assert.match(String(job.failure), /Injected write error/);
      assert.deepEqual(dirty(bitmap), left, mode);
    }
  });

  it('refuses a target that has something else where nothing has changed, and writes nothing to it', async () => {
    const { source, bitmap } = await parted();
    const other = memory('other', LENGTH);
    await other.write(0, filled(LENGTH / 2, 6));
    const job = mirror(source, other, bitmap, 'on-success');
    await job.ended;
    assert.match(String(job.failure), /it is not the disk that the bitmap was kept for.*use sync=full/);
    assert.ok((await bytesOf(other, 0, LENGTH / 2)).equals(filled(LENGTH / 2, 6)));
    assert.deepEqual(dirty(bitmap), [3, 20]);
  });

  it('refuses an empty target, and one that has data where the source is empty', async () => {
    const { source, bitmap } = await parted();
    const job = mirror(source, memory('empty', LENGTH), bitmap, 'on-success');
    await job.ended;
    assert.match(String(job.failure), /not the disk/);
    const blank = memory('blank', LENGTH);
    const onBlank = blank.dirtyBitmaps.add('x', LENGTH);
    const full = memory('full', LENGTH);
    await full.write(CLUSTER, filled(LENGTH - CLUSTER, 1));
    const second = mirror(blank, full, onBlank, 'on-success');
    await second.ended;
    assert.match(String(second.failure), /not the disk/);
  });

  it('takes no writer for a wrong target', async () => {
    const { source, target, bitmap } = await parted();
    const job = mirror(source, target, bitmap, 'on-success');
    for (let turn = 0; turn < 50; turn++)
      await source.write((turn % CHUNKS) * CLUSTER, filled(CLUSTER, turn));
    await job.becameReady;
    job.cancel();
    await job.ended;
    assert.equal(job.failure, null);
    assert.ok((await bytesOf(target)).equals(await bytesOf(source)));
  });

  it('needs a bitmap that records', async () => {
    const { bitmap } = await parted();
    bitmap.setRecording(false);
    assert.throws(() => new BitmapSync(bitmap, 'on-success'), /Bitmap 'x' is disabled/);
  });
});
