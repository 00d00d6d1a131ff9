/**
 * The last few different statements that have left, for each flow, and a bound on all of them together: past it the
 * oldest of any flow is forgotten. Survives checkpoints: what the world has been told stays told.
 */
import { AgeList } from './age-list.ts';
import type { HeldPacket } from './held-packet.ts';
import type { PacketPool } from './packet-pool.ts';
import { isTwin } from './twin-index.ts';

/** Statements of a flow that may be repeated. */
export const REMEMBERED_STATEMENTS = 4;
/** Of all flows of a comparer. */
export const MAX_REMEMBERED_STATEMENTS = 4096;
/** Longer ones are not remembered. */
export const MAX_REMEMBERED_BYTES = 512;

/** No packet has such fragment bits, so one that was forgotten is nobody's twin. */
const FORGOTTEN = -1;

/** All that are remembered, by age. */
export class StatementLog {
  readonly #pool: PacketPool;
  readonly #kept = new AgeList();

  constructor(pool: PacketPool) {
    this.#pool = pool;
  }

  get count(): number {
    return this.#kept.length;
  }

  /** A copy of what is compared of `packet`. */
  add(packet: HeldPacket): HeldPacket {
    const { oldest, length } = this.#kept;
    if (length === MAX_REMEMBERED_STATEMENTS && oldest !== null) this.forget(oldest);
    const kept = this.#pool.keepCompared(packet);
    this.#kept.add(kept);
    return kept;
  }

  /** The record is not used again: its flow may still have it. */
  forget(kept: HeldPacket): void {
    if (kept.fragment === FORGOTTEN) return;
    this.#kept.remove(kept);
    kept.fragment = FORGOTTEN;
    this.#pool.dropBytes(kept.bytes);
  }
}

/** Those of one flow, in a circle. */
export class StatementMemory {
  readonly #log: StatementLog;
  readonly #statements: HeldPacket[] = [];
  #next = 0;

  constructor(log: StatementLog) {
    this.#log = log;
  }

  has(packet: HeldPacket): boolean {
    for (let at = 0; at < this.#statements.length; at++)
      if (isTwin(this.#statements[at]!, packet)) return true;
    return false;
  }

  add(packet: HeldPacket): void {
    if (packet.payloadBytes > MAX_REMEMBERED_BYTES || this.has(packet)) return;
    if (this.#statements.length < REMEMBERED_STATEMENTS) {
      this.#statements.push(this.#log.add(packet));
      return;
    }
    this.#log.forget(this.#statements[this.#next]!);
    this.#statements[this.#next] = this.#log.add(packet);
    this.#next = (this.#next + 1) % REMEMBERED_STATEMENTS;
  }

  clear(): void {
    for (const packet of this.#statements) this.#log.forget(packet);
    this.#statements.length = 0;
    this.#next = 0;
  }
}
