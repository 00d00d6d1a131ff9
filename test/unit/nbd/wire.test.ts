import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { IoError, ProtocolError } from '../../../src/base/errors.ts';
import { errnoOfWire, systemErrorText, wireErrorOf } from '../../../src/nbd/errors.ts';
import { ReadCoverage } from '../../../src/nbd/read-coverage.ts';
import {
  decodeRequest,
  encodeDataChunkHeader,
  encodeRequest,
  encodeSimpleReply,
  errorChunk,
  statusChunk,
} from '../../../src/nbd/wire.ts';

describe('NBD wire format', () => {
  it('encodes and decodes the recorded write with FUA', () => {
    const golden = '25609513000100010000555d7e738000000000000000100000000008';
    const out = Buffer.alloc(28);
    assert.equal(encodeRequest(out, 0, 1, 1, 0x555d, 0x7e738000, 4096, 8), 28);
    assert.equal(out.toString('hex'), golden);
    assert.deepEqual(decodeRequest(out), {
      flags: 1,
      type: 1,
      cookieHi: 0x555d,
      cookieLo: 0x7e738000,
      offset: 4096,
      length: 8,
    });
  });

  it('encodes replies as qemu-nbd does', () => {
    const simple = Buffer.alloc(16);
    encodeSimpleReply(simple, 0, 0, 0x555d, 0x7e738000);
    assert.equal(simple.toString('hex'), '67446698000000000000555d7e738000');
    const data = Buffer.alloc(28);
    encodeDataChunkHeader(data, 0, 0x555d, 0x7e738000, 512, 16);
    assert.equal(data.toString('hex'), '668e33ef000100010000555d7e738000000000180000000000000200');
    const status = statusChunk(0, [{ length: 0x2000, flags: 0 }], 0x555d, 0x7e738000);
    assert.equal(status.toString('hex'), '668e33ef000100050000555d7e7380000000000c000000000000200000000000');
    const error = errorChunk(22, 'no', 1, 2);
    assert.equal(error.toString('hex'), '668e33ef000180010000000100000002000000080000001600026e6f');
  });

  it('keeps every field of every request', () => {
    const u32 = fc.integer({ min: 0, max: 0xffffffff });
    const u16 = fc.integer({ min: 0, max: 0xffff });
    fc.assert(
      fc.property(u16, u16, u32, u32, fc.maxSafeNat(), u32, (flags, type, hi, lo, offset, length) => {
        const out = Buffer.alloc(28);
        encodeRequest(out, 0, flags, type, hi, lo, offset, length);
        assert.deepEqual(decodeRequest(out), { flags, type, cookieHi: hi, cookieLo: lo, offset, length });
      }),
    );
  });

  it('refuses a wrong magic, and keeps an offset beyond 2^53 large', () => {
    assert.throws(() => decodeRequest(Buffer.alloc(28)), ProtocolError);
    const out = Buffer.alloc(28, 0xff);
    out.writeUInt32BE(0x25609513);
    assert.ok(decodeRequest(out).offset > Number.MAX_SAFE_INTEGER);
  });

  it('maps errors both ways', () => {
    assert.equal(wireErrorOf(new IoError('ENOSPC', '')), 28);
    assert.equal(wireErrorOf(new IoError('EROFS', '')), 1);
    assert.equal(wireErrorOf(new IoError('ETIMEDOUT', '')), 5);
    assert.equal(wireErrorOf(new Error('a bug')), 5);
    assert.equal(errnoOfWire(28), 'ENOSPC');
    assert.equal(errnoOfWire(4711), 'EINVAL');
    assert.equal(systemErrorText({ code: 'ECONNREFUSED', errno: -111 }), 'Connection refused');
    assert.equal(systemErrorText(new Error('other')), 'other');
  });
});

describe('ReadCoverage', () => {
  it('accepts pieces in any order once each, and knows when all have come', () => {
    const LENGTH = 64;
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.integer({ min: 1, max: LENGTH - 1 }), { maxLength: 12 }),
        fc.infiniteStream(fc.nat()),
        (cuts, dice) => {
          const borders = [0, ...cuts.toSorted((a, b) => a - b), LENGTH];
          const pieces = borders.slice(0, -1).map((from, index) => [from, borders[index + 1]!] as const);
          const coverage = new ReadCoverage();
          coverage.reset(LENGTH);
          const left = [...pieces];
          while (left.length > 0) {
            assert.equal(coverage.isComplete, false);
            const [next] = left.splice(dice.next().value! % left.length, 1);
            coverage.add(next![0], next![1] - next![0]);
            // No byte of it is accepted again.
            assert.throws(() => coverage.add(next![0], 1), ProtocolError);
            assert.throws(() => coverage.add(next![1] - 1, 1), ProtocolError);
          }
          assert.equal(coverage.isComplete, true);
        },
      ),
    );
  });

  it('refuses what was not asked for', () => {
    const coverage = new ReadCoverage();
    coverage.reset(10);
    for (const [from, length] of [
      [-1, 2],
      [0, 11],
      [10, 1],
      [3, 0],
    ] as const) {
      assert.throws(() => coverage.add(from, length), ProtocolError);
    }
    coverage.add(2, 2);
    coverage.add(6, 2);
    assert.throws(() => coverage.add(1, 6), ProtocolError);
    assert.throws(() => coverage.add(3, 4), ProtocolError);
  });

  it('bounds the number of loose pieces', () => {
    const coverage = new ReadCoverage();
    coverage.reset(1_000_000);
    assert.throws(() => {
      for (let at = 1; at < 1_000_000; at += 2) coverage.add(at, 1);
    }, /too many pieces/);
  });
});
