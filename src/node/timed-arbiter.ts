/** An arbiter whose questions are counted and timed for the metrics; nothing else is different. */
import type { NodeMetrics } from '../api/metrics.ts';
import type { Arbiter, SwapResult } from '../ha/index.ts';

export function timed(arbiter: Arbiter, metrics: NodeMetrics): Arbiter {
  const asked = async <T>(operation: string, ask: () => Promise<T>): Promise<T> => {
    const began = performance.now();
    const tell = (outcome: 'ok' | 'lost' | 'unreachable'): void =>
      metrics.arbiterAsked(operation, outcome, (performance.now() - began) / 1000);
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
  };
}
