import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { MAX_PENDING_BYTES, ReleaseQueue } from '../../../src/net/compare/release-queue.ts';
import { MemoryChardev } from './memory-chardev.ts';

const numbers = (frames: readonly Uint8Array[]): number[] =>
  frames.map((frame) => (frame[0]! << 8) | frame[1]!);

/** A frame in the middle of other bytes. */
function send(queue: ReleaseQueue, index: number, length: number): void {
  const bytes = new Uint8Array(length + 10).fill(index & 0xff);
  bytes[5] = index >>> 8;
  bytes[6] = index & 0xff;
  queue.send(bytes, 5, length + 5, 12);
  bytes.fill(0xee);
}

test('packets that find no room wait in order and leave when there is room', () => {
  mock.timers.enable({ apis: ['setTimeout'] });
  try {
    const out = new MemoryChardev('out');
    const queue = new ReleaseQueue(out, true);
    queue.attach('test');
    send(queue, 0, 60);
    out.full = true;
    for (let index = 1; index < 600; index++) send(queue, index, 60 + ((index * 37) % 2000));
    assert.equal(queue.pending, 599);
    mock.timers.tick(10);
    assert.equal(queue.pending, 599);
    out.full = false;
    // Not ahead of those that wait.
    send(queue, 600, 60);
    assert.deepEqual(numbers(out.frames(true)), [0]);
    mock.timers.tick(10);
    assert.equal(queue.pending, 0);
    assert.deepEqual(
      numbers(out.frames(true)),
      Array.from({ length: 601 }, (_, index) => index),
    );
    assert.ok(
      out
        .frames(true)[7]!
        .subarray(2)
        .every((byte) => byte === 7),
    );
    assert.equal(queue.lost, 0);
    send(queue, 601, 60);
    assert.equal(out.frames(true).length, 602);
    queue.close();
  } finally {
    mock.timers.reset();
  }
});

test('what waits is bounded; what is too much is lost and counted', () => {
  mock.timers.enable({ apis: ['setTimeout'] });
  try {
    const out = new MemoryChardev('out');
    const queue = new ReleaseQueue(out, false);
    queue.attach('test');
    out.full = true;
    const wholes = Math.floor(MAX_PENDING_BYTES / 60_008);
    for (let index = 0; index < wholes + 5; index++) send(queue, index, 60_000);
    assert.equal(queue.pending, wholes);
    assert.equal(queue.lost, 5);
    queue.send(new Uint8Array(4), 2, 2, 0);
    assert.equal(queue.pending, wholes, 'a frame of no bytes waits');
    out.full = false;
    mock.timers.tick(10);
    assert.deepEqual(
      numbers(out.frames()),
      Array.from({ length: wholes }, (_, index) => index),
    );
    queue.close();
  } finally {
    mock.timers.reset();
  }
});

test('without a peer, and when the peer goes, what waits is lost', () => {
  mock.timers.enable({ apis: ['setTimeout'] });
  try {
    const out = new MemoryChardev('out');
    const queue = new ReleaseQueue(out, false);
    queue.attach('test');
    out.full = true;
    for (let index = 0; index < 3; index++) send(queue, index, 60);
    out.disconnect();
    mock.timers.tick(10);
    assert.equal(queue.lost, 3);
    send(queue, 3, 60);
    assert.equal(queue.lost, 4);
    assert.equal(queue.pending, 0);
    out.full = false;
    out.reconnect();
    send(queue, 4, 60);
    assert.deepEqual(numbers(out.frames()), [4]);
    queue.close();
  } finally {
    mock.timers.reset();
  }
});
