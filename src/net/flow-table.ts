/**
 * A bounded table of IPv4 flows that remembers the order of use. Lookup allocates nothing. What a full table does is
 * its owner's decision: `oldest` is the flow that was not used for longest. Key: docs/qemu-behaviour.md 3.2.
 */
import { randomInt } from 'node:crypto';
import { ipv4Text } from './packet.ts';

/** QEMU's HASHTABLE_MAX_SIZE (net/colo.h). */
export const MAX_FLOWS = 16_384;

/** Base of what a FlowTable holds. The links belong to the table. */
export class Flow {
  readonly source: number;
  readonly destination: number;
  /** Source port in the high half, destination port in the low one. */
  readonly ports: number;
  readonly protocol: number;
  hash = 0;
  older: Flow | null = null;
  newer: Flow | null = null;
  chained: Flow | null = null;

  constructor(source: number, destination: number, ports: number, protocol: number) {
    this.source = source;
    this.destination = destination;
    this.ports = ports;
    this.protocol = protocol;
  }

  /** For logs: `tcp`'s number, then both ends. */
  get text(): string {
    const from = `${ipv4Text(this.source)}:${this.ports >>> 16}`;
    return `${this.protocol}/${from}>${ipv4Text(this.destination)}:${this.ports & 0xffff}`;
  }
}

/** Both ports as one number. */
export function packPorts(sourcePort: number, destinationPort: number): number {
  return ((sourcePort << 16) | destinationPort) >>> 0;
}

export class FlowTable<T extends Flow> implements Iterable<T> {
  readonly #buckets = new Map<number, T>();
  /** Guests choose the keys: without a secret they could choose them all alike. */
  readonly #seed = randomInt(2 ** 32);
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
  find(source: number, destination: number, ports: number, protocol: number): T | null {
    let flow = this.#buckets.get(this.#hash(source, destination, ports, protocol)) ?? null;
    while (flow !== null) {
      if (
        flow.source === source &&
        flow.destination === destination &&
        flow.ports === ports &&
        flow.protocol === protocol
      ) {
        this.touch(flow);
        return flow;
      }
      flow = flow.chained as T | null;
    }
    return null;
  }

  /** Adds a flow that is not in the table. */
  insert(flow: T): void {
    flow.hash = this.#hash(flow.source, flow.destination, flow.ports, flow.protocol);
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

  #hash(source: number, destination: number, ports: number, protocol: number): number {
    let hash = this.#seed ^ protocol;
    hash = Math.imul(hash ^ source, 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 15) ^ destination, 0xc2b2ae35);
    hash = Math.imul(hash ^ (hash >>> 13) ^ ports, 0x27d4eb2f);
    return hash ^ (hash >>> 16);
  }
}
