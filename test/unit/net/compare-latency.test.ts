// The histogram of held packets: percentiles within the stated error of the exact ones.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { LatencyHistogram, SUB_BUCKETS } from '../../../src/net/compare/latency.ts';
import { RECENT_MS, RecentLatency } from '../../../src/net/compare/recent-latency.ts';

const FRACTIONS = [0, 0.5, 0.9, 0.99, 0.999, 1];

/** Nearest rank. */
function exact(sorted: readonly number[], fraction: number): number {
  return sorted[Math.max(1, Math.ceil(fraction * sorted.length)) - 1]!;
}

test('a percentile is never below the exact one and at most 1/32 above it', () => {
  // From single microseconds to most of a day, so that every power of two is met.
  const times = fc.oneof(
    fc.integer({ min: 0, max: 200 }),
    fc.integer({ min: 0, max: 5_000_000 }),
    fc.integer({ min: 0, max: 36 }).map((bits) => Math.min(2 ** bits, 2 ** 36 - 1)),
    fc.integer({ min: 1, max: 36 }).map((bits) => 2 ** bits - 1),
    fc.maxSafeInteger().map((n) => Math.abs(n) % 2 ** 36),
  );
  fc.assert(
    fc.property(fc.array(times, { minLength: 1, maxLength: 300 }), (us) => {
      const histogram = new LatencyHistogram();
      for (const time of us) histogram.record(time / 1000);
      const sorted = us.toSorted((a, b) => a - b);
      for (const fraction of FRACTIONS) {
        const told = histogram.percentileUs(fraction);
        const right = exact(sorted, fraction);
        assert.ok(told >= right, `${fraction}: ${told} below ${right}`);
        assert.ok(told <= right + right / SUB_BUCKETS, `${fraction}: ${told} too far above ${right}`);
      }
      assert.equal(histogram.maxUs, sorted.at(-1));
      assert.equal(histogram.count, us.length);
    }),
    { numRuns: 300 },
  );
});

test('short times are exact', () => {
  for (let us = 0; us < 2 * SUB_BUCKETS; us++) {
    const histogram = new LatencyHistogram();
    histogram.record(us / 1000);
    histogram.record(1);
    assert.equal(histogram.percentileUs(0.5), us);
  }
});

test('nothing recorded, a clock that went back, and more than a day', () => {
  const histogram = new LatencyHistogram();
  assert.deepEqual(histogram.summary(), { count: 0, p50: 0, p90: 0, p99: 0, p999: 0, max: 0 });
  histogram.record(-5);
  assert.equal(histogram.percentileUs(1), 0);
  histogram.record(1e9);
  assert.deepEqual(histogram.maxUs, 1e12);
  assert.ok(histogram.percentileUs(1) >= 2 ** 36 - 1);
  assert.equal(histogram.count, 2);
});

test('the summary names its percentiles', () => {
  const histogram = new LatencyHistogram();
  for (let us = 1; us <= 1000; us++) histogram.record(us / 1000);
  const { count, p50, p90, p99, p999, max } = histogram.summary();
  assert.deepEqual([count, max], [1000, 1000]);
  for (const [told, right] of [
    [p50, 500],
    [p90, 900],
    [p99, 990],
    [p999, 999],
  ] as const) {
    assert.ok(told >= right && told <= right * (1 + 1 / SUB_BUCKETS), `${told} for ${right}`);
  }
});

test('what is recent is forgotten when it is asked for later, and not because several ask', () => {
  const [said, covered] = [new LatencyHistogram(), new LatencyHistogram()];
  said.record(0.01);
  const recent = new RecentLatency([said, covered], 0);
  assert.deepEqual(recent.summary(0), { count: 0, p50: 0, p99: 0 });
  said.record(0.02);
  covered.record(0.04);
  for (let asker = 0; asker < 3; asker++) {
    assert.deepEqual(recent.summary(RECENT_MS - 1), { count: 2, p50: 20, p99: 40 });
  }
  assert.equal(recent.summary(RECENT_MS).count, 2);
  said.record(0.03);
  assert.equal(recent.summary(2 * RECENT_MS - 1).count, 3);
  assert.deepEqual(recent.summary(2 * RECENT_MS), { count: 1, p50: 30, p99: 30 });
  assert.deepEqual(recent.summary(4 * RECENT_MS), { count: 0, p50: 0, p99: 0 });
});
