/**
 * Options of the `blkdebug` driver: `image`, `inject-error.N.*` and `set-state.N.*` as in QEMU (qapi/block-core.json:
 * BlockdevOptionsBlkdebug; texts asked of QEMU 7.2), and ours: `seed`, and in a rule `sectors`, `skip`, `times`,
 * `delay-ms`, `partial-bytes`, `torn`. QEMU's events that nothing raises here, `config`, `align` and the limits
 * (`max-transfer`…) are refused by name.
 */
import { ParameterError } from '../../base/errors.ts';
import type { Errno } from '../../base/errors.ts';
import { Blkdebug } from '../filters/blkdebug.ts';
import { DEBUG_EVENTS } from '../filters/fault-rules.ts';
import type { DebugEvent, InjectRule, IoType, StateRule } from '../filters/fault-rules.ts';
import { NodeAsDriver } from '../filters/pass-through.ts';
import type { OptionReader, OptionTree, OptionValue } from '../options.ts';
import { OptionReader as Reader } from '../options.ts';
import type { OpenContext } from '../registry.ts';

const SECTOR_BYTES = 512;
const MAX_RULES = 1000;
const MAX_DELAY_MS = 3_600_000;

/** Linux's numbers of the errors that cross our borders; 0 injects none. */
const ERRNOS: ReadonlyMap<number, Errno | null> = new Map<number, Errno | null>([
  [0, null],
  [1, 'EPERM'],
  [5, 'EIO'],
  [12, 'ENOMEM'],
  [22, 'EINVAL'],
  [28, 'ENOSPC'],
  [30, 'EROFS'],
  [75, 'EOVERFLOW'],
  [95, 'ENOTSUP'],
  [108, 'ESHUTDOWN'],
  [110, 'ETIMEDOUT'],
]);

/** The types that a rule may name. */
export const IO_TYPES = [
  'read',
  'write',
  'write-zeroes',
  'discard',
  'flush',
  'block-status',
] as const satisfies readonly IoType[];

/** QEMU's events that a format driver would have to raise: known, so that their refusal is not taken for a typing error. */
const FOREIGN_EVENTS =
  `l1_update l1_grow_alloc_table l1_grow_write_table l1_grow_activate_table l2_load l2_update l2_update_compressed
  l2_alloc_cow_read l2_alloc_write read_backing_aio read_compressed write_compressed vmstate_load vmstate_save cow_read
  cow_write reftable_load reftable_grow reftable_update refblock_load refblock_update refblock_update_part
  refblock_alloc refblock_alloc_hookup refblock_alloc_write refblock_alloc_write_blocks refblock_alloc_write_table
  refblock_alloc_switch_table cluster_alloc cluster_alloc_bytes cluster_alloc_space cluster_free pwritev_rmw_head
  pwritev_rmw_after_head pwritev_rmw_tail pwritev_rmw_after_tail empty_image_prepare l1_shrink_write_table
  l1_shrink_free_l2_clusters cor_write`.split(/\s+/);

/** All the events that QEMU's schema knows. */
export const EVENT_NAMES: readonly string[] = [...DEBUG_EVENTS, ...FOREIGN_EVENTS];

export interface BlkdebugProgram {
  readonly injects: readonly InjectRule[];
  readonly states: readonly StateRule[];
  readonly seed: number;
}

export async function openBlkdebug(options: OptionReader, context: OpenContext): Promise<Blkdebug> {
  const image = options.node('image');
  const program = readProgram(options);
  const readOnly = options.boolean('read-only') ?? false;
  options.finish('blkdebug');
  if (image === undefined) throw new ParameterError('A block device must be specified for "image"');
  const node = await context.openChild('image', image);
  const driver = new Blkdebug(new NodeAsDriver(node, 'image', readOnly));
  driver.program(program.injects, program.states, program.seed);
  return driver;
}

/** Takes the rules out of a node's options. Throws ParameterError. */
export function readProgram(options: OptionReader): BlkdebugProgram {
  return {
    injects: readRules(options, 'inject-error', injectRule),
    states: readRules(options, 'set-state', stateRule),
    seed: options.integer('seed', 0, 0x7fffffff) ?? 1,
  };
}

/** An event by its name. Throws ParameterError. */
export function eventNamed(name: string): DebugEvent {
  const event = DEBUG_EVENTS.find((one) => one === name);
  if (event) return event;
  if (FOREIGN_EVENTS.includes(name)) {
    throw new ParameterError(`Event '${name}' is never raised here; use one of: ${DEBUG_EVENTS.join(', ')}`);
  }
  throw new ParameterError(`invalid parameter value: ${name}`);
}

