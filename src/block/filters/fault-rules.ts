/**
 * Which request fails, waits or is torn: the rules of blkdebug, without any I/O. The rule engine is QEMU's (docs/devel/
 * testing/blkdebug; checked against QEMU 7.2): an event makes its rules the active ones, in place of those before; the
 * first active rule that fits a request decides about it. Rules of the event `none` are active from the start.
 *
 * What QEMU lacks and a test of replication needs: rules that let some requests pass first, that end after so many,
 * that cover a range, that delay, and writes of which only a part reaches the disk.
 *
 * In QEMU the driver above raises the events; here the node raises those of its own requests (`eventsOf`).
 */
import type { Errno } from '../../base/errors.ts';

/** A fault is injected by the kind of request. The last one is ours: dropping every mapping of an image. */
export type IoType = 'read' | 'write' | 'write-zeroes' | 'discard' | 'flush' | 'block-status' | 'make-empty';

export const DEBUG_EVENTS = [
  'none',
  'read_aio',
  'write_aio',
  'flush_to_os',
  'flush_to_disk',
  'pwritev',
  'pwritev_zero',
  'pwritev_done',
] as const;
export type DebugEvent = (typeof DEBUG_EVENTS)[number];

/** What a rule without an iotype applies to, as in QEMU. */
const USUAL_TYPES: readonly IoType[] = ['read', 'write', 'write-zeroes', 'discard', 'flush'];

/** A rule as it is given. */
export interface InjectRule {
  readonly event?: DebugEvent;
  /** Only while the node is in this state. Default: in any. */
  readonly state?: number;
  /** Default: everything but block-status and make-empty. */
  readonly types?: readonly IoType[];
  /** Null: the request is done, perhaps late. Default EIO. */
  readonly errno?: Errno | null;
  /** Only requests that touch this range of bytes. Default: all, those without a range included. */
  readonly offset?: number;
  readonly length?: number;
  /** So many fitting requests pass before the first one is taken. */
  readonly skip?: number;
  /** So many are taken, then the rule is gone. */
  readonly times?: number;
  readonly delayMs?: number;
  /** Of a write so many bytes reach the disk all the same; `torn`: a random number of whole sectors. */
  readonly partial?: number | 'torn';
  /** The error comes at once, not a turn later. */
  readonly immediately?: boolean;
}

/** On `event`, in `state`, the node goes to `newState`. */
export interface StateRule {
  readonly event: DebugEvent;
  readonly state?: number;
  readonly newState: number;
}

interface Live {
  readonly rule: InjectRule;
  skip: number;
  times: number;
}

/** The events of one request in their order; the second list comes when it has ended. */
export function eventsOf(type: IoType): readonly DebugEvent[] {
  return EVENTS_OF[type] ?? [];
}

const EVENTS_OF: Partial<Record<IoType, readonly DebugEvent[]>> = {
  read: ['read_aio'],
  write: ['write_aio', 'pwritev'],
  'write-zeroes': ['pwritev_zero'],
  flush: ['flush_to_os', 'flush_to_disk'],
};

export class FaultRules {
  #injects: Live[] = [];
  #active: Live[] = [];
  #states: readonly StateRule[] = [];
  #state = 1;

  get state(): number {
    return this.#state;
  }

  /** Takes the place of all rules; the state begins anew. */
  replace(injects: readonly InjectRule[], states: readonly StateRule[] = []): void {
    this.#injects = injects.map(live);
    this.#active = [];
    this.#states = states;
    this.#state = 1;
    this.raise('none');
  }

  /** One more rule. Without an event it is active at once, behind those that are. */
  add(rule: InjectRule): void {
    const one = live(rule);
    this.#injects.push(one);
    if ((rule.event ?? 'none') === 'none') this.#active.push(one);
  }

  clear(): void {
    this.replace([]);
  }

  raise(event: DebugEvent): void {
    if (this.#injects.length === 0 && this.#states.length === 0) return;
    const fits = (rule: { event?: DebugEvent; state?: number }): boolean =>
      (rule.event ?? 'none') === event && (rule.state === undefined || rule.state === this.#state);
    const raised = this.#injects.filter(({ rule }) => fits(rule));
    if (raised.length > 0) this.#active = raised;
    // The first one given wins: QEMU walks them from the newest to the oldest and keeps the last that it met.
    const next = this.#states.find(fits);
    if (next) this.#state = next.newState;
  }

  /** The rule that decides about a request, which thereby is used once more; null: nothing happens to it. */
  take(type: IoType, offset: number, length: number): InjectRule | null {
    for (const one of this.#active) {
      const { rule } = one;
      if (!(rule.types ?? USUAL_TYPES).includes(type) || !touches(rule, offset, length)) continue;
      if (one.skip > 0) {
        one.skip--;
        continue;
      }
      if (--one.times === 0) {
        this.#active = this.#active.filter((other) => other !== one);
        this.#injects = this.#injects.filter((other) => other !== one);
      }
      return rule;
    }
    return null;
  }
}

function live(rule: InjectRule): Live {
  return { rule, skip: rule.skip ?? 0, times: rule.times ?? Infinity };
}

function touches(
  { offset: from, length: size = Infinity }: InjectRule,
  offset: number,
  length: number,
): boolean {
  return from === undefined || (length > 0 && offset < from + size && offset + length > from);
}
