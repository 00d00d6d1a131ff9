/**
 * Fault injection: a driver that hands requests on, except where a rule (fault-rules.ts) lets them fail, wait or be
 * torn, or a breakpoint holds them. Tests program it by object around any driver; users and QMP by text as the driver
 * `blkdebug` (drivers/blkdebug.ts). Breakpoints are QEMU's: `qemu-io NODE "break EVENT TAG"` and `"resume TAG"`.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Deferred } from '../../base/async.ts';
import { IoError } from '../../base/errors.ts';
import type { Errno } from '../../base/errors.ts';
import type { BlockDriver, WriteFlags } from '../driver.ts';
import { FaultRules, eventsOf } from './fault-rules.ts';
import type { DebugEvent, InjectRule, IoType, StateRule } from './fault-rules.ts';
import { PassThrough } from './pass-through.ts';
import type { FilteredOp } from './pass-through.ts';

const SECTOR_BYTES = 512;

/** A rule as tests write it: one kind of request, of which `write` includes write-zeroes. */
export interface FaultRule {
  readonly op: FilteredOp;
  /** Default EIO. */
  readonly errno?: Errno;
  /** Only requests that touch this range. Default: everything. */
  readonly offset?: number;
  readonly length?: number;
  /** How many matching requests pass before the first one fails. Default 0. */
  readonly skip?: number;
  /** How many fail. Default: all. */
  readonly times?: number;
}

const TYPES: Readonly<Record<FilteredOp, readonly IoType[]>> = {
  read: ['read'],
  write: ['write', 'write-zeroes'],
  flush: ['flush'],
  discard: ['discard'],
  status: ['block-status'],
  makeEmpty: ['make-empty'],
};

interface Breakpoint {
  readonly event: DebugEvent;
  readonly tag: string;
}

interface Suspended {
  readonly tag: string;
  readonly resumed: Deferred<void>;
}

export class Blkdebug extends PassThrough {
  readonly rules = new FaultRules();
  /** Requests that were made to fail. */
  failed = 0;
  /** Requests that came, by kind. */
  readonly requests: Record<IoType, number> = {
    read: 0,
    write: 0,
    'write-zeroes': 0,
    discard: 0,
    flush: 0,
    'block-status': 0,
    'make-empty': 0,
  };
  #breakpoints: Breakpoint[] = [];
  #suspended: Suspended[] = [];
  #watchers: (() => void)[] = [];
  #seed = 1;

  constructor(next: BlockDriver, rules: readonly FaultRule[] = []) {
    super('blkdebug', next);
    for (const rule of rules) this.add(rule);
  }

  add({ op, ...rule }: FaultRule): void {
    this.rules.add({ ...rule, types: TYPES[op] });
  }

  clear(): void {
    this.rules.clear();
  }

  /** Takes the place of all rules. `seed` begins the row of random numbers of torn writes. */
  program(injects: readonly InjectRule[], states: readonly StateRule[], seed = 1): void {
    this.#seed = seed;
    this.rules.replace(injects, states);
  }

  // --- breakpoints ---

  /** From now on requests that raise `event` are held, until `resume` or `removeBreak`. */
  breakAt(event: DebugEvent, tag: string): void {
    this.#breakpoints.push({ event, tag });
  }

  /** Lets one held request go on. False: none is held under this tag. */
  resume(tag: string): boolean {
    const at = this.#suspended.findIndex((one) => one.tag === tag);
    const [one] = at < 0 ? [] : this.#suspended.splice(at, 1);
    one?.resumed.resolve();
    return one !== undefined;
  }

  /** Ends a breakpoint and lets everything go on that it held. False: there was nothing of that tag. */
  removeBreak(tag: string): boolean {
    const known = this.#breakpoints.some((one) => one.tag === tag);
    this.#breakpoints = this.#breakpoints.filter((one) => one.tag !== tag);
    let held = false;
    while (this.resume(tag)) held = true;
    this.#wakeWatchers();
    return known || held;
  }

  isSuspended(tag: string): boolean {
    return this.#suspended.some((one) => one.tag === tag);
  }

  get suspendedRequests(): number {
    return this.#suspended.length;
  }

  /** Resolves when a request is held under `tag`. False: there is no such breakpoint, or no longer. */
  async waitBreak(tag: string): Promise<boolean> {
    while (!this.isSuspended(tag)) {
      if (!this.#breakpoints.some((one) => one.tag === tag)) return false;
      await new Promise<void>((resolve) => this.#watchers.push(resolve));
    }
    return true;
  }

  /** Ends all breakpoints: the owner is about to close the node, which waits for what is in flight. */
  letGo(): void {
    for (const { tag } of [...this.#breakpoints, ...this.#suspended]) this.removeBreak(tag);
  }

  // --- requests ---

  override async write(offset: number, source: Uint8Array, flags?: WriteFlags): Promise<void> {
    const rule = await this.#meet('write', offset, source.byteLength);
    if (rule) {
      const length = this.#partOf(rule, source.byteLength);
      if (length > 0) await this.next.write(offset, source.subarray(0, length), flags);
      this.#fail('write', rule, offset, source.byteLength);
    }
    await this.next.write(offset, source, flags);
    await this.#raise('pwritev_done');
  }

  override async writeZeroes(offset: number, length: number, flags?: WriteFlags): Promise<void> {
    const rule = await this.#meet('write-zeroes', offset, length);
    if (rule) {
      const part = this.#partOf(rule, length);
      if (part > 0) await this.zero(offset, part, flags);
      this.#fail('write-zeroes', rule, offset, length);
    }
    await this.zero(offset, length, flags);
    await this.#raise('pwritev_done');
  }

  protected override async around<T>(
    op: FilteredOp,
    offset: number,
    length: number,
    act: () => Promise<T>,
  ): Promise<T> {
    const [type = 'read'] = TYPES[op];
    const rule = await this.#meet(type, offset, length);
    if (rule) this.#fail(op, rule, offset, length);
    return act();
  }

  #wakeWatchers(): void {
    for (const wake of this.#watchers.splice(0)) wake();
  }

  /** The rule that a request has to fail by, after what waits it was told to bear. */
  async #meet(type: IoType, offset: number, length: number): Promise<InjectRule | null> {
    this.requests[type]++;
    for (const event of eventsOf(type)) await this.#raise(event);
    const rule = this.rules.take(type, offset, length);
    if (!rule) return null;
    if (rule.delayMs !== undefined && rule.delayMs > 0) await sleep(rule.delayMs);
    if (rule.errno === null) return null;
    if (rule.immediately !== true) await new Promise((resolve) => setImmediate(resolve));
    return rule;
  }

  async #raise(event: DebugEvent): Promise<void> {
    this.rules.raise(event);
    for (const { tag } of this.#breakpoints.filter((one) => one.event === event)) {
      const resumed = new Deferred<void>();
      this.#suspended.push({ tag, resumed });
      this.#wakeWatchers();
      await resumed.promise;
    }
  }

  #fail(what: string, rule: InjectRule, offset: number, length: number): never {
    this.failed++;
    throw new IoError(rule.errno ?? 'EIO', `Injected ${what} error at ${offset}, ${length} bytes`);
  }

  #partOf({ partial = 0 }: InjectRule, length: number): number {
    if (partial !== 'torn') return Math.min(partial, length);
    // A small generator, so that a test that names its seed tears at the same places again.
    this.#seed = (Math.imul(this.#seed, 1103515245) + 12345) & 0x7fffffff;
    const sectors = Math.ceil(length / SECTOR_BYTES);
    return ((this.#seed >> 8) % sectors) * SECTOR_BYTES;
  }
}
