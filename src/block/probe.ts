/**
 * What a file name or a file's first bytes say about the driver to use: protocol prefixes (`nbd://…` and its kind
 * (nbd-uri.ts), `nbd:host:port:exportname=x`, `file:…`), `json:{…}` pseudo-protocol names, and the format's magic
 * number.
 * Source: QEMU docs/system/device-url-syntax.rst.inc, docs/qemu-behaviour.md 9.1. It opens nothing.
 */
import { ParameterError } from '../base/errors.ts';
import { isNbdUri, parseNbdUri } from './nbd-uri.ts';
import type { OptionTree, OptionValue } from './options.ts';
import { nestOptions } from './options.ts';

/** The bytes a format probe needs. */
export const PROBE_BYTES = 512;

/** `qcow2` when the magic and a version say so, else `raw`. */
export function probeFormat(head: Uint8Array): 'qcow2' | 'raw' {
  const isQcow = head[0] === 0x51 && head[1] === 0x46 && head[2] === 0x49 && head[3] === 0xfb;
  // Version 1 is the older `qcow` format: left to the qcow2 driver, which refuses it by version.
  return isQcow ? 'qcow2' : 'raw';
}

/** True when `name` starts with a protocol (or json:) rather than being a path. */
export function hasProtocol(name: string): boolean {
  return /^(?:json|file|nbds?(?:\+unix|\+tcp)?):/.test(name);
}

/** The options of the protocol driver that a file name stands for; `json:` gives the whole tree it holds. */
export function parseFilename(name: string): OptionTree {
  if (name.startsWith('json:')) return parseJsonFilename(name.slice(5));
  if (name.startsWith('file:')) return { driver: 'file', filename: name.slice(5) };
  if (isNbdUri(name)) return parseNbdUri(name);
  if (name.startsWith('nbd:')) return parseOldNbdName(name);
  return { driver: 'file', filename: name };
}

/** JSON (blockdev-add, json:) as options: numbers and booleans become the strings `-drive` would carry. */
export function optionsFromJson(value: unknown): OptionTree {
  const tree = fromJson(value, '');
  if (typeof tree === 'string') throw new ParameterError('Block options must be a JSON object');
  // Dotted keys inside JSON are legal (`{"file.driver": "nbd"}`) and mean the same as nesting.
  return tree;
}

function fromJson(value: unknown, where: string): OptionValue {
  if (typeof value === 'string') return value;
  if (typeof value === 'number') return String(value);
  if (typeof value === 'boolean') return value ? 'on' : 'off';
  if (typeof value !== 'object' || value === null) {
    throw new ParameterError(`Block option '${where}' has an unsupported type`);
  }
  const flat: Record<string, string> = {};
  flatten(value, '', flat);
  return nestOptions(flat);
}

function flatten(value: object, prefix: string, into: Record<string, string>): void {
  for (const [key, below] of Object.entries(value) as [string, unknown][]) {
    // No backing file, whatever the image says.
    if (below === null && key === 'backing') into[prefix + key] = '';
    else if (typeof below === 'object' && below !== null) flatten(below, `${prefix}${key}.`, into);
    else into[prefix + key] = fromJson(below, prefix + key) as string;
  }
}

function parseJsonFilename(text: string): OptionTree {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new ParameterError(`Could not parse the JSON options: ${(error as Error).message}`, {
      cause: error,
    });
  }
  return optionsFromJson(value);
}

/** nbd:HOST:PORT[:exportname=X] and nbd:unix:PATH[:exportname=X]. */
function parseOldNbdName(name: string): OptionTree {
  const match =
    /^nbd:(?:unix:(?<path>[^:]+)|(?<host>\[[^\]]+\]|[^:]+):(?<port>[0-9]+))(?::exportname=(?<name>.*))?$/.exec(
      name,
    );
  const groups = match?.groups;
  if (!groups) throw new ParameterError(`Invalid NBD name '${name}'; use nbd://HOST:PORT/EXPORT`);
  const options: OptionTree = { driver: 'nbd' };
  if (groups['name'] !== undefined) options['export'] = groups['name'];
  options['server'] =
    groups['path'] === undefined
      ? { type: 'inet', host: (groups['host'] ?? '').replace(/^\[(.*)\]$/, '$1'), port: groups['port'] ?? '' }
      : { type: 'unix', path: groups['path'] };
  return options;
}
