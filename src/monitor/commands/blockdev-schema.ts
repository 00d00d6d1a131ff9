/**
 * What QEMU's schema demands of blockdev-add before a driver is asked (qapi/block-core.json: BlockdevOptions), with the
 * texts of its input visitor: members that are missing, of a wrong type, or unknown. Drivers say the rest, among it
 * which of these options cannot be honoured. A driver that is not in the table is left to itself.
 */
import { ParameterError } from '../../base/errors.ts';
import { blockDrivers } from '../../block/drivers/index.ts';

type MemberType =
  | 'string'
  | 'integer'
  | 'boolean'
  /** Another node: its options, or a name. */
  | 'node'
  /** As `node`, or null. */
  | 'node or null'
  | 'nodes'
  /** Checked by the driver. */
  | 'any'
  | readonly string[];

interface Members {
  readonly [name: string]: MemberType;
}

const BASE: Members = {
  driver: 'string',
  'node-name': 'string',
  discard: ['ignore', 'unmap'],
  cache: 'any',
  'read-only': 'boolean',
  'auto-read-only': 'boolean',
  'force-share': 'boolean',
  'detect-zeroes': ['off', 'on', 'unmap'],
};

const FILE: Members = {
  filename: 'string',
  'pr-manager': 'string',
  locking: ['auto', 'on', 'off'],
  aio: ['threads', 'native', 'io_uring'],
  'aio-max-batch': 'integer',
  'drop-cache': 'boolean',
  'x-check-cache-dropped': 'boolean',
};

/** In QEMU's order, which decides what is said first. */
export const BLOCKDEV_MEMBERS: Readonly<Record<string, Members>> = {
  file: FILE,
  host_device: FILE,
  raw: { file: 'node', offset: 'integer', size: 'integer' },
  qcow2: {
    file: 'node',
    backing: 'node or null',
    'lazy-refcounts': 'boolean',
    'pass-discard-request': 'boolean',
    'pass-discard-snapshot': 'boolean',
    'pass-discard-other': 'boolean',
    'overlap-check': 'any',
    'cache-size': 'integer',
    'l2-cache-size': 'integer',
    'l2-cache-entry-size': 'integer',
    'refcount-cache-size': 'integer',
    'cache-clean-interval': 'integer',
    encrypt: 'any',
    'data-file': 'node',
  },
  nbd: {
    server: 'any',
    export: 'string',
    'tls-creds': 'string',
    'tls-hostname': 'string',
    'x-dirty-bitmap': 'string',
    'reconnect-delay': 'integer',
    'open-timeout': 'integer',
    // Ours.
    'request-timeout': 'integer',
  },
  quorum: {
    blkverify: 'boolean',
    children: 'nodes',
    'vote-threshold': 'integer',
    'rewrite-corrupted': 'boolean',
    'read-pattern': ['quorum', 'fifo'],
  },
  replication: { file: 'node', mode: ['primary', 'secondary'], 'top-id': 'string' },
  'null-co': { size: 'integer', 'latency-ns': 'integer', 'read-zeroes': 'boolean' },
};

const REQUIRED = new Set(['filename', 'file', 'server', 'children', 'vote-threshold', 'mode']);

/** Throws ParameterError. `where` is the path of this node in the arguments, with a dot at its end. */
export function checkBlockdev(options: Readonly<Record<string, unknown>>, where = ''): void {
  const { driver } = options;
  if (driver === undefined) throw new ParameterError(`Parameter '${where}driver' is missing`);
  if (typeof driver !== 'string') throw wrongType(`${where}driver`, 'string');
  const own = BLOCKDEV_MEMBERS[driver];
  if (!own) {
    if (!blockDrivers.has(driver)) throw notAccepted('driver', driver);
    checkBelow(options, where);
    return;
  }
  const members = { ...BASE, ...own };
  for (const [name, type] of Object.entries(members)) {
    const value = options[name];
    if (value !== undefined) checkMember(name, where, value, type);
    else if (REQUIRED.has(name)) throw new ParameterError(`Parameter '${where}${name}' is missing`);
  }
  for (const name of Object.keys(options)) {
    if (!Object.hasOwn(members, name)) throw new ParameterError(`Parameter '${where}${name}' is unexpected`);
  }
}

function checkMember(name: string, where: string, value: unknown, type: MemberType): void {
  const full = where + name;
  if (type === 'any') return;
  if (type === 'integer') {
    if (!Number.isInteger(value)) throw wrongType(full, 'integer');
  } else if (type === 'string' || type === 'boolean') {
    if (typeof value !== type) throw wrongType(full, type);
  } else if (type === 'nodes') {
    if (!Array.isArray(value)) throw wrongType(full, 'array');
    for (const [at, element] of value.entries()) checkNode(`${full}[${at}]`, element);
  } else if (type === 'node' || type === 'node or null') {
    if (value !== null || type === 'node') checkNode(full, value);
  } else {
    if (typeof value !== 'string') throw wrongType(full, 'string');
    if (!type.includes(value)) throw notAccepted(name, value);
  }
}

function checkNode(where: string, value: unknown): void {
  if (typeof value === 'string') return;
  if (!isObject(value)) throw wrongType(where, 'BlockdevRef');
  checkBlockdev(value, `${where}.`);
}

/** The nodes below a driver that is not in the table, as far as they are recognised. */
function checkBelow(options: Readonly<Record<string, unknown>>, where: string): void {
  for (const [key, below] of Object.entries(options)) {
    if (isObject(below) && below['driver'] !== undefined) checkBlockdev(below, `${where}${key}.`);
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function wrongType(name: string, expected: string): ParameterError {
  return new ParameterError(`Invalid parameter type for '${name}', expected: ${expected}`);
}

/** As in QEMU an enumeration is named by its last part. */
function notAccepted(name: string, value: string): ParameterError {
  return new ParameterError(`Parameter '${name}' does not accept value '${value}'`);
}
