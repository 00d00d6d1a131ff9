import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FrameDecoder, MAX_FRAME_BYTES, encodeHeader } from '../../../src/net/framing.ts';

const unexpected = (error: Error): never => {
  throw error;
};

function collector(vnetHdrSupport = false) {
  const frames: { text: string; vnet: number }[] = [];
  const errors: Error[] = [];
  const decoder = new FrameDecoder({
    vnetHdrSupport,
    onFrame: (bytes, from, to, vnet) =>
      frames.push({ text: Buffer.from(bytes.subarray(from, to)).toString('latin1'), vnet }),
    onError: (error) => errors.push(error),
  });
  return { frames, errors, decoder };
}

test('the header is a big-endian length, and the vnet word behind it where there is one', () => {
  assert.deepEqual([...encodeHeader(new Uint8Array(8), 0x01020304, null)], [1, 2, 3, 4]);
  assert.deepEqual([...encodeHeader(new Uint8Array(8), 0x10, 12)], [0, 0, 0, 16, 0, 0, 0, 12]);
});

test('frames are found whichever way the stream is cut', () => {
  const stream = Buffer.concat([
    encodeHeader(new Uint8Array(8), 3, 0),
    Buffer.from('abc'),
    encodeHeader(new Uint8Array(8), 0, 7),
    encodeHeader(new Uint8Array(8), 5, 12),
    Buffer.from('defgh'),
  ]);
  for (let first = 0; first <= stream.length; first++) {
    for (let second = first; second <= stream.length; second++) {
      const { frames, decoder } = collector(true);
      decoder.push(stream.subarray(0, first));
      decoder.push(stream.subarray(first, second));
      decoder.push(stream.subarray(second));
      assert.deepEqual(frames, [
        { text: 'abc', vnet: 0 },
        { text: 'defgh', vnet: 12 },
      ]);
      assert.equal(decoder.zeroLengthFrames, 1);
      assert.equal(decoder.consumedBytes, stream.length);
      assert.ok(decoder.atBoundary);
    }
  }
});

test('inside onFrame the position already counts the frame', () => {
  const positions: number[] = [];
  const decoder: FrameDecoder = new FrameDecoder({
    onFrame: () => positions.push(decoder.consumedBytes),
    onError: unexpected,
  });
  decoder.push(Buffer.from('\0\0\0\x01a\0\0\0\x02bc\0\0\0', 'latin1'));
  assert.deepEqual(positions, [5, 11]);
  assert.equal(decoder.atBoundary, false);
});

test('the largest frame passes, one byte more kills the decoder until reset', () => {
  const { frames, errors, decoder } = collector();
  decoder.push(encodeHeader(new Uint8Array(4), MAX_FRAME_BYTES, null));
  decoder.push(new Uint8Array(MAX_FRAME_BYTES));
  assert.equal(frames.length, 1);
  decoder.push(encodeHeader(new Uint8Array(4), MAX_FRAME_BYTES + 1, null));
  decoder.push(encodeHeader(new Uint8Array(4), MAX_FRAME_BYTES + 1, null));
  assert.equal(errors.length, 1);
  assert.ok(decoder.dead);
  decoder.push(Buffer.from('\0\0\0\x01a', 'latin1'));
  assert.equal(frames.length, 1);
  decoder.reset();
  decoder.push(Buffer.from('\0\0\0\x01a', 'latin1'));
  assert.equal(frames.length, 2);
});

test('a reset from inside a frame ends the chunk', () => {
  let count = 0;
  const decoder: FrameDecoder = new FrameDecoder({
    onFrame: () => {
      count++;
      decoder.reset();
    },
    onError: unexpected,
  });
  decoder.push(Buffer.from('\0\0\0\x01a\0\0\0\x01b', 'latin1'));
  assert.equal(count, 1);
});
