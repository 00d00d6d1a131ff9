/**
 * Where hosts and VMs are found: `registry.ts` is the contract, `schema.ts` what may stand there; `file-registry.ts` keeps
 * it in a directory (through `file-mirror.ts`, and `file-store.ts` in a process of its own), `etcd-registry.ts` in etcd
 * (through `etcd-keys.ts` and `etcd-lease.ts`), `memory-registry.ts` nowhere.
 */
export * from './registry.ts';
export { EtcdRegistry, type EtcdRegistryOptions } from './etcd-registry.ts';
export { FileRegistry, type FileRegistryOptions } from './file-registry.ts';
export { MemoryRegistry, MemoryRegistryStore } from './memory-registry.ts';
