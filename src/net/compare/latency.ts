/**
 * How long packets were held, as a histogram of fixed size: whole microseconds in buckets that are linear below
 * 2 * SUB_BUCKETS and then SUB_BUCKETS to each power of two. A percentile is the upper end of its bucket, so it is never
 * below the exact one and at most 1/SUB_BUCKETS (3.2 %) above it; the maximum is exact. Recording allocates nothing.
 */

/** Buckets to a power of two. */
export const SUB_BUCKETS = 32;
const SUB_BITS = 5;
/** What is longer (19 hours) counts as this, except for `maxUs`. */
const TOP_BITS = 36;
export const BUCKETS = (TOP_BITS - SUB_BITS + 1) * SUB_BUCKETS;
const TOP_US = 2 ** TOP_BITS - 1;
/** Up to here, half an hour, bit operations do. */
const SMALL_BITS = 31;
export const MAX_SMALL_US = 2 ** SMALL_BITS;

/** Percentiles as `query-colo-compare` shows them; all in microseconds. */
export interface LatencySummary {
  readonly count: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

export class LatencyHistogram {
  readonly #counts = new Float64Array(BUCKETS);
  #count = 0;
  #maxUs = 0;

  get count(): number {
    return this.#count;
  }

  get maxUs(): number {
    return this.#maxUs;
  }

  /** A clock that went back counts as no time at all. */
  record(heldMs: number): void {
    const us = Math.floor(heldMs * 1000 + 0.5);
    this.recordUs(us > 0 ? us : 0);
  }

  /** A whole number, from 0. Handed on by itself a fraction would be an object a packet, and so would 2^31. */
  recordUs(us: number): void {
    this.#counts[bucketOf(us)]!++;
    this.#count++;
    if (us > this.#maxUs) this.#maxUs = us;
  }

  /** Adds how many there are in each bucket to what `counts` has. */
  addTo(counts: Float64Array): void {
    for (let bucket = 0; bucket < BUCKETS; bucket++) counts[bucket]! += this.#counts[bucket]!;
  }

  /** The value in microseconds that `fraction` (0 to 1) of all are at or below; 0 when nothing was recorded. */
  percentileUs(fraction: number): number {
    return Math.min(percentileOf(this.#counts, this.#count, fraction) ?? this.#maxUs, this.#maxUs);
  }

  summary(): LatencySummary {
    return {
      count: this.#count,
      p50: this.percentileUs(0.5),
      p90: this.percentileUs(0.9),
      p99: this.percentileUs(0.99),
      p999: this.percentileUs(0.999),
      max: this.#maxUs,
    };
  }
}

/** The upper end of the bucket up to which `fraction` of all `total` counts are; null: there are not so many. */
export function percentileOf(counts: Float64Array, total: number, fraction: number): number | null {
  const wanted = Math.max(1, Math.ceil(fraction * total));
  let seen = 0;
  for (let bucket = 0; bucket < BUCKETS; bucket++) {
    seen += counts[bucket]!;
    if (seen >= wanted) return upperEndOf(bucket);
  }
  return null;
}

function bucketOf(us: number): number {
  if (us < 2 * SUB_BUCKETS) return us;
  if (us < MAX_SMALL_US) {
    const shift = 31 - SUB_BITS - Math.clz32(us);
    return shift * SUB_BUCKETS + (us >>> shift);
  }
  const bounded = us > TOP_US ? TOP_US : us;
  const shift =
    TOP_BITS - SMALL_BITS + 31 - SUB_BITS - Math.clz32(Math.floor(bounded / 2 ** (TOP_BITS - SMALL_BITS)));
  return shift * SUB_BUCKETS + Math.floor(bounded / 2 ** shift);
}

/** The largest value that belongs to a bucket. */
function upperEndOf(bucket: number): number {
  if (bucket < 2 * SUB_BUCKETS) return bucket;
  const shift = Math.floor(bucket / SUB_BUCKETS) - 1;
  return ((bucket % SUB_BUCKETS) + SUB_BUCKETS + 1) * 2 ** shift - 1;
}
