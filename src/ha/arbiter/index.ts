/**
 * The arbiter of a VM: one record that says who may go on alone, changed by compare-and-swap only. `arbiter.ts` is the
 * contract, `record.ts` what a record may be; `file-arbiter.ts` keeps records in a directory that both sides see (through
 * `file-child.ts`, which does `file-calls.ts`), `etcd-arbiter.ts` in etcd (through `etcd-client.ts`), `memory-arbiter.ts`
 * nowhere; `open-arbiter.ts` opens the one that a host's configuration names. What a side does with it is ../side.ts. The argument: docs/arbiter.md.
 */
export * from './arbiter.ts';
export { EtcdArbiter } from './etcd-arbiter.ts';
export { FileArbiter } from './file-arbiter.ts';
export { etcdOptions, openArbiter } from './open-arbiter.ts';
export { MemoryArbiter, MemoryStore } from './memory-arbiter.ts';
