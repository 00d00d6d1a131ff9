/**
 * The connections in comparison, bounded: a full table forgets the idle connection that was not used for longest, and
 * refuses when there is none (QEMU drops them all, with every packet they hold). Also counts what is kept of the
 * secondary, for the bound over all connections. Key: classify.ts; QEMU's: docs/qemu-behaviour.md 3.2.
 */
import { FlowTable } from '../flow-table.ts';
import type { PacketView } from '../packet.ts';
import { Connection } from './connection.ts';
import type { Shared } from './connection.ts';
import type { FlowClass } from './held-packet.ts';
import type { PacketPool } from './packet-pool.ts';
import { Siblings } from './siblings.ts';
import { StatementLog } from './statement-memory.ts';
import { TwinIndex } from './twin-index.ts';

/** How many of the oldest are looked at for one that is idle. */
const EVICTION_ATTEMPTS = 64;

export class ConnectionTable {
  readonly #flows = new FlowTable<Connection>();
  readonly #maxFlows: number;
  readonly #shared: Shared;
  readonly siblings = new Siblings();
  secondaryBytes = 0;
  secondaryItems = 0;
  evicted = 0;

  constructor(maxFlows: number, pool: PacketPool) {
    this.#maxFlows = maxFlows;
    this.#shared = { pool, index: new TwinIndex(), log: new StatementLog(pool) };
  }

  get size(): number {
    return this.#flows.size;
  }

  /** The connection of a classified packet, a new one if need be; null when the table is full of ones that hold packets. */
  connectionOf(view: PacketView, flowClass: FlowClass): Connection | null {
    const found = this.#flows.find(view.key);
    if (found !== null) return found;
    if (this.#flows.size >= this.#maxFlows && !this.#evict()) return null;
    const connection = new Connection(view.key, flowClass, this.#shared);
    this.#flows.insert(connection);
    return connection;
  }

  /** Must follow each change of what a comparer keeps of the secondary. */
  count(connection: Connection): void {
    const { secondaryBytes, secondaryItems } = connection.comparer;
    this.secondaryBytes += secondaryBytes - connection.countedBytes;
    this.secondaryItems += secondaryItems - connection.countedItems;
    connection.countedBytes = secondaryBytes;
    connection.countedItems = secondaryItems;
  }

  /** Least recently used first. */
  all(): Iterable<Connection> {
    return this.#flows;
  }

  /** Forgets all of them. Their queues must be empty. */
  clear(): void {
    for (const connection of this.#flows) connection.comparer.dispose();
    this.#flows.clear();
    this.siblings.clear();
    this.secondaryBytes = 0;
    this.secondaryItems = 0;
  }

  #evict(): boolean {
    let attempts = 0;
    for (const connection of this.#flows) {
      if (connection.isIdle) {
        this.siblings.forget(connection);
        connection.comparer.dispose();
        this.count(connection);
        this.#flows.remove(connection);
        this.evicted++;
        return true;
      }
      if (++attempts === EVICTION_ATTEMPTS) return false;
    }
    return false;
  }
}
