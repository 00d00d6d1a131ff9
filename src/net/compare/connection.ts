/**
 * One flow in comparison: the primary's packets that wait, and the comparer that knows what the secondary has said.
 * While a checkpoint is taken, `closed` holds the primary's packets of the epoch that it ends.
 */
import type { FlowKey } from '../flow-key.ts';
import { Flow } from '../flow-table.ts';
import type { FlowComparer } from './comparer.ts';
import { DatagramComparer } from './datagram.ts';
import type { FlowClass, HeldPacket } from './held-packet.ts';
import type { PacketPool } from './packet-pool.ts';
import { Ring } from './ring.ts';
import type { SiblingGroup } from './siblings.ts';
import type { StatementLog } from './statement-memory.ts';
import { StatementComparer } from './statement.ts';
import { TcpComparer } from './tcp.ts';
import type { TwinIndex } from './twin-index.ts';

/** What all connections of a comparer have in common. */
export interface Shared {
  readonly pool: PacketPool;
  readonly index: TwinIndex;
  readonly log: StatementLog;
}

export class Connection extends Flow {
  readonly comparer: FlowComparer;
  readonly queue = new Ring<HeldPacket>();
  readonly closed = new Ring<HeldPacket>();
  /** What the owner has counted of the comparer's. */
  countedBytes = 0;
  countedItems = 0;
  /** Either side, in this epoch or (the state of both) before it. */
  hasPrimarySpoken = false;
  hasSecondarySpoken = false;
  /** Set while only one side has spoken (siblings.ts). */
  siblings: SiblingGroup | null = null;
  isPrimaryOnly = false;
  /** How many at the front of the queue keep their places: up to the last signal (SYN, RST). */
  #fixed = 0;

  constructor(key: FlowKey, flowClass: FlowClass, { pool, index, log }: Shared) {
    super(key);
    if (flowClass === 'stream') this.comparer = new TcpComparer(pool);
    else if (flowClass === 'statement') this.comparer = new StatementComparer(pool, index, this.queue, log);
    else this.comparer = new DatagramComparer(pool, index, this.queue);
  }

  /** Nothing is lost when it is forgotten. */
  get isIdle(): boolean {
    return this.queue.length === 0 && this.closed.length === 0 && this.comparer.isIdle;
  }

  /** The primary waits here for what the secondary says under another name. */
  get hasOtherName(): boolean {
    const { siblings } = this;
    return siblings !== null && this.isPrimaryOnly && siblings.secondaryOnly > 0 && this.queue.length > 0;
  }

  /** Puts a packet at its place: TCP lowest sequence first, others in order of arrival. */
  enqueue(packet: HeldPacket): void {
    const { queue, comparer } = this;
    const last = queue.last();
    if (last === null || !comparer.goesBefore(packet, last)) {
      queue.push(packet);
      if (packet.isSyn || packet.isReset) this.#fixed = queue.length;
      return;
    }
    let low = this.#fixed;
    let high = queue.length - 1;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (comparer.goesBefore(packet, queue.get(middle))) high = middle;
      else low = middle + 1;
    }
    queue.insert(low, packet);
  }

  /** Takes the first packet of the queue. */
  dequeue(): HeldPacket | null {
    if (this.#fixed > 0) this.#fixed--;
    return this.queue.shift();
  }

  /** What waits is of the closed epoch from now on. */
  close(): void {
    for (let packet = this.queue.shift(); packet !== null; packet = this.queue.shift())
      this.closed.push(packet);
    this.#fixed = 0;
  }

  /** When the oldest packet of either side arrived, or null. */
  get oldestMs(): number | null {
    let oldest = this.comparer.secondaryOldestMs ?? Infinity;
    for (let at = 0; at < this.queue.length; at++) oldest = Math.min(oldest, this.queue.get(at).atMs);
    return oldest === Infinity ? null : oldest;
  }
}
