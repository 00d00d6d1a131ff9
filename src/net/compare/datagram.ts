/**
 * Compares flows without a stream: UDP, ICMP, fragments, all other IP protocols, and frames that are no IP at all; one
 * packet with one packet. What must be equal is in classify.ts. Facts on QEMU's: docs/qemu-behaviour.md 3.6.
 *
 * Two packets find each other as soon as both are there, the oldest of equals first. Primary packets leave in their own
 * order (QEMU reverses them), so one that has its twin may still have to wait for those in front of it. What the
 * secondary has said and no primary packet in the queue has, is kept. When there is such a thing and the first packet of
 * the queue has no twin, the two differ: no order of arrival explains both. A small change of order between the two
 * guests therefore costs nothing, as long as the primary's packets are there first or all come.
 *
 * Mostly twins come in the same order, so the first of the other side is looked at; only when it is another one is the
 * TwinIndex asked, and filled with what has not been put in yet.
 */
import { AgeList } from './age-list.ts';
import type { CheckpointCause, FlowComparer, Verdict } from './comparer.ts';
import type { HeldPacket } from './held-packet.ts';
import type { PacketPool } from './packet-pool.ts';
import type { Ring } from './ring.ts';
import { differenceBetween, isTwin } from './twin-index.ts';
import type { StatementMemory } from './statement-memory.ts';
import type { TwinIndex } from './twin-index.ts';

let owners = 0;

export class DatagramComparer implements FlowComparer {
  cause: CheckpointCause = 'timeout';
  differenceAt = -1;
  secondaryByte = 0;
  readonly forgetsSurplus: boolean = false;
  /** What may be said again (statement.ts). */
  protected readonly memory: StatementMemory | null = null;
  readonly #pool: PacketPool;
  readonly #index: TwinIndex;
  /** The connection's. Those that have their twin are marked. */
  readonly #queue: Ring<HeldPacket>;
  readonly #primaryOwner = ++owners;
  readonly #secondaryOwner = ++owners;
  /** What the secondary has said and the primary has not. */
  readonly #said = new AgeList();
  /** The first of it that the index does not have. */
  #unindexed: HeldPacket | null = null;
  #bytes = 0;

  constructor(pool: PacketPool, index: TwinIndex, queue: Ring<HeldPacket>) {
    this.#pool = pool;
    this.#index = index;
    this.#queue = queue;
  }

  get secondaryBytes(): number {
    return this.#bytes;
  }

  get secondaryItems(): number {
    return this.#said.length;
  }

  get secondaryOldestMs(): number | null {
    return this.#said.oldest?.atMs ?? null;
  }

  get isIdle(): boolean {
    return this.#said.length === 0;
  }

  notePrimary(packet: HeldPacket, isClosedEpoch: boolean): void {
    // What waits here of the secondary's is of the next epoch.
    if (isClosedEpoch || this.#said.oldest === null) return;
    const twin = isTwin(packet, this.#said.oldest) ? this.#said.oldest : this.#findSecondary(packet);
    if (twin === null) return;
    packet.isSaid = true;
    this.#forget(twin);
  }

  goesBefore(): boolean {
    return false;
  }

  addSecondary(packet: HeldPacket, maxItems: number): boolean {
    const twin = this.#findPrimary(packet);
    if (twin !== null) {
      twin.isSaid = true;
      this.#index.remove(twin);
      return true;
    }
    if (this.#said.length >= maxItems) return false;
    const kept = this.#pool.keepCompared(packet);
    this.#said.add(kept);
    this.#unindexed ??= kept;
    this.#bytes += kept.heldBytes;
    return true;
  }

  own(): void {
    return;
  }

  judge(packet: HeldPacket): Verdict {
    if (packet.isSaid) return 'release';
    const other = this.#said.oldest;
    if (other === null) {
      this.cause = 'timeout';
      return 'wait';
    }
    if (packet.fragment !== other.fragment) {
      this.cause = 'protocol';
      this.differenceAt = -1;
      return 'mismatch';
    }
    this.cause = other.payloadBytes === packet.payloadBytes ? 'payload' : 'length';
    // Found again and again by a queue that has to wait; only the first time is told.
    if (packet.isDifferent) return 'mismatch';
    this.differenceAt = differenceBetween(packet, other);
    if (this.differenceAt >= 0)
      this.secondaryByte = other.bytes[other.from + this.differenceAt - packet.from]!;
    return 'mismatch';
  }

  mayOvertake(packet: HeldPacket): boolean {
    return this.memory?.has(packet) === true;
  }

  released(packet: HeldPacket): void {
    this.#index.remove(packet);
    this.memory?.add(packet);
  }

  expire(beforeMs: number): number {
    let expired = 0;
    while (this.#said.oldest !== null && this.#said.oldest.atMs < beforeMs) {
      this.#forget(this.#said.oldest);
      expired++;
    }
    return expired;
  }

  cut(): void {
    while (this.#said.oldest !== null) this.#forget(this.#said.oldest);
    for (let at = 0; at < this.#queue.length; at++) this.#index.remove(this.#queue.get(at));
  }

  /** Nothing of a datagram outlives it. */
  adopt(): void {
    return;
  }

  dispose(): void {
    this.cut();
    this.memory?.clear();
  }

  protected forgetOldest(): void {
    if (this.#said.oldest !== null) this.#forget(this.#said.oldest);
  }

  #findSecondary(packet: HeldPacket): HeldPacket | null {
    if (this.#said.length < 2) return null;
    for (let at = this.#unindexed; at !== null; at = at.newer) this.#index.add(at, this.#secondaryOwner);
    this.#unindexed = null;
    return this.#index.find(packet, this.#secondaryOwner);
  }

  #findPrimary(packet: HeldPacket): HeldPacket | null {
    const queue = this.#queue;
    const first = queue.first();
    if (first === null) return null;
    if (!first.isSaid && isTwin(first, packet)) return first;
    if (queue.length < 2) return null;
    let unseen = queue.length;
    while (unseen > 0 && !queue.get(unseen - 1).isSeen) unseen--;
    for (; unseen < queue.length; unseen++) {
      const waiting = queue.get(unseen);
      waiting.isSeen = true;
      if (!waiting.isSaid) this.#index.add(waiting, this.#primaryOwner);
    }
    return this.#index.find(packet, this.#primaryOwner);
  }

  #forget(packet: HeldPacket): void {
    this.#index.remove(packet);
    if (packet === this.#unindexed) this.#unindexed = packet.newer;
    this.#said.remove(packet);
    this.#bytes -= packet.heldBytes;
    this.#pool.drop(packet);
  }
}
