/**
 * Addresses of socket chardevs and the names of their connections. QEMU's qapi/sockets.json (SocketAddress) with the two
 * kinds we serve, inet and unix. No I/O here.
 */

export interface InetAddress {
  readonly type: 'inet';
  /** Name or address without brackets; '' means every local address (servers) or this host (clients). */
  readonly host: string;
  /** Decimal digits; '0' lets a server take any free port. */
  readonly port: string;
  /** A server tries the ports from `port` to this one. */
  readonly to?: number;
  readonly ipv4?: boolean;
  readonly ipv6?: boolean;
}

export interface UnixAddress {
  readonly type: 'unix';
  readonly path: string;
}

export type SocketAddress = InetAddress | UnixAddress;

/** Longest path of a unix socket on Linux: sun_path is 108 bytes with its final zero. */
export const UNIX_PATH_MAX_BYTES = 107;

/** `host:port` with an IPv6 address in brackets, or the path. */
export function formatAddress(address: SocketAddress): string {
  return address.type === 'unix' ? address.path : formatHostPort(address.host, address.port);
}

export function formatHostPort(host: string, port: string | number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

/**
 * One spelling for one address, so that both ends of a connection name it alike: IPv4-mapped IPv6 addresses as IPv4
 * (a dual-stack server sees `::ffff:10.0.0.1` where its client says 10.0.0.1), and no zone (`%eth0` is local).
 */
export function normaliseHost(host: string): string {
  const bare = host.split('%', 1)[0] ?? host;
  const mapped = /^::ffff:(\d{1,3}(?:\.\d{1,3}){3})$/i.exec(bare);
  return mapped?.[1] ?? bare.toLowerCase();
}

/** The name of one direction of a connection: sender first. */
export function connectionName(
  from: { readonly host: string; readonly port: number },
  to: { readonly host: string; readonly port: number },
): string {
  const sender = formatHostPort(normaliseHost(from.host), from.port);
  return `${sender}>${formatHostPort(normaliseHost(to.host), to.port)}`;
}
