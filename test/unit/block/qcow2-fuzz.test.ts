/**
 * Images with hostile headers, tables and counts: opened, read, written, checked, repaired. They meet errors of our own
 * family, never crashes or hangs; the file stays within what the requests can need, and so does memory.
 * COLO_FUZZ=N makes it N times as long.
 */
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import { ColoError, IoError } from '../../../src/base/errors.ts';
import { checkQcow2 } from '../../../src/block/drivers/qcow2/check.ts';
import { readQcow2Info } from '../../../src/block/drivers/qcow2/open.ts';
import { Qcow2Driver } from '../../../src/block/drivers/qcow2/qcow2.ts';
import { repairRefcounts } from '../../../src/block/drivers/qcow2/repair.ts';
import { BlockNode } from '../../../src/block/node.ts';
import { Dice } from '../../helpers/dice.ts';
import { BufferDisk, FUZZ, emptyImage, openImage } from './qcow2-recorder.ts';
import type { Layout } from './qcow2-recorder.ts';

const LAYOUTS: Layout[] = [
  { guestBytes: 300_032, clusterBits: 9 },
  { guestBytes: 300_032, clusterBits: 12, refcountOrder: 0 },
  { guestBytes: 300_032, clusterBits: 9, refcountOrder: 6, version: 3 },
  { guestBytes: 300_032, clusterBits: 10, version: 2 },
];
/** No request here needs that much. */
const FILE_LIMIT = 48 * 2 ** 20;

class BoundedDisk extends BufferDisk {
  override async truncate(lengthBytes: number): Promise<void> {
    if (!(lengthBytes <= FILE_LIMIT)) throw new IoError('ENOSPC', `no room for ${lengthBytes} bytes`);
    return super.truncate(lengthBytes);
  }
}

const NUMBERS = [
  ...[0n, 1n, 2n, 3n, 8n, 64n, 511n, 512n, 513n, 4096n, 65536n, 2n ** 21n, 2n ** 22n, 2n ** 30n, 2n ** 31n],
  ...[2n ** 32n - 1n, 2n ** 32n, 2n ** 53n, 2n ** 55n, 2n ** 56n - 512n, 2n ** 63n - 512n, 2n ** 64n - 1n],
];
/** Offset and size of the header's fields behind version and magic. */
const FIELDS = [
  ...[
    [8, 8],
    [16, 4],
    [20, 4],
    [24, 8],
    [32, 4],
    [36, 4],
    [40, 8],
    [48, 8],
    [56, 4],
    [60, 4],
    [64, 8],
  ],
  ...[
    [72, 8],
    [80, 8],
    [88, 8],
    [96, 4],
    [100, 4],
    [104, 1],
    [112, 4],
    [116, 4],
  ],
] as [number, 1 | 4 | 8][];

function put(image: Buffer, at: number, size: 1 | 4 | 8, value: bigint): void {
  if (at + size > image.byteLength) return;
  if (size === 8) image.writeBigUInt64BE(BigInt.asUintN(64, value), at);
  else if (size === 4) image.writeUInt32BE(Number(BigInt.asUintN(32, value)), at);
  else image.writeUInt8(Number(BigInt.asUintN(8, value)), at);
}

function damage(good: Buffer, dice: Dice): Buffer {
  const image = Buffer.from(good);
  const clusterBytes = 2 ** good.readUInt32BE(20);
  const clusters = Math.floor(image.byteLength / clusterBytes);
  const number = (): bigint =>
    dice.roll(2) === 0 ? NUMBERS[dice.roll(NUMBERS.length)]! : BigInt(dice.roll(clusters + 2) * clusterBytes);
  for (let left = 1 + dice.roll(4); left > 0; left--) {
    const kind = dice.roll(6);
    if (kind === 0) {
      const [at, size] = FIELDS[dice.roll(FIELDS.length)]!;
      put(image, at, size, number());
    } else if (kind === 1) put(image, dice.roll(image.byteLength), 1, BigInt(dice.roll(256)));
    else {
      // An entry of some table: a pointer with flags, or a compressed cluster anywhere.
      const place = [good.readBigUInt64BE(40), good.readBigUInt64BE(48), 0n][dice.roll(3)] ?? 0n;
      const base = place > 0n ? Number(place) : dice.roll(clusters) * clusterBytes;
      const flags =
        [0n, 1n, 1n << 63n, 1n << 62n, (1n << 62n) | (BigInt(dice.roll(64)) << 54n)][dice.roll(5)] ?? 0n;
      for (let entry = dice.roll(64), run = 1 + dice.roll(3); run > 0; run--, entry++)
        put(image, base + entry * 8, 8, number() | flags);
    }
  }
  if (dice.roll(20) === 0) return image.subarray(0, dice.roll(image.byteLength));
  return image;
}

async function expecting(job: Promise<unknown>): Promise<void> {
  await job.catch((error: unknown) => {
    if (!(error instanceof ColoError)) throw error;
  });
}

