import assert from 'node:assert/strict';
import { test } from 'node:test';
import { releaseBuffer } from '../../src/base/buffers.ts';
import { until } from '../helpers/colo.ts';

const MIB = 1024 * 1024;

test('a large buffer is empty afterwards, a part of one and a small one are untouched', () => {
  const large = new Uint8Array(4 * MIB);
  const part = new Uint8Array(4 * MIB).subarray(0, 2 * MIB);
  const small = new Uint8Array(16);
  for (const bytes of [large, part, small]) releaseBuffer(bytes);
  assert.equal(large.byteLength, 0);
  assert.equal(part.byteLength, 2 * MIB);
  assert.equal(small.byteLength, 16);
});

test('the memory goes back without a collection', async () => {
  const before = process.memoryUsage().rss;
  const large = new Uint8Array(256 * MIB).fill(1);
  assert.ok(process.memoryUsage().rss > before + 200 * MIB);
  releaseBuffer(large);
  await until('the memory is back', 10_000, () => process.memoryUsage().rss < before + 64 * MIB);
});
