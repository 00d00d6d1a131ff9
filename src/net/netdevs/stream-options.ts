/**
 * The options of `-netdev stream` and of `-netdev socket` in its stream forms, which differ in spelling only (QEMU
 * qapi/net.json, NetdevStreamOptions and NetdevSocketOptions). Values are the command line's strings.
 */
import { ParameterError } from '../../base/errors.ts';
import type { SocketAddress } from '../../chardev/address.ts';

export type NetdevOptionStrings = Readonly<Record<string, string | undefined>>;

export interface StreamConfig {
  /** An address, or a descriptor of a connected socket that was inherited. */
  readonly address: SocketAddress | { readonly type: 'fd'; readonly fd: number };
  readonly server: boolean;
  /** Pause before a client tries again, in ms; 0: never. */
  readonly reconnectMs: number;
  /** NETDEV_STREAM_* are events of `-netdev stream` alone. */
  readonly hasEvents: boolean;
}

const STREAM_OPTIONS = ['type', 'id', 'server', 'reconnect', 'reconnect-ms'];
const SOCKET_OPTIONS = ['type', 'id', 'listen', 'connect', 'fd'];

/** Throws ParameterError with QEMU's texts where it has one. */
export function parseStreamOptions(options: NetdevOptionStrings): StreamConfig {
  return options['type'] === 'socket' ? parseSocket(options) : parseStream(options);
}

function parseStream(options: NetdevOptionStrings): StreamConfig {
  refuseUnknown(options, (name) => STREAM_OPTIONS.includes(name) || name.startsWith('addr.'));
  const server = parseBool('server', options['server'] ?? 'off');
  const reconnectMs = parseReconnect(options);
  if (server && reconnectMs > 0) {
    throw new ParameterError("'reconnect' option is incompatible with socket in server mode");
  }
  return { address: parseAddress(options), server, reconnectMs, hasEvents: true };
}

function parseAddress(options: NetdevOptionStrings): StreamConfig['address'] {
  const type = required(options, 'addr.type');
  switch (type) {
    case 'inet': {
      const to = options['addr.to'];
      return {
        type,
        host: options['addr.host'] ?? '',
        port: required(options, 'addr.port'),
        ...(to !== undefined && { to: parseNumber('addr.to', to) }),
        ...(options['addr.ipv4'] !== undefined && { ipv4: parseBool('addr.ipv4', options['addr.ipv4']) }),
        ...(options['addr.ipv6'] !== undefined && { ipv6: parseBool('addr.ipv6', options['addr.ipv6']) }),
      };
    }
    case 'unix':
      return { type, path: required(options, 'addr.path') };
    case 'fd':
      return { type, fd: parseNumber('addr.str', required(options, 'addr.str')) };
    default:
      throw new ParameterError(`Parameter 'addr.type' does not accept value '${type}'`);
  }
}

function parseSocket(options: NetdevOptionStrings): StreamConfig {
  refuseUnknown(options, (name) => SOCKET_OPTIONS.includes(name));
  const { listen, connect, fd } = options;
  if ([listen, connect, fd].filter((given) => given !== undefined).length !== 1) {
    throw new ParameterError('exactly one of listen=, connect=, mcast= or udp= is required');
  }
  const common = { reconnectMs: 0, hasEvents: false };
  if (listen !== undefined) return { address: parseHostPort(listen), server: true, ...common };
  if (connect !== undefined) return { address: parseHostPort(connect), server: false, ...common };
  return { address: { type: 'fd', fd: parseNumber('fd', fd ?? '') }, server: false, ...common };
}

/** `host:port`, `[v6]:port` or `:port`. */
function parseHostPort(text: string): SocketAddress {
  const match = /^(?:\[([^\]]*)\]|([^:]*)):(\d{1,5})$/.exec(text);
  if (!match)
    throw new ParameterError(`host address '${text}' doesn't contain ':' separating host from port`);
  return { type: 'inet', host: match[1] ?? match[2] ?? '', port: match[3]! };
}

function parseReconnect(options: NetdevOptionStrings): number {
  const { reconnect, 'reconnect-ms': reconnectMs } = options;
  if (reconnect !== undefined && reconnectMs !== undefined) {
    throw new ParameterError("'reconnect' and 'reconnect-ms' are mutually exclusive");
  }
  if (reconnectMs !== undefined) return parseNumber('reconnect-ms', reconnectMs);
  return reconnect === undefined ? 0 : parseNumber('reconnect', reconnect) * 1000;
}

function refuseUnknown(options: NetdevOptionStrings, isKnown: (name: string) => boolean): void {
  for (const name of Object.keys(options)) {
    if (!isKnown(name)) throw new ParameterError(`Invalid parameter '${name}'`);
  }
}

export function required(options: NetdevOptionStrings, name: string): string {
  const value = options[name];
  if (value === undefined) throw new ParameterError(`Parameter '${name}' is missing`);
  return value;
}

export function parseBool(name: string, value: string): boolean {
  if (value === 'on' || value === 'yes' || value === 'true' || value === 'y') return true;
  if (value === 'off' || value === 'no' || value === 'false' || value === 'n') return false;
  throw new ParameterError(`Parameter '${name}' expects 'on' or 'off'`);
}

export function parseNumber(name: string, value: string): number {
  const number = /^\d{1,10}$/.test(value) ? Number(value) : NaN;
  if (!(number <= 0xffff_ffff)) throw new ParameterError(`Parameter '${name}' expects a number`);
  return number;
}
