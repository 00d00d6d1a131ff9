import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { BufferPool } from '../../../src/nbd/buffer-pool.ts';

describe('BufferPool', () => {
  it('gives the same memory again, once it has been given back, and only then', () => {
    const pool = new BufferPool();
    const first = pool.take(256 * 1024 + 28);
    const second = pool.take(256 * 1024 + 28);
    assert.notEqual(first.buffer, second.buffer);
    assert.equal(first.length, 256 * 1024 + 28);
    pool.give(first.subarray(28));
    const third = pool.take(200 * 1024);
    assert.equal(third.buffer, first.buffer);
    assert.equal(third.length, 200 * 1024);
  });

  it('takes nothing foreign, nothing twice, and keeps a bounded amount', () => {
    const pool = new BufferPool();
    const foreign = Buffer.alloc(65536 + 4096);
    pool.give(foreign);
    assert.notEqual(pool.take(65536).buffer, foreign.buffer);
    const mine = pool.take(65536);
    pool.give(mine);
    pool.give(mine);
    assert.equal(pool.take(65536).buffer, mine.buffer);
    assert.notEqual(pool.take(65536).buffer, mine.buffer);
    const many = Array.from({ length: 20 }, () => pool.take(4 * 2 ** 20));
    for (const buffer of many) pool.give(buffer);
    const reused = Array.from({ length: 20 }, () => pool.take(4 * 2 ** 20)).filter((buffer) =>
      many.some((other) => other.buffer === buffer.buffer),
    );
    assert.equal(reused.length, 7);
  });
});