async function use(image: Buffer, dice: Dice): Promise<void> {
  const disk = new BoundedDisk(Buffer.from(image));
  const file = new BlockNode('file', disk);
  await expecting(
    (async () => {
      const { header } = await readQcow2Info(file, false);
      await checkQcow2(file, header);
      if (dice.roll(2) === 0) await repairRefcounts(file, header, dice.roll(2) === 0 ? 'all' : 'leaks');
    })(),
  );
  const below = dice.roll(2) === 0 ? Buffer.alloc(100_000, 1) : null;
  await expecting(
    (async () => {
      const node = await openImage(disk, below, { cacheBytes: 1024, readOnly: dice.roll(4) === 0 });
      const length = Math.min(node.lengthBytes, 320_000);
      for (let round = 0; round < 6; round++) {
        const at = dice.roll(Math.max(1, length));
        const part = Math.min(length - at, 1 + dice.roll(20_000));
        const verb = dice.roll(8);
        if (verb < 3) await expecting(node.write(at, Buffer.alloc(part, 1)));
        else if (verb === 3) await expecting(node.writeZeroes(at, part));
        else if (verb === 4) await expecting(node.discard(at, part));
        else if (verb === 5) await expecting(node.read(0, Buffer.alloc(length)));
        else if (verb === 6) await expecting(node.blockStatus(0, length));
        else {
          assert.ok(node.driver instanceof Qcow2Driver);
          const { clusterBytes } = node.driver;
          const start = at - (at % clusterBytes);
          const whole = Math.max(0, Math.min(clusterBytes, node.lengthBytes - start));
          await expecting(node.driver.writeCompressed(start, Buffer.alloc(whole, 2)));
        }
      }
      await expecting(node.flush());
      if (dice.roll(4) === 0) await expecting(node.makeEmpty());
      if (dice.roll(4) === 0)
        await expecting(node.driver.truncate?.(node.lengthBytes + 100_000) ?? Promise.resolve());
      await expecting(node.write(0, Buffer.alloc(Math.min(700, length), 1)));
      await node.close();
    })(),
  );
  assert.ok(disk.bytes.byteLength <= FILE_LIMIT);
}

describe('hostile qcow2 images', () => {
  for (const layout of LAYOUTS) {
    let good: Buffer;
    before(async () => {
      const disk = new BufferDisk(await emptyImage(layout));
      const node = await openImage(disk, null);
      await node.write(5000, Buffer.alloc(120_000, 1));
      await node.writeZeroes(30_000, 20_000, { unmap: false });
      assert.ok(node.driver instanceof Qcow2Driver);
      const { clusterBytes } = node.driver;
      for (let cluster = 0; cluster < 9; cluster++)
        await node.driver.writeCompressed((40 + cluster) * clusterBytes, Buffer.alloc(clusterBytes, cluster));
      await node.close();
      good = disk.bytes;
    });

    it(`meet errors, not crashes: ${JSON.stringify(layout)}`, { timeout: 60_000 * FUZZ }, async () => {
      for (let seed = 1; seed <= 100 * FUZZ; seed++) {
        const dice = new Dice(seed);
        const image = damage(good, dice);
        try {
          await use(image, dice);
        } catch (error) {
          throw new Error(`seed ${seed}`, { cause: error });
        }
      }
    });
  }

  it('take no memory or time for what their headers only claim', async () => {
    const image = Buffer.alloc(2 ** 21, await emptyImage({ guestBytes: 2 ** 20, clusterBits: 16 }));
    for (const [what, fields] of [
      ['8 EiB', [[24, 8, 2n ** 63n - 512n]]],
      ['4 PiB', [[24, 8, 2n ** 52n]]],
      ['2^22 L1 entries behind the end', [[36, 4, 2n ** 22n]]],
      [
        '2^22 L1 entries for 2 PiB',
        [
          [24, 8, 2n ** 51n],
          [36, 4, 2n ** 22n],
        ],
      ],
      ['2^32 - 1 L1 entries', [[36, 4, 2n ** 32n - 1n]]],
      ['a refcount table of 128 clusters', [[56, 4, 128n]]],
      ['a refcount table of 2^32 - 1 clusters', [[56, 4, 2n ** 32n - 1n]]],
      [
        '2^32 - 1 snapshots',
        [
          [60, 4, 2n ** 32n - 1n],
          [64, 8, 2n ** 40n],
        ],
      ],
      [
        'an extension of 4 GiB',
        [
          [112, 4, 0x6803f857n],
          [116, 4, 2n ** 32n - 1n],
        ],
      ],
      [
        'a bitmap directory of 4 GiB',
        [
          [88, 8, 1n],
          [112, 4, 0x23852875n],
          [116, 4, 24n],
          [124, 4, 2n ** 32n - 1n],
        ],
      ],
    ] as [string, [number, 4 | 8, bigint][]][]) {
      const claims = Buffer.from(image);
      for (const [at, size, value] of fields) put(claims, at, size, value);
      const held = process.memoryUsage().arrayBuffers;
      await expecting(
        (async () => {
          const node = await openImage(new BoundedDisk(claims), null);
          await expecting(node.read(Math.max(0, node.lengthBytes - 512), Buffer.alloc(512)));
          await expecting(node.write(Math.max(0, node.lengthBytes - 512), Buffer.alloc(512, 1)));
          await node.close();
        })(),
      );
      const taken = process.memoryUsage().arrayBuffers - held;
      assert.ok(taken < 160 * 2 ** 20, `${what}: ${taken} bytes`);
    }
  });

  it('end the search for a free cluster when all counts claim use', async () => {
    // A refcount table of 8 MiB that names one block of ones a million times.
    const image = Buffer.alloc(2 ** 21 + 2 ** 23, await emptyImage({ guestBytes: 2 ** 20, clusterBits: 16 }));
    put(image, 48, 8, 2n ** 21n);
    put(image, 56, 4, 128n);
    for (let entry = 0; entry < 2 ** 20; entry++) put(image, 2 ** 21 + entry * 8, 8, 0x20000n);
    image.fill(Buffer.from([0, 1]), 0x20000, 0x30000);
    const node = await openImage(new BoundedDisk(image), null);
    await assert.rejects(node.write(0, Buffer.alloc(1)), /far behind the end/);
    await node.makeEmpty();
    await expecting(node.write(0, Buffer.alloc(1)));
    await expecting(node.close());
  });
});
