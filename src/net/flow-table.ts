/**
 * A bounded table of flows that remembers the order of use. Lookup allocates nothing. What a full table does is its
 * owner's decision: `oldest` is the flow that was not used for longest.
 */
import { randomInt } from 'node:crypto';
import { FlowKey } from './flow-key.ts';
import { flowText } from './flow-text.ts';

/** QEMU's HASHTABLE_MAX_SIZE (net/colo.h). */
export const MAX_FLOWS = 16_384;

/** Base of what a FlowTable holds. The key must not change while it is in one; the links belong to the table. */
export class Flow {
  readonly key = new FlowKey();
  hash = 0;
  older: Flow | null = null;
  newer: Flow | null = null;
  chained: Flow | null = null;

  /** Copies `key`. */
  constructor(key: FlowKey) {
    this.key.copy(key);
  }

  /** For logs: the protocol's name and both ends. */
  get text(): string {
    return flowText(this.key);
  }
}

export class FlowTable<T extends Flow> implements Iterable<T> {
  readonly #buckets = new Map<number, T>();
  /** Guests choose the keys: without a secret they could choose them all alike. Signed: no object when it is handed on. */
  readonly #seed = randomInt(2 ** 32) | 0;
  #oldest: T | null = null;
  #newest: T | null = null;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get oldest(): T | null {
    return this.#oldest;
  }

  /** The flow, which becomes the newest, or null. */
  find(key: FlowKey): T | null {
    let flow = this.#buckets.get(key.hash(this.#seed)) ?? null;
    while (flow !== null) {
      if (flow.key.equals(key)) {
        this.touch(flow);
        return flow;
      }
      flow = flow.chained as T | null;
    }
    return null;
  }

  /** Adds a flow that is not in the table. */
  insert(flow: T): void {
    flow.hash = flow.key.hash(this.#seed);
    flow.chained = this.#buckets.get(flow.hash) ?? null;
    this.#buckets.set(flow.hash, flow);
    this.#link(flow);
    this.#size++;
  }

  remove(flow: T): void {
    let before: Flow | null = null;
    let at: Flow | null = this.#buckets.get(flow.hash) ?? null;
    while (at !== null && at !== flow) {
      before = at;
      at = at.chained;
    }
    if (at === null) return;
    if (before !== null) before.chained = flow.chained;
    else if (flow.chained !== null) this.#buckets.set(flow.hash, flow.chained as T);
    else this.#buckets.delete(flow.hash);
    flow.chained = null;
    this.#unlink(flow);
    this.#size--;
  }

  /** Makes it the newest. */
  touch(flow: T): void {
    if (flow === this.#newest) return;
    this.#unlink(flow);
    this.#link(flow);
  }

  clear(): void {
    this.#buckets.clear();
    this.#oldest = null;
    this.#newest = null;
    this.#size = 0;
  }

  /** Oldest first. The flow just yielded may be removed. */
  *[Symbol.iterator](): Iterator<T> {
    let flow = this.#oldest;
    while (flow !== null) {
      const next = flow.newer as T | null;
      yield flow;
      flow = next;
    }
  }

  #link(flow: T): void {
    flow.older = this.#newest;
    flow.newer = null;
    if (this.#newest !== null) this.#newest.newer = flow;
    else this.#oldest = flow;
    this.#newest = flow;
  }

  #unlink(flow: T): void {
    if (flow.older !== null) flow.older.newer = flow.newer;
    else this.#oldest = flow.newer as T | null;
    if (flow.newer !== null) flow.newer.older = flow.older;
    else this.#newest = flow.older as T | null;
    flow.older = null;
    flow.newer = null;
  }
}
