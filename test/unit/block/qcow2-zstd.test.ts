/** zstd frames, sound and not: only whole ones of the right size are taken, and nothing else happens. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { hasZstd, unpackZstd } from '../../../src/block/drivers/qcow2/zstd.ts';

const skip = hasZstd() ? false : 'libzstd.so.1 is not installed';

/** A frame of one raw block of at most 255 bytes (RFC 8878, 3.1.1). */
function frame(content: Uint8Array): Buffer {
  const block = (content.byteLength << 3) | 1;
  const head = [0x28, 0xb5, 0x2f, 0xfd, 0x20, content.byteLength, block & 255, block >> 8, 0];
  return Buffer.concat([Buffer.from(head), content]);
}

describe('zstd', { skip }, () => {
  it('unpacks a frame, whatever follows it, and only into as much room as it needs', async () => {
    const content = Buffer.from('all of a cluster');
    const packed = Buffer.concat([frame(content), Buffer.alloc(100, 0x55)]);
    const target = new Uint8Array(content.byteLength);
    assert.equal(await unpackZstd(packed, target), true);
    assert.deepEqual(Buffer.from(target), content);
    assert.equal(await unpackZstd(packed, new Uint8Array(content.byteLength - 1)), false);
    assert.equal(await unpackZstd(packed, new Uint8Array(content.byteLength + 1)), false);
    assert.equal(await unpackZstd(new Uint8Array(0), target), false);
  });

  it('bears any bytes', () =>
    fc.assert(
      fc.asyncProperty(
        fc.oneof(
          fc.uint8Array({ maxLength: 300 }),
          fc
            .tuple(fc.uint8Array({ maxLength: 255 }), fc.nat(), fc.integer({ min: 0, max: 255 }))
            .map(([content, at, value]) => {
              const bytes = frame(content);
              bytes[at % bytes.byteLength] = value;
              return bytes;
            }),
        ),
        fc.nat(300),
        async (packed, room) => {
          const memory = new Uint8Array(room + 16).fill(0xa5);
          const isWhole = await unpackZstd(packed, memory.subarray(0, room));
          assert.equal(typeof isWhole, 'boolean');
          assert.ok(
            memory.subarray(room).every((byte) => byte === 0xa5),
            'nothing behind the room',
          );
        },
      ),
      { numRuns: 500 },
    ));
});
