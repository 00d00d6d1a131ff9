/**
 * One flow in comparison: the primary's packets that wait, and the comparer that knows what the secondary has said.
 * While a checkpoint is taken, `closed` holds the primary's packets of the epoch that it ends.
 */
import type { FlowKey } from '../flow-key.ts';
import { Flow } from '../flow-table.ts';
import type { FlowComparer } from './comparer.ts';
import { DatagramComparer } from './datagram.ts';
import type { HeldPacket } from './held-packet.ts';
import { TcpComparer } from './tcp.ts';

export class Connection extends Flow {
  readonly comparer: FlowComparer;
  queue: HeldPacket[] = [];
  closed: HeldPacket[] = [];
  /** What the owner has counted of the comparer's bytes. */
  countedBytes = 0;

  /** `isStream`: whole TCP segments; TCP fragments count as datagrams, under a flow of their own. */
  constructor(key: FlowKey, isStream: boolean) {
    super(key);
    this.comparer = isStream ? new TcpComparer() : new DatagramComparer();
  }

  /** Nothing is lost when it is forgotten. */
  get isIdle(): boolean {
    return this.queue.length === 0 && this.closed.length === 0 && this.comparer.secondaryItems === 0;
  }

  /** Puts a packet at its place: TCP lowest sequence first, others in order of arrival. */
  enqueue(packet: HeldPacket): void {
    const queue = this.queue;
    let at = queue.length;
    while (at > 0 && this.comparer.goesBefore(packet, queue[at - 1]!)) at--;
    if (at === queue.length) queue.push(packet);
    else queue.splice(at, 0, packet);
  }

  /** When the oldest packet of either side arrived, or null. */
  get oldestMs(): number | null {
    let oldest = this.comparer.secondaryOldestMs ?? Infinity;
    for (const packet of this.queue) if (packet.atMs < oldest) oldest = packet.atMs;
    return oldest === Infinity ? null : oldest;
  }
}
