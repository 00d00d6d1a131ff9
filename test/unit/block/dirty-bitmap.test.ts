// Dirty bitmaps: nothing that changes is missed, also while a write is on its way and while a job has the bitmap.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { DirtyBitmap } from '../../../src/block/dirty-bitmap.ts';
import { GateFilter } from '../../../src/block/filters/delay.ts';
import { ErrorFilter } from '../../../src/block/filters/error.ts';
import { ChunkBitmap } from '../../../src/block/jobs/chunk-bitmap.ts';
import { filled, memory, turns } from './jobs-helpers.ts';

const LENGTH = 1 << 20;

const ordered = (chunks: Iterable<number>): number[] => [...new Set(chunks)].sort((a, b) => a - b);
const setOf = (bits: ChunkBitmap): number[] =>
  Array.from({ length: bits.chunks }, (_, chunk) => chunk).filter((chunk) => bits.has(chunk));

describe('dirty bitmaps', () => {
  it('know a write before it reaches the driver, and again when it has ended', async () => {
    const box: { gate?: GateFilter } = {};
    const node = memory('n', LENGTH, { wrap: (driver) => (box.gate = new GateFilter(driver)) });
    const bitmap = node.dirtyBitmaps.add('x', LENGTH, { granularityBytes: 4096 });
    box.gate?.gate.close();
    const write = node.write(4096, filled(512, 1));
    await turns(1);
    assert.equal(bitmap.has(4096), true);
    bitmap.clear();
    box.gate?.gate.open();
    await write;
    assert.equal(bitmap.dirtyBytes, 4096);
  });

  it('count a write that failed, and one that a hook refused', async () => {
    const node = memory('n', LENGTH, { wrap: (driver) => new ErrorFilter(driver, [{ op: 'write' }]) });
    const bitmap = node.dirtyBitmaps.add('x', LENGTH);
    await assert.rejects(node.write(0, filled(512, 1)));
    assert.equal(bitmap.dirtyBytes, 65536);
    node.onBeforeWrite(() => Promise.reject(new Error('no')));
    await assert.rejects(node.writeZeroes(100_000, 1));
    assert.equal(bitmap.has(100_000), true);
  });

  it('take everything for changed when an image is emptied, and what a node has grown by', async () => {
    const node = memory('n', LENGTH);
    const bitmap = node.dirtyBitmaps.add('x', LENGTH);
    await node.makeEmpty();
    assert.equal(bitmap.dirtyBytes, LENGTH);
    bitmap.clear();
    await node.driver.truncate?.(LENGTH + 2 * 65536);
    await node.write(LENGTH + 65536, filled(512, 1));
    assert.equal(bitmap.lengthBytes, LENGTH + 65536 + 512);
    assert.equal(bitmap.has(LENGTH), true);
    assert.equal(bitmap.dirtyBytes, 2 * 65536);
  });

  it('do not record while disabled', async () => {
    const node = memory('n', LENGTH);
    const bitmap = node.dirtyBitmaps.add('x', LENGTH, { disabled: true });
    await node.write(0, filled(512, 1));
    bitmap.setRecording(true);
    await node.write(65536, filled(512, 1));
    bitmap.setRecording(false);
    await node.write(2 * 65536, filled(512, 1));
    assert.deepEqual(
      [0, 1, 2].map((chunk) => bitmap.has(chunk * 65536)),
      [false, true, false],
    );
  });

  it('are busy while a job has them, and change in nobody else’s hands', () => {
    const bitmap = new DirtyBitmap('x', LENGTH, 65536, true);
    const loan = bitmap.lend();
    const busy = /Bitmap 'x' is currently in use by another operation and cannot be used/;
    assert.equal(bitmap.info().busy, true);
    for (const act of [
      () => bitmap.clear(),
      () => bitmap.setRecording(false),
      () => bitmap.lend(),
      () => bitmap.merge(new DirtyBitmap('y', LENGTH, 65536, true)),
      () => new DirtyBitmap('y', LENGTH, 65536, true).merge(bitmap),
    ]) {
      assert.throws(act, busy);
    }
    loan.end('kept');
    bitmap.clear();
  });

  it('give back to a job that failed what it had, and keep what was written meanwhile', () => {
    const CHUNK = 4096;
    const chunks = fc.uniqueArray(fc.nat(31));
    const outcome = fc.constantFrom('synced' as const, 'kept' as const, 'left' as const);
    fc.assert(
      fc.property(chunks, chunks, chunks, chunks, outcome, (before, during, after, rest, how) => {
        const bitmap = new DirtyBitmap('x', 32 * CHUNK, CHUNK, true);
        for (const chunk of before) bitmap.mark(chunk * CHUNK, 1);
        const loan = bitmap.lend();
        const bits = new ChunkBitmap(32 * CHUNK, CHUNK);
        loan.addTo(bits);
        assert.deepEqual(setOf(bits), ordered(before));
        for (const chunk of during) bitmap.mark(chunk * CHUNK, 1);
        loan.addTo(bits);
        assert.deepEqual(setOf(bits), ordered([...before, ...during]));
        for (const chunk of before)
          assert.equal(loan.isTouched(chunk * CHUNK, CHUNK), during.includes(chunk));
        let expected: number[];
        if (how === 'synced') {
          loan.equalNow();
          for (const chunk of after) bitmap.mark(chunk * CHUNK, 1);
          loan.end('synced');
          expected = after;
        } else if (how === 'left') {
          const left = new ChunkBitmap(32 * CHUNK, CHUNK);
          for (const chunk of rest) left.set(chunk);
          for (const chunk of after) bitmap.mark(chunk * CHUNK, 1);
          loan.end('kept', left);
          expected = [...during, ...after, ...rest];
        } else {
          for (const chunk of after) bitmap.mark(chunk * CHUNK, 1);
          loan.end('kept');
          expected = [...before, ...during, ...after];
        }
        const dirty = Array.from({ length: 32 }, (_, chunk) => chunk).filter((c) => bitmap.has(c * CHUNK));
        assert.deepEqual(dirty, ordered(expected));
        assert.equal(bitmap.busy, false);
      }),
    );
  });

  it('of other granularities take in at least what the other has', () => {
    const power = fc.integer({ min: 9, max: 14 }).map((bits) => 2 ** bits);
    const ranges = fc.array(fc.tuple(fc.nat(99_000), fc.integer({ min: 1, max: 1000 })), { maxLength: 5 });
    fc.assert(
      fc.property(power, power, ranges, (fine, coarse, written) => {
        const from = new DirtyBitmap('from', 100_000, fine, true);
        const into = new DirtyBitmap('into', 100_000, coarse, true);
        for (const [offset, length] of written) from.mark(offset, length);
        into.merge(from);
        for (let offset = 0; offset < 100_000; offset += 512) {
          const chunk = Math.floor(offset / coarse) * coarse;
          let expected = false;
          for (let at = chunk; at < Math.min(chunk + coarse, 100_000); at += 512) expected ||= from.has(at);
          assert.equal(into.has(offset), expected, `at ${offset}`);
        }
      }),
      { numRuns: 50 },
    );
  });
});
