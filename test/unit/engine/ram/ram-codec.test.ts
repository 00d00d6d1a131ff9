/** The encoding of a RAM snapshot: its bytes, its size, and what is made of it that is wrong. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ProtocolError } from '../../../../src/base/errors.ts';
import { allocateRamChanges, PAGE_BYTES, parseRamChanges } from '../../../../src/engine/ram/ram-codec.ts';

const PAGES = 40;
/** The header and three page indexes. */
const HEAD_BYTES = 40 + 3 * 4;

function sampleRam(): Uint8Array {
  const header = { full: false, pages: 3, ramBytes: PAGES * PAGE_BYTES, id: 7n, parent: 6n };
  const { bytes, data } = allocateRamChanges(header, Uint32Array.of(0, 5, 39));
  for (let at = 0; at < 3; at++) data.fill(at + 1, at * PAGE_BYTES, (at + 1) * PAGE_BYTES);
  return bytes;
}

test('RAM changes have the documented layout', () => {
  const bytes = sampleRam();
  assert.equal(
    Buffer.from(bytes.subarray(0, HEAD_BYTES)).toString('hex'),
    [
      '52414d32',
      '00000000',
      '0080020000000000',
      '0700000000000000',
      '0600000000000000',
      '03000000',
      '00000000',
      '00000000',
      '05000000',
      '27000000',
    ].join(''),
  );
  assert.equal(bytes.length, PAGE_BYTES + 3 * PAGE_BYTES);
  assert.equal(bytes[PAGE_BYTES], 1);
  const parsed = parseRamChanges(bytes, PAGES * PAGE_BYTES);
  assert.deepEqual([...parsed.indexes], [0, 5, 39]);
  assert.equal(parsed.id, 7n);
  assert.equal(parsed.data[2 * PAGE_BYTES], 3);
});

test('RAM changes cut off or changed anywhere in the head give changes or a ProtocolError, nothing else', () => {
  const good = sampleRam();
  for (let length = 0; length <= HEAD_BYTES; length++) {
    assert.throws(() => parseRamChanges(good.subarray(0, length), PAGES * PAGE_BYTES), ProtocolError);
  }
  fc.assert(
    fc.property(fc.nat(HEAD_BYTES - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
      const bytes = good.slice();
      bytes[at]! ^= flip;
      try {
        const { indexes } = parseRamChanges(bytes, PAGES * PAGE_BYTES);
        assert.ok(indexes.every((index) => index < PAGES));
      } catch (error) {
        assert.ok(error instanceof ProtocolError);
      }
    }),
  );
});

test('RAM changes of a guest beyond 4 GiB keep its size apart from a small one', () => {
  const ramBytes = 2 ** 32 + PAGES * PAGE_BYTES;
  const header = { full: true, pages: 1, ramBytes, id: 1n, parent: 0n };
  const { bytes } = allocateRamChanges(header, Uint32Array.of(2 ** 20 + PAGES - 1));
  assert.deepEqual([...parseRamChanges(bytes, ramBytes).indexes], [2 ** 20 + PAGES - 1]);
  assert.throws(() => parseRamChanges(bytes, PAGES * PAGE_BYTES), ProtocolError);
});

test('RAM changes hold no byte of what was in memory before', () => {
  // Freed memory that is likely to be used again.
  for (let at = 0; at < 50; at++) Buffer.allocUnsafeSlow(2 * PAGE_BYTES).fill(0xaa);
  for (let at = 0; at < 50; at++) {
    const header = { full: false, pages: 1, ramBytes: PAGES * PAGE_BYTES, id: 0n, parent: 0n };
    const { bytes } = allocateRamChanges(header, Uint32Array.of(0));
    assert.ok(bytes.subarray(44, PAGE_BYTES).every((byte) => byte === 0));
  }
});
