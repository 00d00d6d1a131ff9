/**
 * Chardev options, from the command line's flat form (`-chardev socket,id=c,host=…`; the flag forms `server` and
 * `nowait` have become server=on and wait=off by then) and from QMP's `backend` objects (qapi/char.json). Error texts are
 * QEMU 7.2's where it has one. Telnet and websocket are refused rather than ignored.
 */
import { ColoError, ParameterError } from '../base/errors.ts';
import type { SocketAddress } from './address.ts';
import { BackendReader } from './backend-reader.ts';
import type { SinkChardevConfig } from './sink.ts';
import type { SocketChardevConfig } from './socket.ts';
import type { StdioChardevConfig } from './stdio.ts';

export type ChardevConfig = SocketChardevConfig | StdioChardevConfig | SinkChardevConfig;

/** Longest delay of a Node timer: 2^31 - 1 ms. */
const RECONNECT_LIMIT_MS = 0x7fffffff;

/** Backends of QEMU that we know by name and do not have. */
const UNSUPPORTED_BACKENDS: ReadonlySet<string> = new Set(
  [
    'braille',
    'console',
    'memory',
    'msmouse',
    'mux',
    'parallel',
    'pipe',
    'port',
    'pty',
    'ringbuf',
    'serial',
  ].concat(['spicevmc', 'spiceport', 'testdev', 'tty', 'udp', 'vc', 'wctablet', 'dbus', 'qemu-vdagent']),
);

/** QEMU's shape of an id (util/id.c): a letter, then letters, digits, '-', '.', '_'. */
export function checkIdentifier(id: string): void {
  if (/^[A-Za-z][A-Za-z0-9\-._]*$/.test(id)) return;
  throw new ParameterError(
    "Parameter 'id' expects an identifier\n" +
      "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
  );
}

function refuseBackend(name: string, unknownText: string): never {
  if (!UNSUPPORTED_BACKENDS.has(name)) throw new ParameterError(unknownText);
  throw new ParameterError(
    `character device backend '${name}' is not supported; use a socket (path=PATH,server=on,wait=off), stdio, file or null`,
  );
}

/** Checks that hold for both forms, in QEMU's words, and the defaults that depend on other options. */
function socketConfig(
  id: string,
  address: SocketAddress,
  given: {
    readonly server: boolean;
    readonly wait: boolean | undefined;
    readonly waitDefault: boolean;
    readonly nodelay: boolean | undefined;
    readonly reconnectSec: number | undefined;
    readonly reconnectMs: number | undefined;
    readonly tlsCreds: string | undefined;
  },
): SocketChardevConfig {
  const { server, wait, reconnectSec, reconnectMs, tlsCreds } = given;
  if (tlsCreds !== undefined && address.type === 'unix') {
    throw new ParameterError("'tls_creds' option is incompatible with 'unix' address type");
  }
  if (reconnectSec !== undefined && reconnectMs !== undefined) {
    throw new ParameterError("Only one of 'reconnect' and 'reconnect-ms' can be given");
  }
  const delayMs = reconnectMs ?? (reconnectSec ?? 0) * 1000;
  if (delayMs > RECONNECT_LIMIT_MS) {
    throw new ParameterError(
      `Parameter 'reconnect' expects at most ${Math.floor(RECONNECT_LIMIT_MS / 1000)} seconds`,
    );
  }
  if (server && delayMs > 0) {
    throw new ParameterError("'reconnect' option is incompatible with socket in server listen mode");
  }
  if (!server && wait !== undefined) {
    throw new ParameterError("'wait' option is incompatible with socket in client connect mode");
  }
  return {
    backend: 'socket',
    id,
    address,
    server,
    wait: server && (wait ?? given.waitDefault),
    nodelay: given.nodelay ?? true,
    reconnectMs: delayMs,
    ...(tlsCreds === undefined ? {} : { tlsCreds }),
  };
}

function refuseLayers(
  isOn: (key: string) => boolean | undefined,
  credentials: string | undefined,
  authz: string | undefined,
): void {
  for (const key of ['telnet', 'tn3270', 'websocket']) {
    if (isOn(key))
      throw new ParameterError(`'${key}' is not supported on socket character devices; leave it out`);
  }
  if (authz !== undefined && credentials === undefined) {
    throw new ParameterError("'tls_authz' option requires 'tls_creds' option");
  }
  if (authz !== undefined) {
    throw new ParameterError('tls-authz is not supported; whoever has a certificate of the CA is let in');
  }
}

