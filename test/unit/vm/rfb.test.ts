/** Where messages of RFB end: cut anywhere, made of all encodings that are let through; what is none is refused. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  ENCODING,
  clientMessages,
  fullRequest,
  hasEncoding,
  resizeMessage,
  serverMessages,
  statelessEncodings,
} from '../../../src/vm/vnc/rfb.ts';
import type { Picture } from '../../../src/vm/vnc/rfb.ts';

const u16 = (value: number): number[] => [value >> 8, value & 0xff];
const u32 = (value: number): number[] => [...u16((value >>> 16) & 0xffff), ...u16(value & 0xffff)];

function update(...rectangles: number[][]): Buffer {
  return Buffer.from([0, 0, ...u16(rectangles.length), ...rectangles.flat()]);
}

function rectangle(width: number, height: number, encoding: number, body: number[] = []): number[] {
  return [...u16(0), ...u16(0), ...u16(width), ...u16(height), ...u32(encoding), ...body];
}

const zeros = (count: number): number[] => Array.from({ length: count }, () => 0);

/** 20 by 17 in hextile: raw, one with both colours and plain subrectangles, coloured ones, one as the one before. */
const TILES = [
  ...[1, ...zeros(16 * 16 * 2)],
  ...[2 | 4 | 8, ...zeros(4), 3, ...zeros(6)],
  ...[8 | 16, 2, ...zeros(8)],
  0,
];

const SERVER: Buffer[] = [
  update(rectangle(3, 2, ENCODING.raw, zeros(12)), rectangle(5, 5, ENCODING.copyRect, zeros(4))),
  update(rectangle(9, 9, ENCODING.rre, [...u32(2), ...zeros(2 + 2 * 10)])),
  update(rectangle(20, 17, ENCODING.hextile, TILES)),
  update(rectangle(9, 2, ENCODING.cursor, zeros(9 * 2 * 2 + 2 * 2))),
  update(rectangle(640, 480, ENCODING.desktopSize)),
  update(rectangle(800, 600, ENCODING.extendedDesktopSize, [1, 0, 0, 0, ...zeros(16)])),
  update(
    rectangle(0, 0, ENCODING.desktopName, [...u32(3), 65, 66, 67]),
    rectangle(0, 0, ENCODING.ledState, [5]),
  ),
  update(rectangle(0, 0, ENCODING.extendedKey), rectangle(0, 0, ENCODING.pointerType)),
  Buffer.from([1, 0, ...u16(0), ...u16(2), ...zeros(12)]),
  Buffer.from([2]),
  Buffer.from([3, 0, 0, 0, ...u32(4), ...zeros(4)]),
  Buffer.from([250, 0, 1, 0]),
];

const CLIENT: Buffer[] = [
  Buffer.from([0, ...zeros(19)]),
  Buffer.from([2, 0, ...u16(2), ...zeros(8)]),
  Buffer.from([3, ...zeros(9)]),
  Buffer.from([4, ...zeros(7)]),
  Buffer.from([5, ...zeros(5)]),
  Buffer.from([6, 0, 0, 0, ...u32(3), 1, 2, 3]),
  Buffer.from([250, 0, 1, 2]),
  Buffer.from([251, 0, ...zeros(4), 1, 0, ...zeros(16)]),
  Buffer.from([255, 0, ...zeros(10)]),
];

/** In pieces whose lengths repeat. */
function cut(bytes: Buffer, lengths: readonly number[], push: (chunk: Buffer) => void): void {
  for (let at = 0, turn = 0; at < bytes.length; turn++) {
    const length = lengths[turn % lengths.length] ?? 1;
    push(bytes.subarray(at, at + length));
    at += length;
  }
}

const picture = (): Picture => ({ width: 1, height: 1, bytesPerPixel: 2 });

test('messages come out as they went in, however they are cut', () => {
  const lengths = fc.array(fc.integer({ min: 1, max: 5000 }), { minLength: 1, maxLength: 8 });
  fc.assert(
    fc.property(fc.array(fc.nat(SERVER.length - 1), { maxLength: 30 }), lengths, (chosen, pieces) => {
      const sent = chosen.map((at) => SERVER[at]!);
      const got: Buffer[] = [];
      const cutter = serverMessages(picture(), (message) => got.push(Buffer.from(message)));
      cut(Buffer.concat(sent), pieces, (chunk) => cutter.push(chunk));
      assert.deepEqual(got, sent);
    }),
  );
  fc.assert(
    fc.property(fc.array(fc.nat(CLIENT.length - 1), { maxLength: 30 }), lengths, (chosen, pieces) => {
      const sent = chosen.map((at) => CLIENT[at]!);
      const got: Buffer[] = [];
      const cutter = clientMessages((message) => got.push(Buffer.from(message)));
      cut(Buffer.concat(sent), pieces, (chunk) => cutter.push(chunk));
      assert.deepEqual(got, sent);
    }),
  );
});

test('the size of the picture is followed', () => {
  const known = picture();
  const cutter = serverMessages(known, () => undefined);
  cutter.push(SERVER[4]!);
  assert.deepEqual([known.width, known.height], [640, 480]);
  for (const isExtended of [false, true]) {
    cutter.push(resizeMessage({ width: 30, height: 20, bytesPerPixel: 4 }, isExtended));
    assert.deepEqual([known.width, known.height], [30, 20]);
    cutter.push(SERVER[5]!);
  }
});

test('what is no message ends the connection, before it takes memory', () => {
  const server = (bytes: number[]): void =>
    serverMessages(picture(), () => undefined).push(Buffer.from(bytes));
  const client = (bytes: number[]): void => clientMessages(() => undefined).push(Buffer.from(bytes));
  assert.throws(() => server([9]), /RFB: a server's message of type 9/);
  assert.throws(() => server([...update(rectangle(1, 1, 16))]), /a rectangle in encoding 16/);
  assert.throws(() => server([...update(rectangle(65535, 65535, 0))]), /too long a message/);
  assert.throws(() => server([...update(rectangle(1, 1, 2, u32(0xffffffff)))]), /too long a message/);
  assert.throws(() => client([7]), /a client's message of type 7/);
  assert.throws(() => client([6, 0, 0, 0, ...u32(0x7fffffff)]), /too long a message/);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      for (const feed of [server, client]) {
        try {
          feed([...bytes]);
        } catch (error) {
          assert.match((error as Error).message, /^RFB: /);
        }
      }
    }),
  );
});

test('encodings with a stream of their own are taken out', () => {
  const wanted = [16, 7, 6, 0, 1, -223, -260, 5, -239];
  const message = Buffer.from([2, 0, ...u16(wanted.length), ...wanted.flatMap((encoding) => u32(encoding))]);
  const kept = statelessEncodings(message);
  assert.equal(kept.readUInt16BE(2), 5);
  for (const encoding of wanted)
    assert.equal(hasEncoding(kept, encoding), [0, 1, -223, 5, -239].includes(encoding));
  assert.deepEqual(
    [...fullRequest({ width: 258, height: 3, bytesPerPixel: 4 })],
    [3, 0, 0, 0, 0, 0, 1, 2, 0, 3],
  );
});
