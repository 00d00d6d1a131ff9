/** The disk's layout and partition table. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { GuestBuildError } from '../../../src/guest/errors.ts';
import { MIB, planLayout, SECTOR, writeMbr } from '../../../src/guest/mbr.ts';

describe('planLayout', () => {
  it('puts the boot partition at 1 MiB and gives the rest to data', () => {
    const layout = planLayout(64 * MIB, 18 * MIB + 1);
    assert.deepEqual([layout.boot.offset, layout.boot.size], [MIB, 19 * MIB]);
    assert.deepEqual([layout.data.offset, layout.data.size], [20 * MIB, 44 * MIB]);
    assert.equal(layout.size, 64 * MIB);
  });

  it('rounds an odd size down, so that partitions end where the disk does', () => {
    const layout = planLayout(64 * MIB + 12345, 16 * MIB);
    assert.equal(layout.data.offset + layout.data.size, layout.size);
    assert.equal(layout.size, 64 * MIB);
  });

  it('refuses a disk without room for data, and says how large it must be', () => {
    assert.throws(
      () => planLayout(20 * MIB, 18 * MIB),
      (error: unknown) => error instanceof GuestBuildError && /at least 27 MiB/.test(error.message),
    );
    assert.equal(planLayout(27 * MIB, 18 * MIB).data.size, 8 * MIB);
  });
});

describe('writeMbr', () => {
  const layout = planLayout(64 * MIB, 16 * MIB);

  it('writes boot code, disk id, both entries and the signature', () => {
    const sector = Buffer.from(writeMbr(layout, Buffer.alloc(440, 0x90), 0x11223344));
    assert.equal(sector.length, SECTOR);
    assert.equal(sector[439], 0x90);
    assert.equal(sector.readUInt32LE(440), 0x11223344);
    const entries = [446, 462].map((at) => [
      sector[at],
      sector[at + 4],
      sector.readUInt32LE(at + 8) * SECTOR,
      sector.readUInt32LE(at + 12) * SECTOR,
    ]);
    assert.deepEqual(entries, [
      [0x80, 0x0e, MIB, 16 * MIB],
      [0, 0x83, 17 * MIB, 47 * MIB],
    ]);
    assert.ok(sector.subarray(478, 510).every((byte) => byte === 0));
    assert.equal(sector.readUInt16LE(510), 0xaa55);
  });

  it('refuses boot code that would run into the table', () => {
    assert.throws(() => writeMbr(layout, Buffer.alloc(441), 0), GuestBuildError);
  });
});