const COMMON_KEYS = ['id', 'backend', 'mux', 'logfile', 'logappend'];
const SOCKET_KEYS = new Set(
  COMMON_KEYS.concat(
    ['host', 'port', 'path', 'fd', 'to', 'ipv4', 'ipv6', 'server', 'wait', 'nodelay', 'delay', 'reconnect'],
    [
      'reconnect-ms',
      'telnet',
      'tn3270',
      'websocket',
      'tls-creds',
      'tls-authz',
      'abstract',
      'tight',
      'localaddr',
    ],
  ),
);
const OTHER_KEYS: Readonly<Record<string, ReadonlySet<string>>> = {
  null: new Set(COMMON_KEYS),
  stdio: new Set([...COMMON_KEYS, 'signal']),
  file: new Set([...COMMON_KEYS, 'path', 'append']),
};

type FlatOptions = Readonly<Record<string, string>>;

function flatBoolean(flat: FlatOptions, key: string): boolean | undefined {
  const value = flat[key];
  if (value === undefined) return undefined;
  if (value === 'on' || value === 'yes' || value === 'true' || value === 'y') return true;
  if (value === 'off' || value === 'no' || value === 'false' || value === 'n') return false;
  throw new ParameterError(`Parameter '${key}' expects 'on' or 'off'`);
}

function flatNumber(flat: FlatOptions, key: string): number | undefined {
  const value = flat[key];
  if (value === undefined) return undefined;
  if (!/^\d{1,15}$/.test(value)) throw new ParameterError(`Parameter '${key}' expects a number`);
  return Number(value);
}

function refuseUnknownKeys(flat: FlatOptions, known: ReadonlySet<string>): void {
  for (const key of Object.keys(flat))
    if (!known.has(key)) throw new ParameterError(`Invalid parameter '${key}'`);
  if (flatBoolean(flat, 'mux')) throw new ParameterError("'mux' is not supported on character devices");
  if (flat['logfile'] !== undefined)
    throw new ParameterError("'logfile' is not supported on character devices");
}

function flatAddress(flat: FlatOptions): SocketAddress {
  const { host, path, port } = flat;
  const fd = flat['fd'];
  if ([host, path, fd].filter((value) => value !== undefined).length > 1) {
    throw new ParameterError("None or one of 'path', 'fd' or 'host' option required.");
  }
  if (fd !== undefined)
    throw new ParameterError("'fd' is not supported on socket character devices; use path or host");
  if (flatBoolean(flat, 'abstract'))
    throw new ParameterError("'abstract' is not supported; give a path in the file system");
  if (path !== undefined) return { type: 'unix', path };
  // QEMU looks for a file descriptor when neither is given and complains of that; a port alone means every address here.
  if (port === undefined) {
    throw new ParameterError(
      host === undefined ? 'chardev: socket: no host or path given' : 'chardev: socket: no port given',
    );
  }
  const ipv4 = flatBoolean(flat, 'ipv4');
  const ipv6 = flatBoolean(flat, 'ipv6');
  const to = flatNumber(flat, 'to');
  return {
    type: 'inet',
    host: host ?? '',
    port,
    ...(to === undefined ? {} : { to }),
    ...(ipv4 === undefined ? {} : { ipv4 }),
    ...(ipv6 === undefined ? {} : { ipv6 }),
  };
}

/** `-chardev socket,…` as flat options. Throws ParameterError. */
export function parseSocketChardev(flat: FlatOptions): SocketChardevConfig {
  refuseUnknownKeys(flat, SOCKET_KEYS);
  refuseLayers((key) => flatBoolean(flat, key), flat['tls-creds'], flat['tls-authz']);
  const delay = flatBoolean(flat, 'delay');
  return socketConfig(flat['id'] ?? '', flatAddress(flat), {
    server: flatBoolean(flat, 'server') ?? false,
    wait: flatBoolean(flat, 'wait'),
    waitDefault: true,
    nodelay: flatBoolean(flat, 'nodelay') ?? (delay === undefined ? undefined : !delay),
    reconnectSec: flatNumber(flat, 'reconnect'),
    reconnectMs: flatNumber(flat, 'reconnect-ms'),
    tlsCreds: flat['tls-creds'],
  });
}

