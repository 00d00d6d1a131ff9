/**
 * Compares flows of statements: ARP, neighbour discovery, group membership. A guest says them when a timer of a cache
 * runs out, and those timers are random by design: two guests in lock-step say the same, but not as often nor at the
 * same moment. So
 *
 *  - a statement waits for its twin or a checkpoint, as any packet, the first time;
 *  - one that has left before, byte for byte, between the same stations, may be repeated without a twin. That is within
 *    rule 1: the secondary has said it or holds a checkpoint that includes it, and the world knows it. These protocols
 *    have no state but what was said last, and bear repetition (a switch that floods repeats them as well);
 *  - what the secondary says beyond that is kept a while, in case the primary follows, and then forgotten: the primary
 *    may never say it. It never asks for a checkpoint.
 *
 * Only the last few of a flow are remembered: an older one may have been taken back since by another.
 */
import { DatagramComparer } from './datagram.ts';
import type { Verdict } from './comparer.ts';
import type { HeldPacket } from './held-packet.ts';
import type { PacketPool } from './packet-pool.ts';
import type { Ring } from './ring.ts';
import type { StatementLog } from './statement-memory.ts';
import { StatementMemory } from './statement-memory.ts';
import type { TwinIndex } from './twin-index.ts';

/** Statements of a secondary that wait in a flow; the oldest goes first. */
export const MAX_SURPLUS_STATEMENTS = 16;

export class StatementComparer extends DatagramComparer {
  override readonly forgetsSurplus = true;
  protected override readonly memory: StatementMemory;

  constructor(pool: PacketPool, index: TwinIndex, queue: Ring<HeldPacket>, log: StatementLog) {
    super(pool, index, queue);
    this.memory = new StatementMemory(log);
  }

  /** Nobody waits for it. */
  override get secondaryOldestMs(): number | null {
    return null;
  }

  override get isIdle(): boolean {
    return true;
  }

  override addSecondary(packet: HeldPacket): boolean {
    if (this.secondaryItems >= MAX_SURPLUS_STATEMENTS) this.forgetOldest();
    return super.addSecondary(packet, MAX_SURPLUS_STATEMENTS);
  }

  override judge(packet: HeldPacket): Verdict {
    if (packet.isSaid || this.memory.has(packet)) return 'release';
    this.cause = 'timeout';
    return 'wait';
  }
}