function readRules<T>(options: OptionReader, group: string, read: (rule: OptionReader) => T): T[] {
  const value = options.node(group);
  if (value === undefined) return [];
  if (typeof value === 'string') throw new ParameterError(`Unused option for [${group}]`);
  const rules: T[] = [];
  for (let at = 0; value[at] !== undefined; at++) {
    if (at === MAX_RULES) throw new ParameterError(`More than ${MAX_RULES} rules in [${group}]`);
    const reader = new Reader(treeOf(value[at], group));
    rules.push(read(reader));
    const [left] = reader.remaining();
    if (left !== undefined)
      throw new ParameterError(`[${group}] section doesn't support the option '${left}'`);
  }
  // A list with a gap: QEMU says so of the first option behind it.
  const unused = Object.keys(value).find((key) => !(Number(key) < rules.length));
  if (unused !== undefined) {
    const [first = ''] = Object.keys(treeOf(value[unused], group));
    throw new ParameterError(`Unused option '${unused}.${first}' for [${group}]`);
  }
  return rules;
}

function treeOf(value: OptionValue | undefined, group: string): OptionTree {
  if (typeof value !== 'object') throw new ParameterError(`Unused option for [${group}]`);
  return value;
}

function injectRule(rule: OptionReader): InjectRule {
  const event = readEvent(rule);
  const state = numberOf(rule, 'state') ?? 0;
  const iotype = rule.string('iotype');
  const type = IO_TYPES.find((one) => one === iotype);
  if (iotype !== undefined && !type) throw new ParameterError(`invalid parameter value: ${iotype}`);
  const number = numberOf(rule, 'errno') ?? 5;
  const errno = ERRNOS.get(number);
  if (errno === undefined) {
    throw new ParameterError(
      `errno=${number} cannot be injected; use one of: ${[...ERRNOS.keys()].join(', ')}`,
    );
  }
  const sector = numberOf(rule, 'sector') ?? -1;
  const sectors = rule.integer('sectors', 1, 2 ** 44) ?? 1;
  const once = rule.boolean('once') ?? false;
  const skip = rule.integer('skip') ?? 0;
  const times = rule.integer('times', 1);
  if (once && times !== undefined) throw new ParameterError('once=on is times=1; use one of them');
  const delayMs = rule.integer('delay-ms', 0, MAX_DELAY_MS) ?? 0;
  const bytes = rule.integer('partial-bytes');
  const torn = rule.boolean('torn') ?? false;
  if (torn && bytes !== undefined) throw new ParameterError('torn=on and partial-bytes exclude each other');
  const partial = torn ? 'torn' : (bytes ?? 0);
  if (partial !== 0 && errno === null) {
    throw new ParameterError('A write of which only a part is done has to fail; errno=0 does not');
  }
  return {
    event,
    ...(state === 0 ? {} : { state }),
    ...(type ? { types: [type] } : {}),
    errno,
    ...(sector < 0 ? {} : { offset: sector * SECTOR_BYTES, length: sectors * SECTOR_BYTES }),
    skip,
    ...(once ? { times: 1 } : times === undefined ? {} : { times }),
    delayMs,
    partial,
    immediately: rule.boolean('immediately') ?? false,
  };
}

function stateRule(rule: OptionReader): StateRule {
  const event = readEvent(rule);
  const state = numberOf(rule, 'state') ?? 0;
  return { event, ...(state === 0 ? {} : { state }), newState: numberOf(rule, 'new_state') ?? 0 };
}

function readEvent(rule: OptionReader): DebugEvent {
  const name = rule.string('event');
  if (name === undefined) throw new ParameterError('Missing event name for rule');
  return eventNamed(name);
}

/** As QEMU's QEMU_OPT_NUMBER: a sign is allowed. */
function numberOf(rule: OptionReader, key: string): number | undefined {
  const text = rule.string(key);
  if (text === undefined) return undefined;
  if (!/^-?(0x[0-9a-fA-F]+|[0-9]+)$/.test(text))
    throw new ParameterError(`Parameter '${key}' expects a number`);
  const number = text.startsWith('-') ? -Number(text.slice(1)) : Number(text);
  if (!Number.isSafeInteger(number * SECTOR_BYTES))
    throw new ParameterError(`Parameter '${key}' is out of range`);
  return number;
}
