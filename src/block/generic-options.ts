/**
 * The options that every block node has, whatever its driver (QEMU qapi/block-core.json: BlockdevOptions' base part),
 * and the extra spellings of `-drive`. What cannot be honoured is refused here with a way out; the rest reaches the
 * driver's opener.
 */
import { ParameterError } from '../base/errors.ts';
import { OptionReader } from './options.ts';
import type { OptionTree, OptionValue } from './options.ts';

/** What becomes of writes of zeros: themselves, zeros written cheaply, or zeros by which space may be freed. */
export type DetectZeroes = 'off' | 'on' | 'unmap';

/** Inherited by children unless they say otherwise (QEMU: bdrv_inherited_options). */
export interface InheritedOptions {
  readonly readOnly: boolean;
  readonly autoReadOnly: boolean;
  readonly forceShare: boolean;
  readonly noFlush: boolean;
  /** Pass discards on. Children that are opened with their parent do: it sends none that it does not mean. */
  readonly unmap: boolean;
}

export interface GenericOptions extends InheritedOptions {
  readonly driver: string | undefined;
  readonly nodeName: string | undefined;
  readonly detectZeroes: DetectZeroes;
  /** Everything the driver itself has to take. */
  readonly rest: OptionTree;
}

/** Splits the generic options off. Throws ParameterError for values that cannot be honoured. */
export function takeGenericOptions(options: OptionTree, inherited: InheritedOptions): GenericOptions {
  const reader = new OptionReader(options);
  const driver = reader.string('driver');
  const format = reader.string('format');
  if (driver !== undefined && format !== undefined && driver !== format) {
    throw new ParameterError("Cannot specify both 'driver' and 'format'");
  }
  const nodeName = reader.string('node-name');
  const readOnly = reader.boolean('read-only') ?? reader.boolean('readonly') ?? inherited.readOnly;
  const autoReadOnly = reader.boolean('auto-read-only') ?? inherited.autoReadOnly;
  const forceShare = reader.boolean('force-share') ?? inherited.forceShare;
  if (forceShare && !readOnly)
    throw new ParameterError('force-share=on can only be used with read-only images');
  const noFlush = takeCache(reader.node('cache')) ?? inherited.noFlush;
  const discard = checkChoice(reader, 'discard', ['ignore', 'off', 'unmap', 'on']);
  const unmap = discard === undefined ? inherited.unmap : discard === 'unmap' || discard === 'on';
  const detectZeroes = checkChoice(reader, 'detect-zeroes', ['off', 'on', 'unmap']) ?? 'off';
  if (detectZeroes === 'unmap' && !unmap) {
    throw new ParameterError(
      'setting detect-zeroes to unmap is not allowed without setting discard operation to unmap',
    );
  }
  checkChoice(reader, 'copy-on-read', ['off']);
  const rest: OptionTree = Object.create(null) as OptionTree;
  for (const key of reader.remaining()) rest[key] = options[key] ?? '';
  const inheritable = { readOnly, autoReadOnly, forceShare, noFlush, unmap };
  return { driver: driver ?? format, nodeName, ...inheritable, detectZeroes, rest };
}

/** Removes what `-drive` says about the device rather than the image (if, id, media, index, bus, unit, aio…). */
export function stripDriveOptions(options: OptionTree): OptionTree {
  const reader = new OptionReader(options);
  for (const key of ['if', 'id', 'media', 'index', 'bus', 'unit', 'serial', 'aio', 'werror', 'rerror'])
    reader.node(key);
  checkChoice(reader, 'snapshot', ['off']);
  const kept: OptionTree = Object.create(null) as OptionTree;
  for (const key of reader.remaining()) kept[key] = options[key] ?? '';
  return kept;
}

/** `defaults` under `value`: leaves that `value` lacks are filled in, subtree by subtree. */
export function mergeDefaults(value: OptionTree, defaults: OptionTree | undefined): OptionTree {
  const merged: OptionTree = Object.assign(Object.create(null) as OptionTree, value);
  for (const [key, below] of Object.entries(defaults ?? {})) {
    const own = merged[key];
    if (own === undefined) merged[key] = below;
    else if (typeof own === 'object' && typeof below === 'object') merged[key] = mergeDefaults(own, below);
  }
  return merged;
}

function checkChoice<T extends string>(
  reader: OptionReader,
  key: string,
  allowed: readonly T[],
): T | undefined {
  const value = reader.string(key);
  const known = allowed.find((one) => one === value);
  if (value === undefined || known !== undefined) return known;
  throw new ParameterError(
    `Block option '${key}=${value}' is not supported; use one of: ${allowed.join(', ')}`,
  );
}

/** Whether flushes are left out; undefined when nothing is said of that. */
function takeCache(cache: OptionValue | undefined): boolean | undefined {
  if (cache === undefined) return undefined;
  if (typeof cache === 'string') {
    if (cache === 'writeback') return false;
    if (cache === 'unsafe') return true;
    throw new ParameterError(`Block option 'cache=${cache}' is not supported; use cache=writeback`);
  }
  const reader = new OptionReader(cache);
  for (const [key, wanted] of [
    ['direct', false],
    ['writeback', true],
  ] as const) {
    const value = reader.boolean(key);
    if (value !== undefined && value !== wanted) {
      throw new ParameterError(
        `Block option 'cache.${key}=${value ? 'on' : 'off'}' is not supported; images use the host page cache and are ` +
          'flushed when the guest asks for it (cache=writeback)',
      );
    }
  }
  const noFlush = reader.boolean('no-flush');
  reader.finish('cache');
  return noFlush;
}
