/** The arbiter contract in memory. */
import { MemoryArbiter, MemoryStore } from '../../src/ha/arbiter/memory-arbiter.ts';
import { arbiterSuite } from './arbiter.ts';

arbiterSuite('memory', () => {
  const store = new MemoryStore();
  return Promise.resolve({ open: () => new MemoryArbiter(store), remove: () => Promise.resolve() });
});
