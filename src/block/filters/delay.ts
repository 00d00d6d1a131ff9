/**
 * A filter that makes requests wait: for a time (a slow disk), for a gate that the owner opens (a stuck one), or for
 * whatever a test's scheduler decides. Options of the openable form: `file`, `read-ms`, `write-ms`, `flush-ms`.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Gate } from '../../base/async.ts';
import { ParameterError } from '../../base/errors.ts';
import type { BlockDriver } from '../driver.ts';
import type { OptionReader } from '../options.ts';
import type { OpenContext } from '../registry.ts';
import { NodeAsDriver, PassThrough } from './pass-through.ts';
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

export async function openDelayFilter(options: OptionReader, context: OpenContext): Promise<DelayFilter> {
  const file = options.node('file');
  const ms: Partial<Record<FilteredOp, number>> = {
    read: options.integer('read-ms', 0, 3_600_000) ?? 0,
    write: options.integer('write-ms', 0, 3_600_000) ?? 0,
    flush: options.integer('flush-ms', 0, 3_600_000) ?? 0,
  };
  options.boolean('read-only');
  options.finish('delay');
  if (file === undefined) throw new ParameterError('A block device must be specified for "file"');
  const node = await context.openChild('file', file);
  return new DelayFilter(new NodeAsDriver(node), async (op, _offset, _length, done) => {
    const wait = ms[op] ?? 0;
    if (!done && wait > 0) await sleep(wait);
  });
}
