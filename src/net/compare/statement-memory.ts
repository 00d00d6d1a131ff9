/**
 * The last few different statements that have left on one flow. Survives checkpoints: what the world has been told
 * stays told. A bounded copy of each.
 */
import type { HeldPacket } from './held-packet.ts';
import type { PacketPool } from './packet-pool.ts';
import { isTwin } from './twin-index.ts';

/** Statements of a flow that may be repeated. */
export const REMEMBERED_STATEMENTS = 4;
/** Longer ones are not remembered. */
export const MAX_REMEMBERED_BYTES = 512;

export class StatementMemory {
  readonly #pool: PacketPool;
  /** In a circle. */
  readonly #statements: HeldPacket[] = [];
  #next = 0;

  constructor(pool: PacketPool) {
    this.#pool = pool;
  }

  has(packet: HeldPacket): boolean {
    for (let at = 0; at < this.#statements.length; at++)
      if (isTwin(this.#statements[at]!, packet)) return true;
    return false;
  }

  add(packet: HeldPacket): void {
    if (packet.payloadBytes > MAX_REMEMBERED_BYTES || this.has(packet)) return;
    const kept = this.#pool.keepCompared(packet);
    if (this.#statements.length < REMEMBERED_STATEMENTS) {
      this.#statements.push(kept);
      return;
    }
    this.#pool.drop(this.#statements[this.#next]!);
    this.#statements[this.#next] = kept;
    this.#next = (this.#next + 1) % REMEMBERED_STATEMENTS;
  }

  clear(): void {
    for (const packet of this.#statements) this.#pool.drop(packet);
    this.#statements.length = 0;
    this.#next = 0;
  }
}
