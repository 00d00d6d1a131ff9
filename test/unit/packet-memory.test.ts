import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { PACKET_MEMORY_BYTES, copyPacketBytes, takePacketMemory } from '../../src/base/packet-memory.ts';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** Collects, and lets what waits for it run. */
async function collected(): Promise<void> {
  collect();
  await new Promise((resolve) => setTimeout(resolve, 0));
}

test('bytes are copied alike within the block, from it, into it and outside', () => {
  const places = [() => takePacketMemory(5000), () => new Uint8Array(5000), () => Buffer.alloc(5000)];
  for (const make of places) {
    const source = make();
    source.forEach((_, at) => (source[at] = (at * 7 + (at >> 8)) & 0xff));
    for (const makeTarget of places) {
      for (const [from, to, at] of [
        [0, 5000, 0],
        [3, 4, 4999],
        [10, 80, 1],
        [100, 197, 33],
        [1234, 4321, 555],
        [7, 7, 0],
      ] as const) {
        const target = makeTarget().fill(0xee);
        copyPacketBytes(source, from, to, target, at);
        const expected = new Uint8Array(5000).fill(0xee);
        expected.set(source.subarray(from, to), at);
        assert.ok(Buffer.from(expected).equals(target), `${from}..${to} to ${at}`);
      }
    }
  }
});

test('a copy never runs into the neighbour', () => {
  const source = takePacketMemory(256).fill(1);
  const target = takePacketMemory(128).fill(2);
  const neighbour = takePacketMemory(128).fill(3);
  assert.throws(() => copyPacketBytes(source, 0, 200, target, 0), RangeError);
  assert.throws(() => copyPacketBytes(source, 1, 200, target, 0), RangeError);
  assert.throws(() => copyPacketBytes(source, 1, 101, target, 29), RangeError);
  assert.ok(neighbour.every((byte) => byte === 3));
});

test('pieces are disjoint while they are used, and come again when they are forgotten', async () => {
  const kept = Array.from({ length: 50 }, (_, index) => takePacketMemory(1000).fill(index));
  const block = kept[0]!.buffer;
  // Far more than there is, if nothing came back.
  for (let round = 0; round < 8; round++) {
    let inBlock = 0;
    for (let at = 0; at < PACKET_MEMORY_BYTES / 4; at += 128 * 1024) {
      const piece = takePacketMemory(128 * 1024).fill(0xaa);
      if (piece.buffer === block) inBlock++;
    }
    assert.ok(inBlock > 0, `round ${round}: nothing came back`);
    await collected();
  }
  kept.forEach((piece, index) => assert.ok(piece.every((byte) => byte === index)));
});

test('when the block is used up there is memory all the same', () => {
  const block = takePacketMemory(64).buffer;
  const pieces: Buffer[] = [];
  for (;;) {
    const piece = takePacketMemory(1024 * 1024);
    pieces.push(piece);
    if (piece.buffer !== block) break;
    assert.ok(pieces.length < 64, 'no end');
  }
  const last = pieces.at(-1)!.fill(5);
  copyPacketBytes(last, 10, 1010, pieces[0]!, 0);
  assert.equal(pieces[0]![999], 5);
});
