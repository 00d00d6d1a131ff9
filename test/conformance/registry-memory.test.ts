/** The registry contract in memory. */
import { MemoryRegistry, MemoryRegistryStore } from '../../src/ha/registry/memory-registry.ts';
import { registrySuite } from './registry.ts';

registrySuite('memory', () => {
  const store = new MemoryRegistryStore();
  return Promise.resolve({ open: () => new MemoryRegistry(store), remove: () => Promise.resolve() });
});