/** `-chardev BACKEND,id=…` as flat options, BACKEND under the key `backend`. Throws ParameterError. */
export function parseChardevOptions(flat: FlatOptions): ChardevConfig {
  const { id, backend } = flat;
  if (id === undefined) throw new ParameterError('chardev: no id specified');
  checkIdentifier(id);
  if (backend === undefined) throw new ParameterError(`chardev: "${id}" missing backend`);
  if (backend === 'socket') return parseSocketChardev(flat);
  const known = Object.hasOwn(OTHER_KEYS, backend) ? OTHER_KEYS[backend] : undefined;
  if (!known) return refuseBackend(backend, `'${backend}' is not a valid char driver name`);
  refuseUnknownKeys(flat, known);
  if (backend === 'stdio') return { backend, id, signal: flatBoolean(flat, 'signal') ?? true };
  if (backend === 'null') return { backend, id };
  const path = flat['path'];
  if (path === undefined) throw new ParameterError('chardev: file: no filename given');
  return { backend: 'file', id, path, append: flatBoolean(flat, 'append') ?? false };
}

function backendAddress(addr: BackendReader): SocketAddress {
  const type = addr.string('type');
  if (type !== 'inet' && type !== 'unix') {
    if (type === 'fd' || type === 'vsock')
      throw new ParameterError(`socket address type '${type}' is not supported`);
    throw new ParameterError(`Parameter 'type' does not accept value '${type}'`);
  }
  // QEMU's legacy form nests the fields below `data`; the flat form of newer schemas is taken as well.
  const flat = addr.has(type === 'inet' ? 'host' : 'path');
  const fields = flat ? addr : addr.object('data');
  let address: SocketAddress;
  if (type === 'unix') {
    address = { type, path: fields.string('path') };
    if (fields.optionalBoolean('abstract')) throw new ParameterError("'abstract' is not supported");
    fields.optionalBoolean('tight');
  } else {
    const to = fields.optionalInteger('to', 65535);
    const ipv4 = fields.optionalBoolean('ipv4');
    const ipv6 = fields.optionalBoolean('ipv6');
    fields.optionalBoolean('keep-alive');
    fields.optionalBoolean('numeric');
    address = {
      type,
      host: fields.string('host'),
      port: fields.string('port'),
      ...(to === undefined ? {} : { to }),
      ...(ipv4 === undefined ? {} : { ipv4 }),
      ...(ipv6 === undefined ? {} : { ipv6 }),
    };
  }
  fields.end();
  if (!flat) addr.end();
  return address;
}

/**
 * A `backend` of QMP's chardev-add. Throws ParameterError for an object that does not fit the schema, and
 * ChardevOptionError for options that do not go together (QEMU prefixes only these with the chardev's name).
 */
export function parseChardevBackend(id: string, backend: unknown): ChardevConfig {
  const top = new BackendReader(backend, 'backend');
  const type = top.string('type');
  if (type !== 'socket' && type !== 'null' && type !== 'file' && type !== 'stdio') {
    return refuseBackend(type, `Parameter 'type' does not accept value '${type}'`);
  }
  const data = top.object('data');
  top.end();
  data.optionalString('logfile');
  data.optionalBoolean('logappend');
  if (type === 'null') {
    data.end();
    return { backend: 'null', id };
  }
  if (type === 'stdio') {
    const signal = data.optionalBoolean('signal') ?? true;
    data.end();
    return { backend: 'stdio', id, signal };
  }
  if (type === 'file') {
    const config = {
      backend: 'file',
      id,
      path: data.string('out'),
      append: data.optionalBoolean('append') ?? false,
    } as const;
    data.end();
    return config;
  }
  const address = backendAddress(data.object('addr'));
  const layers = new Map(['telnet', 'tn3270', 'websocket'].map((key) => [key, data.optionalBoolean(key)]));
  const credentials = data.optionalString('tls-creds');
  const authz = data.optionalString('tls-authz');
  const given = {
    server: data.optionalBoolean('server') ?? true,
    wait: data.optionalBoolean('wait'),
    waitDefault: false,
    nodelay: data.optionalBoolean('nodelay'),
    reconnectSec: data.optionalInteger('reconnect', Number.MAX_SAFE_INTEGER),
    reconnectMs: data.optionalInteger('reconnect-ms', Number.MAX_SAFE_INTEGER),
    tlsCreds: credentials,
  };
  data.end();
  try {
    refuseLayers((key) => layers.get(key), credentials, authz);
    return socketConfig(id, address, given);
  } catch (error) {
    throw error instanceof ParameterError ? new ChardevOptionError(error.message) : error;
  }
}

/** Options that each are well-formed but do not go together. */
export class ChardevOptionError extends ColoError {}
