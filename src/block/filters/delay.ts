/**
 * Filters that make a test's requests wait: for a gate that the owner opens, or for whatever the test's scheduler
 * decides. A disk that is slow or stuck by options of its own is blkdebug.ts's.
 */
import { Gate } from '../../base/async.ts';
import type { BlockDriver } from '../driver.ts';
import { PassThrough } from './pass-through.ts';
import type { FilteredOp } from './pass-through.ts';

/** Called before a request and (`done`) after it, both of which it can hold up. */
export type DelayHook = (op: FilteredOp, offset: number, length: number, done: boolean) => Promise<void>;

export class DelayFilter extends PassThrough {
  readonly #hook: DelayHook;

  constructor(next: BlockDriver, hook: DelayHook) {
    super('delay', next);
    this.#hook = hook;
  }

  protected override async around<T>(
    op: FilteredOp,
    offset: number,
    length: number,
    act: () => Promise<T>,
  ): Promise<T> {
    await this.#hook(op, offset, length, false);
    const result = await act();
    await this.#hook(op, offset, length, true);
    return result;
  }
}

/** Requests of the given kinds wait while the gate is closed. */
export class GateFilter extends PassThrough {
  readonly gate = new Gate();
  readonly #ops: ReadonlySet<FilteredOp>;
  /** How many wait. */
  waiting = 0;

  constructor(next: BlockDriver, ops: Iterable<FilteredOp> = ['read', 'write', 'flush']) {
    super('gate', next);
    this.#ops = new Set(ops);
  }

  protected override async around<T>(
    op: FilteredOp,
    _offset: number,
    _length: number,
    act: () => Promise<T>,
  ): Promise<T> {
    if (this.#ops.has(op)) {
      this.waiting++;
      await this.gate.pass();
      this.waiting--;
    }
    return act();
  }
}
