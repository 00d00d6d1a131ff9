/**
 * How long packets were held lately: what histograms have counted since some seconds ago. Their state of then is kept, and
 * taken anew when somebody asks and it has grown old, so that a packet costs nothing and several may ask.
 */
import { BUCKETS, percentileOf } from './latency.ts';
import type { LatencyHistogram } from './latency.ts';

/** The window is so long or up to twice that while somebody asks, and reaches back to the question before otherwise. */
export const RECENT_MS = 5_000;

/** Microseconds, as LatencySummary's. */
export interface RecentSummary {
  readonly count: number;
  readonly p50: number;
  readonly p99: number;
}

interface State {
  readonly atMs: number;
  readonly counts: Float64Array;
}

export class RecentLatency {
  readonly #histograms: readonly LatencyHistogram[];
  /** What is counted since. */
  #from: State;
  /** What takes its place. */
  #next: State;

  constructor(histograms: readonly LatencyHistogram[], nowMs: number) {
    this.#histograms = histograms;
    this.#from = this.#next = this.#state(nowMs);
  }

  summary(nowMs: number): RecentSummary {
    const now = this.#state(nowMs);
    if (nowMs - this.#next.atMs >= RECENT_MS) {
      this.#from = this.#next;
      this.#next = now;
    }
    const since = new Float64Array(BUCKETS);
    let count = 0;
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      const fresh = now.counts[bucket]! - this.#from.counts[bucket]!;
      since[bucket] = fresh;
      count += fresh;
    }
    const at = (fraction: number): number => (count === 0 ? 0 : (percentileOf(since, count, fraction) ?? 0));
    return { count, p50: at(0.5), p99: at(0.99) };
  }

  #state(atMs: number): State {
    const counts = new Float64Array(BUCKETS);
    for (const histogram of this.#histograms) histogram.addTo(counts);
    return { atMs, counts };
  }
}
