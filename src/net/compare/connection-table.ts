/**
 * The connections in comparison, bounded: a full table forgets the idle connection that was not used for longest, and
 * refuses when there is none (QEMU drops them all, with every packet they hold). Also counts the bytes held of the
 * secondary, for the bound over all connections. Key: docs/qemu-behaviour.md 3.2.
 */
import { FlowTable } from '../flow-table.ts';
import { PROTOCOL } from '../packet.ts';
import type { PacketView } from '../packet.ts';
import { Connection } from './connection.ts';

/** How many of the oldest are looked at for one that is idle. */
const EVICTION_ATTEMPTS = 64;

export class ConnectionTable {
  readonly #flows = new FlowTable<Connection>();
  readonly #maxFlows: number;
  secondaryBytes = 0;
  evicted = 0;

  constructor(maxFlows: number) {
    this.#maxFlows = maxFlows;
  }

  get size(): number {
    return this.#flows.size;
  }

  /** The packet's connection, a new one if need be; null when the table is full of connections that hold packets. */
  connectionOf(view: PacketView): Connection | null {
    // Only whole segments have ports: behind a fragment's IP header may be payload.
    if (!view.isTcp && view.protocol === PROTOCOL.TCP) view.key.ports = 0;
    const found = this.#flows.find(view.key);
    if (found !== null) return found;
    if (this.#flows.size >= this.#maxFlows && !this.#evict()) return null;
    const connection = new Connection(view.key, view.isTcp);
    this.#flows.insert(connection);
    return connection;
  }

  /** Must follow each change of what a comparer holds of the secondary. */
  count(connection: Connection): void {
    const bytes = connection.comparer.secondaryBytes;
    this.secondaryBytes += bytes - connection.countedBytes;
    connection.countedBytes = bytes;
  }

  /** Least recently used first. */
  all(): Iterable<Connection> {
    return this.#flows;
  }

  clear(): void {
    this.#flows.clear();
    this.secondaryBytes = 0;
  }

  #evict(): boolean {
    let attempts = 0;
    for (const connection of this.#flows) {
      if (connection.isIdle) {
        this.#flows.remove(connection);
        this.evicted++;
        return true;
      }
      if (++attempts === EVICTION_ATTEMPTS) return false;
    }
    return false;
  }
}
