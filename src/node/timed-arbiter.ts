/** An arbiter whose questions are counted and timed for the metrics, and which remembers whether it answered last. */
import type { NodeMetrics } from '../api/metrics.ts';
import type { Arbiter, SwapResult } from '../ha/index.ts';

/** An answer that is older says nothing about now, milliseconds. */
const NEWS_MS = 5_000;

export interface TimedArbiter extends Arbiter {
  /** Whether it has answered lately. */
  isReached(): 'yes' | 'no' | 'unknown';
}

export function timed(arbiter: Arbiter, metrics: NodeMetrics): TimedArbiter {
  let last: { readonly isAnswered: boolean; readonly at: number } | null = null;
  const asked = async <T>(operation: string, ask: () => Promise<T>): Promise<T> => {
    const began = performance.now();
    const tell = (outcome: 'ok' | 'lost' | 'unreachable'): void => {
      const now = performance.now();
      last = { isAnswered: outcome !== 'unreachable', at: now };
      metrics.arbiterAsked(operation, outcome, (now - began) / 1000);
    };
    try {
      const answer = await ask();
      tell((answer as SwapResult | null)?.outcome === 'lost' ? 'lost' : 'ok');
      return answer;
    } catch (error) {
      tell('unreachable');
      throw error;
    }
  };
  return {
    identity: () => asked('identity', () => arbiter.identity()),
    read: (vm) => asked('read', () => arbiter.read(vm)),
    create: (vm, first) => asked('create', () => arbiter.create(vm, first)),
    swap: (vm, expected, next) => asked('swap', () => arbiter.swap(vm, expected, next)),
    watch: (vm, onChange) => arbiter.watch(vm, onChange),
    close: () => arbiter.close(),
    isReached: () => {
      if (last === null || performance.now() - last.at > NEWS_MS) return 'unknown';
      return last.isAnswered ? 'yes' : 'no';
    },
  };
}
