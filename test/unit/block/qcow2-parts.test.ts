/** The pure parts of the qcow2 driver: header, entries, refcount codec, range lock. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  clusterKind,
  compressedPlace,
  entryOffset,
  isCopied,
} from '../../../src/block/drivers/qcow2/format.ts';
import {
  Qcow2Error,
  checkHeader,
  decodeHeader,
  decodeTail,
  encodeHeader,
} from '../../../src/block/drivers/qcow2/header.ts';
import { RangeLock } from '../../../src/block/drivers/qcow2/range-lock.ts';
import { refcountCodec } from '../../../src/block/drivers/qcow2/refcount-codec.ts';

const FIELDS = {
  version: 3 as const,
  clusterBits: 16,
  sizeBytes: 8 * 2 ** 20,
  cryptMethod: 0,
  l1Size: 1,
  l1Offset: 0x30000,
  refcountTableOffset: 0x10000,
  refcountTableClusters: 1,
  snapshotCount: 0,
  incompatible: 0n,
  compatible: 0n,
  autoclear: 0n,
  refcountOrder: 4,
  compressionType: 0,
};

describe('qcow2 header', () => {
  it('encodes and decodes, unknown extensions included', () => {
    const extensions = [{ type: 0x12345678, data: new Uint8Array([1, 2, 3]) }];
    const bytes = encodeHeader(FIELDS, extensions, 'bäse.raw');
    const header = decodeHeader(bytes);
    checkHeader(header, true, bytes);
    const { headerLength, backingNameOffset, backingNameLength, ...fields } = header;
    assert.deepEqual(fields, FIELDS);
    assert.equal(headerLength, 112);
    assert.ok(backingNameOffset > 0 && backingNameLength === 9);
    assert.deepEqual(decodeTail(bytes, header), { extensions, backingFile: 'bäse.raw', backingFormat: null });
  });

  it('only ever refuses with Qcow2Error, whatever the bytes', () => {
    const good = new Uint8Array(65536);
    good.set(encodeHeader(FIELDS, [], 'base'));
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(119), fc.nat(255)), { maxLength: 6 }),
        fc.nat(200),
        (changes, cut) => {
          const bytes = good.slice();
          for (const [at, value] of changes) bytes[at] = value;
          try {
            const header = decodeHeader(cut < 112 && cut % 5 === 0 ? bytes.subarray(0, cut) : bytes);
            checkHeader(header, true, bytes);
            assert.ok(header.l1Size * 8 <= 2 ** 25);
            assert.ok(header.refcountTableClusters * 2 ** header.clusterBits <= 2 ** 23);
            decodeTail(bytes.subarray(0, 2 ** Math.min(16, header.clusterBits)), header);
          } catch (error) {
            assert.ok(error instanceof Qcow2Error, String(error));
          }
        },
      ),
      { numRuns: 2000 },
    );
  });
});

describe('qcow2 table entries', () => {
  it('are what the specification says', () => {
    assert.equal(clusterKind(0, 0), 'unallocated');
    assert.equal(clusterKind(0, 1), 'zero');
    assert.equal(clusterKind(0x80000000, 0x50000), 'data');
    assert.equal(clusterKind(0x80000000, 0x50001), 'zero-allocated');
    assert.equal(clusterKind(0x40000000, 0x50000), 'compressed');
    assert.equal(entryOffset(0x80000001, 0x00050000), 0x100050000);
    assert.equal(isCopied(0x80000000), true);
    // 64 KiB clusters: offset in 54 bits, then sectors.
    assert.deepEqual(compressedPlace(0x40000000 + (3 << 22), 0x50010, 16), {
      offset: 0x50010,
      length: 4 * 512 - 16,
    });
  });
});

describe('refcount codec', () => {
  for (let order = 0; order <= 6; order++) {
    it(`order ${order}: each entry is its own`, () => {
      const codec = refcountCodec(order);
      fc.assert(
        fc.property(
          fc.array(fc.tuple(fc.nat(63), fc.nat(Math.min(codec.max, 2 ** 31 - 1))), { maxLength: 30 }),
          (sets) => {
            const view = new DataView(new ArrayBuffer(512));
            const model = new Array<number>(64).fill(0);
            for (const [index, count] of sets) {
              codec.set(view, index, count);
              model[index] = count;
            }
            assert.deepEqual(
              model.map((_, index) => codec.get(view, index)),
              model,
            );
          },
        ),
        { numRuns: 50 },
      );
      assert.deepEqual(codec.span(8, 15), { from: 2 ** order, to: 2 * 2 ** order });
    });
  }

  it('keeps the low bits for the low index', () => {
    const view = new DataView(new ArrayBuffer(8));
    refcountCodec(0).set(view, 1, 1);
    refcountCodec(2).set(view, 3, 5);
    assert.deepEqual([view.getUint8(0), view.getUint8(1)], [2, 0x50]);
  });
});

describe('RangeLock', () => {
  it('never lets an exclusive range overlap another, and serves everybody', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ first: fc.nat(20), length: fc.nat(5), alone: fc.boolean() }), { maxLength: 40 }),
        async (requests) => {
          const lock = new RangeLock();
          const active = new Set<{ first: number; last: number; alone: boolean }>();
          await Promise.all(
            requests.map(async ({ first, length, alone }, index) => {
              const mine = { first, last: first + length, alone };
              const held = await lock.acquire(first, mine.last, alone);
              for (const other of active) {
                const overlap = other.first <= mine.last && mine.first <= other.last;
                assert.ok(!overlap || (!alone && !other.alone));
              }
              active.add(mine);
              for (let turn = 0; turn < index % 4; turn++) await Promise.resolve();
              active.delete(mine);
              lock.release(held);
            }),
          );
        },
      ),
    );
  });

  it('is fair: a writer is not overtaken by later readers', async () => {
    const lock = new RangeLock();
    const reader = await lock.acquire(0, 5, false);
    const order: string[] = [];
    const writer = lock.acquire(3, 3, true).then((held) => {
      order.push('writer');
      lock.release(held);
    });
    const later = lock.acquire(0, 9, false).then((held) => {
      order.push('reader');
      lock.release(held);
    });
    assert.equal(lock.tryAcquire(3, 3, false), null);
    lock.release(reader);
    await Promise.all([writer, later]);
    assert.deepEqual(order, ['writer', 'reader']);
  });
});
