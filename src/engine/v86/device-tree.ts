/**
 * v86's device state as plain data: what get_state returns (numbers, strings, arrays, Maps, typed arrays, devices)
 * becomes a tree that JSON can hold, with its buffers beside it, and back. Each buffer is named by its path in the tree,
 * so that two states can be compared buffer by buffer. Knows nothing of how either travels.
 */
import { ProtocolError } from '../../base/errors.ts';
import type { V86View } from './internals.ts';

export type DeviceTree =
  | null
  | boolean
  | number
  | string
  | DeviceTree[]
  /** A buffer: its element type; the bytes are in the map under its path. */
  | { readonly type: string }
  | { readonly map: DeviceTree[] };

export type DeviceBuffers = Map<string, Uint8Array>;

const ARRAY_TYPES = {
  Uint8Array,
  Int8Array,
  Uint16Array,
  Int16Array,
  Uint32Array,
  Int32Array,
  Float32Array,
  Float64Array,
} as const;

const MAX_DEPTH = 32;

function isStateful(value: object): value is { get_state(): unknown[] } {
  return typeof (value as { get_state?: unknown }).get_state === 'function';
}

/** The tree of `value`; its buffers (views of the live memory, not copies) go into `buffers`. */
export function flattenState(value: unknown, buffers: DeviceBuffers, path = ''): DeviceTree {
  if (value === null || value === undefined) return null;
  if (typeof value === 'number' || typeof value === 'boolean' || typeof value === 'string') return value;
  if (typeof value !== 'object') throw new TypeError(`v86 state at ${path} has a ${typeof value}`);
  if (Array.isArray(value)) {
    const out: DeviceTree[] = [];
    for (let at = 0; at < value.length; at++) out.push(flattenState(value[at], buffers, `${path}.${at}`));
    return out;
  }
  if (value instanceof Map) return { map: flattenState([...value.entries()], buffers, path) as DeviceTree[] };
  const view = value as Partial<V86View>;
  if (view.BYTES_PER_ELEMENT !== undefined) {
    const { buffer, byteOffset, length, BYTES_PER_ELEMENT } = value as V86View;
    // v86's proxies bind what they hand out, the constructor too.
    const type = (value as V86View).constructor.name.replace('bound ', '');
    buffers.set(path, new Uint8Array(buffer, byteOffset, length * BYTES_PER_ELEMENT));
    return { type };
  }
  if (isStateful(value)) return flattenState(value.get_state(), buffers, path);
  throw new TypeError(`v86 state at ${path} is an object without get_state`);
}

/**
 * Checks that a tree from outside has the right form and that each of its buffers (`lengthOf` gives bytes, undefined for
 * none) is there and holds whole elements. Throws ProtocolError.
 */
export function checkTree(
  value: unknown,
  lengthOf: (path: string) => number | undefined,
  path = '',
  depth = 0,
): asserts value is DeviceTree {
  if (depth > MAX_DEPTH) throw new ProtocolError('snapshot: device state is nested too deeply');
  if (value === null || ['number', 'boolean', 'string'].includes(typeof value)) return;
  if (Array.isArray(value)) {
    for (let at = 0; at < value.length; at++) checkTree(value[at], lengthOf, `${path}.${at}`, depth + 1);
    return;
  }
  const node = (typeof value === 'object' ? value : {}) as { type?: unknown; map?: unknown };
  if (Array.isArray(node.map) && node.map.every((entry) => Array.isArray(entry) && entry.length === 2)) {
    checkTree(node.map, lengthOf, path, depth + 1);
    return;
  }
  const length = lengthOf(path);
  if (typeof node.type === 'string' && Object.hasOwn(ARRAY_TYPES, node.type) && length !== undefined) {
    if (length % ARRAY_TYPES[node.type as keyof typeof ARRAY_TYPES].BYTES_PER_ELEMENT === 0) return;
  }
  throw new ProtocolError(`snapshot: device state at ${path} is not understood`);
}

/**
 * What v86's set_state takes. Every buffer is a copy of its own, as v86 keeps some and writes into them; except those
 * that `isOnlyRead` knows to be copied by v86 itself.
 */
export function restoreState(
  tree: DeviceTree,
  buffers: DeviceBuffers,
  isOnlyRead: (path: string) => boolean,
  path = '',
): unknown {
  if (tree === null || typeof tree !== 'object') return tree;
  if (Array.isArray(tree))
    return tree.map((item, at) => restoreState(item, buffers, isOnlyRead, `${path}.${at}`));
  if ('map' in tree)
    return new Map(restoreState(tree.map, buffers, isOnlyRead, path) as [unknown, unknown][]);
  const bytes = buffers.get(path)!;
  const type = ARRAY_TYPES[tree.type as keyof typeof ARRAY_TYPES];
  const own = isOnlyRead(path) && bytes.byteOffset === 0 ? bytes : bytes.slice();
  return new type(own.buffer as ArrayBuffer, 0, own.byteLength / type.BYTES_PER_ELEMENT);
}
