/**
 * A filter that makes requests fail on purpose: the Nth, those in a range, or all, for tests and for trying out what
 * an installation does when a disk breaks (QEMU's blkdebug has the idea). Options of the openable form: `file`,
 * `op` (read, write, flush…), `errno` (EIO…), `offset`, `length` (0: to the end), `skip` (let so many pass first),
 * `times` (0: always).
 */
import { ERRNO_TEXT, IoError, ParameterError } from '../../base/errors.ts';
import type { Errno } from '../../base/errors.ts';
import type { BlockDriver } from '../driver.ts';
import type { OptionReader } from '../options.ts';
import type { OpenContext } from '../registry.ts';
import { NodeAsDriver, PassThrough } from './pass-through.ts';
import type { FilteredOp } from './pass-through.ts';

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

const OPS: readonly FilteredOp[] = ['read', 'write', 'flush', 'discard', 'status', 'makeEmpty'];

export class ErrorFilter extends PassThrough {
  #rules: { rule: FaultRule; skip: number; times: number }[] = [];
  /** Requests that were made to fail. */
  failed = 0;

  constructor(next: BlockDriver, rules: readonly FaultRule[] = []) {
    super('error', next);
    for (const rule of rules) this.add(rule);
  }

  add(rule: FaultRule): void {
    this.#rules.push({ rule, skip: rule.skip ?? 0, times: rule.times ?? Infinity });
  }

  clear(): void {
    this.#rules = [];
  }

  protected override async around<T>(
    op: FilteredOp,
    offset: number,
    length: number,
    act: () => Promise<T>,
  ): Promise<T> {
    for (const state of this.#rules) {
      const { rule } = state;
      const from = rule.offset ?? 0;
      const inRange =
        rule.offset === undefined || (offset < from + (rule.length ?? Infinity) && offset + length > from);
      if (rule.op !== op || !inRange || state.times === 0) continue;
      if (state.skip > 0) {
        state.skip--;
        continue;
      }
      state.times--;
      this.failed++;
      throw new IoError(rule.errno ?? 'EIO', `Injected ${op} error at ${offset}, ${length} bytes`);
    }
    return act();
  }
}

export async function openErrorFilter(options: OptionReader, context: OpenContext): Promise<ErrorFilter> {
  const file = options.node('file');
  const wanted = options.required('op');
  const op = OPS.find((one) => one === wanted);
  const errno = options.string('errno') ?? 'EIO';
  const offset = options.integer('offset');
  const length = options.integer('length') ?? 0;
  const skip = options.integer('skip') ?? 0;
  const times = options.integer('times') ?? 0;
  options.boolean('read-only');
  options.finish('error');
  if (file === undefined) throw new ParameterError('A block device must be specified for "file"');
  if (op === undefined) throw new ParameterError(`Parameter 'op' expects one of: ${OPS.join(', ')}`);
  if (!(errno in ERRNO_TEXT)) {
    throw new ParameterError(`Parameter 'errno' expects one of: ${Object.keys(ERRNO_TEXT).join(', ')}`);
  }
  const node = await context.openChild('file', file);
  const rule: FaultRule = {
    op,
    errno: errno as Errno,
    skip,
    ...(offset === undefined ? {} : { offset, length: length === 0 ? Infinity : length }),
    ...(times === 0 ? {} : { times }),
  };
  return new ErrorFilter(new NodeAsDriver(node), [rule]);
}
