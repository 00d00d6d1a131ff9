/**
 * The qcow2 driver killed at every moment: each prefix of its stream of writes, and each tear of the next one, is an
 * image without errors that holds every ended write, and of each request under way the old bytes or the new.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FileDriver } from '../../../src/block/drivers/file.ts';
import { checkQcow2 } from '../../../src/block/drivers/qcow2/check.ts';
import { createQcow2 } from '../../../src/block/drivers/qcow2/create.ts';
import { readQcow2Info } from '../../../src/block/drivers/qcow2/open.ts';
import { BlockNode } from '../../../src/block/node.ts';
import {
  FUZZ,
  Model,
  SECTOR,
  apply,
  emptyImage,
  examine,
  openImage,
  record,
  BufferDisk,
} from './qcow2-recorder.ts';
import type { Act, Layout, Recording } from './qcow2-recorder.ts';

const LAYOUTS: Layout[] = [
  { guestBytes: 100_352, clusterBits: 9 },
  { guestBytes: 100_352, clusterBits: 9, below: 60_000 },
  { guestBytes: 100_352, clusterBits: 9, refcountOrder: 6, below: 140_000 },
  { guestBytes: 100_352, clusterBits: 9, refcountOrder: 0 },
  { guestBytes: 100_352, clusterBits: 10, version: 2, below: 60_000 },
  { guestBytes: 200_704, clusterBits: 12, refcountOrder: 1, below: 60_000 },
];

function compare(found: Buffer, model: Model, open: readonly Act[], what: string): void {
  for (let at = 0; at < found.byteLength; at++) {
    const byte = found[at];
    if (byte === model.value[at] || (byte === 0 && model.maybeZero[at] === 1)) continue;
    const fits = open.some(({ verb, from, to, value }) => {
      if (verb === 'empty') return byte === model.initial[at];
      if (at < from || at >= to) return false;
      return byte === (verb === 'write' || verb === 'fua' || verb === 'packed' ? value : 0);
    });
    assert.ok(fits, `${what}: byte ${at} is ${byte ?? ''}, not ${model.value[at] ?? ''}`);
  }
}

async function everyMoment(recording: Recording, stride: number): Promise<number> {
  const { disk, below, acts } = recording;
  const model = new Model(recording);
  const byEnd = [...acts].sort((a, b) => a.end - b.end);
  let ended = 0;
  let bytes: Buffer = Buffer.from(disk.initial);
  let states = 0;
  for (let moment = 0; moment <= disk.log.length; moment++) {
    for (let act = byEnd[ended]; act && act.end <= moment; act = byEnd[++ended]) model.end(act);
    const open = acts.filter(({ begin, end }) => begin <= moment && end > moment);
    if (moment % stride === 0) {
      compare(await examine(bytes, below, `after ${moment}`), model, open, `after ${moment}`);
      states++;
    }
    const entry = disk.log[moment];
    if (!entry) break;
    if (entry.kind === 'write' && moment % stride === 0) {
      const sectors = Math.ceil(((entry.offset % SECTOR) + entry.bytes.byteLength) / SECTOR);
      // All tears of a short write, some of a long one.
      for (let there = 1; there < sectors; there += Math.ceil(sectors / 6)) {
        const torn = apply(Buffer.from(bytes), entry, (sector) => sector < there);
        const what = `after ${moment} and ${there} of ${sectors} sectors`;
        compare(await examine(torn, below, what), model, open, what);
        states++;
      }
    }
    bytes = Buffer.from(apply(bytes, entry));
  }
  return states;
}

describe('qcow2 killed at any moment', () => {
  for (const layout of LAYOUTS) {
    it(JSON.stringify(layout), async () => {
      const image = await emptyImage(layout);
      let states = 0;
      for (let seed = 1; seed <= FUZZ; seed++) {
        const recording = await record(layout, seed, 14, image);
        states += await everyMoment(recording, 1);
      }
      assert.ok(states > 100, `only ${states} states`);
    });
  }

  it('while the refcount table grows', async () => {
    const layout: Layout = { guestBytes: 2 ** 21 + 2 ** 19, clusterBits: 9, refcountOrder: 6 };
    const image = await emptyImage(layout);
    const recording = await record({ ...layout, cacheBytes: 2 ** 20 }, 1, 0, image);
    const node = await openImage(recording.disk, null, { cacheBytes: 2 ** 20 });
    const acts: Act[] = [];
    for (let at = 0; at < layout.guestBytes; at += 2 ** 18) {
      const act: Act = {
        verb: 'write',
        from: at,
        to: at + 2 ** 18,
        value: 1 + at / 2 ** 18,
        begin: 0,
        end: 0,
      };
      act.begin = recording.disk.log.length;
      await node.write(at, Buffer.alloc(2 ** 18, act.value));
      act.end = recording.disk.log.length;
      acts.push(act);
    }
    await node.close();
    const tables = recording.disk.log.filter((entry) => entry.kind === 'write' && entry.offset === 48);
    assert.ok(tables.length >= 1, 'the table has moved');
    await everyMoment({ ...recording, acts }, Math.max(1, Math.ceil(90 / FUZZ)));
    // Every moment around the move itself.
    const moved = recording.disk.log.findIndex((entry) => entry.kind === 'write' && entry.offset === 48);
    let bytes: Buffer = Buffer.from(recording.disk.initial);
    for (const [moment, entry] of recording.disk.log.entries()) {
      if (Math.abs(moment - moved) < 12) await examine(bytes, null, `after ${moment}`);
      bytes = apply(bytes, entry);
    }
    const again = await openImage(new BufferDisk(bytes), null);
    await again.write(5, Buffer.alloc(5000, 1));
    await again.close();
  });

  it('leaks what the documents say and no more', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'colo-qcow2-'));
    try {
      await createQcow2(join(folder, 'a'), { sizeBytes: 2 ** 28 });
      const disk = await FileDriver.open(join(folder, 'a'));
      const node = await openImage(disk, null, { cacheBytes: 2 ** 20 });
      const file = new BlockNode('file', disk);
      const leaked = async (): Promise<number> => {
        const report = await checkQcow2(file, (await readQcow2Info(file, false)).header);
        assert.equal(report.errors, 0);
        return report.leaks * 65536;
      };
      let most = 0;
      for (let cluster = 0; cluster < 1600; cluster++) {
        await node.write(cluster * 65536, Buffer.alloc(1, 1));
        if (cluster % 40 === 0) most = Math.max(most, await leaked());
      }
      assert.ok(most >= 16 * 2 ** 20 && most <= 48 * 2 ** 20, `${most} bytes counted ahead`);
      const ahead = await leaked();
      most = 0;
      for (let cluster = 0; cluster < 1400; cluster += 2) {
        await node.discard(cluster * 65536, 65536);
        if (cluster % 200 === 0) most = Math.max(most, (await leaked()) - ahead);
      }
      assert.ok(most >= 16 * 2 ** 20 && most <= 33 * 2 ** 20, `${most} bytes waiting to be freed`);
      await node.close();
      assert.equal(await leaked(), 0);
      await disk.close();
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
