/**
 * Finds connections that the two guests have opened under different names. A guest that connects to somebody chooses a
 * source port; two guests may choose different ones, and then neither packet ever finds its twin. So flows on which
 * only one side has spoken are grouped by all but their source port; a group in which each side has such a flow, and
 * the primary's waits, is one connection under two names, most likely. (If it is two connections of which each side
 * has opened another one first, the checkpoint was not needed.)
 *
 * Bounded: the group that was not used for longest is forgotten; its flows are then left to the timeout.
 */
import { FlowKey } from '../flow-key.ts';
import { Flow, FlowTable } from '../flow-table.ts';
import type { Connection } from './connection.ts';

export const MAX_SIBLING_GROUPS = 1024;
/** Flows of the primary that a group remembers. */
const MAX_WAITING = 16;

const DESTINATION_PORT_BITS = 0xffff;

export class SiblingGroup extends Flow {
  /** On which only the primary has spoken; not all of them when there are many. */
  readonly waiting: Connection[] = [];
  /** How many only the secondary has spoken on. */
  secondaryOnly = 0;
}

export class Siblings {
  readonly #groups = new FlowTable<SiblingGroup>();
  readonly #key = new FlowKey();

  /**
   * A side has spoken on a connection for the first time. Returns a connection of the primary's that will not find its
   * twin, or null.
   */
  spoke(connection: Connection, isPrimary: boolean): Connection | null {
    if (connection.key.ports === 0) return null;
    const group = this.#groupOf(connection);
    connection.siblings = group;
    connection.isPrimaryOnly = isPrimary;
    if (!isPrimary) group.secondaryOnly++;
    else if (group.waiting.length < MAX_WAITING) group.waiting.push(connection);
    return group.secondaryOnly > 0 ? (group.waiting[0] ?? null) : null;
  }

  /** It has two sides now, or is no more. */
  forget(connection: Connection): void {
    const group = connection.siblings;
    if (group === null) return;
    connection.siblings = null;
    if (connection.isPrimaryOnly) {
      const at = group.waiting.indexOf(connection);
      if (at >= 0) group.waiting.splice(at, 1);
    } else {
      group.secondaryOnly--;
    }
    if (group.waiting.length === 0 && group.secondaryOnly === 0) this.#groups.remove(group);
  }

  clear(): void {
    this.#groups.clear();
  }

  #groupOf(connection: Connection): SiblingGroup {
    const key = this.#key.copy(connection.key);
    key.ports &= DESTINATION_PORT_BITS;
    const found = this.#groups.find(key);
    if (found !== null) return found;
    const { oldest } = this.#groups;
    if (this.#groups.size >= MAX_SIBLING_GROUPS && oldest !== null) this.#groups.remove(oldest);
    const group = new SiblingGroup(key);
    this.#groups.insert(group);
    return group;
  }
}
