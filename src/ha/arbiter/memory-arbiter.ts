/**
 * An arbiter in this process's memory: for simulations, and as the plainest form of the contract. It protects nothing,
 * since a pair that lives in one process dies with it.
 */
import {
  ArbiterUnreachableError,
  judge,
  type Arbiter,
  type ArbiterRecord,
  type Proposal,
  type RecordId,
  type SwapResult,
} from './arbiter.ts';
import { checkProposal, checkVmName } from './record.ts';

/** What several MemoryArbiters have in common: the two sides each have one of their own on the same store. */
export class MemoryStore {
  readonly records = new Map<string, ArbiterRecord>();
  readonly watchers = new Set<(vm: string) => void>();
  isReachable = true;
  readonly identity = `memory:${crypto.randomUUID()}`;
}

export class MemoryArbiter implements Arbiter {
  readonly #store: MemoryStore;
  readonly #ends = new Set<() => void>();
  #isClosed = false;

  constructor(store = new MemoryStore()) {
    this.#store = store;
  }

  async identity(): Promise<string> {
    await this.#reach();
    return this.#store.identity;
  }

  async read(vm: string): Promise<ArbiterRecord | null> {
    checkVmName(vm);
    await this.#reach();
    return this.#store.records.get(vm) ?? null;
  }

  create(vm: string, first: Proposal): Promise<SwapResult> {
    return this.#replace(vm, null, first);
  }

  swap(vm: string, expected: RecordId, next: Proposal): Promise<SwapResult> {
    return this.#replace(vm, expected, next);
  }

  watch(vm: string, onChange: (record: ArbiterRecord | null) => void): () => void {
    checkVmName(vm);
    const watcher = (changed: string): void => {
      if (changed === vm) onChange(this.#store.records.get(vm) ?? null);
    };
    this.#store.watchers.add(watcher);
    const end = (): void => {
      this.#store.watchers.delete(watcher);
      this.#ends.delete(end);
    };
    this.#ends.add(end);
    return end;
  }

  close(): Promise<void> {
    this.#isClosed = true;
    for (const end of this.#ends) end();
    return Promise.resolve();
  }

  async #replace(vm: string, expected: RecordId | null, next: Proposal): Promise<SwapResult> {
    const checked = checkProposal(vm, next);
    await this.#reach();
    const { isNew, ...result } = judge(vm, this.#store.records.get(vm) ?? null, expected, checked);
    if (isNew && result.outcome === 'won') {
      this.#store.records.set(vm, result.record);
      for (const watcher of this.#store.watchers) queueMicrotask(() => watcher(vm));
    }
    return result;
  }

  async #reach(): Promise<void> {
    await Promise.resolve();
    if (this.#isClosed) throw new ArbiterUnreachableError('arbiter: closed', false);
    if (!this.#store.isReachable) throw new ArbiterUnreachableError('arbiter in memory: switched off', false);
  }
}
