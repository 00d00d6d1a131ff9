/**
 * Migration URIs: `tcp:HOST:PORT`, `tcp:[v6]:PORT`, `unix:PATH` (QEMU docs: -incoming, migrate). An empty host or `0`
 * means every interface when listening, as in QEMU.
 */
import net from 'node:net';
import { ParameterError } from '../base/errors.ts';

export type MigrationAddress =
  | { readonly type: 'inet'; readonly host: string; readonly port: number }
  | { readonly type: 'unix'; readonly path: string };

/** Throws ParameterError with QEMU's texts for an unknown scheme and for an address that is none. */
export function parseMigrationUri(uri: string): MigrationAddress {
  const unix = /^unix:(.+)$/.exec(uri);
  if (unix) return { type: 'unix', path: unix[1]! };
  if (!uri.startsWith('tcp:')) throw new ParameterError(`unknown migration protocol: ${uri}`);
  const rest = uri.slice('tcp:'.length);
  const tcp = /^(?:\[([0-9a-fA-F:.]+)\]|([^:,]*)):([^:,]+)(?:,.*)?$/.exec(rest);
  if (!tcp) throw new ParameterError(`error parsing address '${rest}'`);
  const port = /^\d{1,6}$/.test(tcp[3]!) ? Number(tcp[3]) : NaN;
  if (Number.isNaN(port)) {
    throw new ParameterError(`address resolution failed for ${rest}: Servname not supported for ai_socktype`);
  }
  if (port > 65535) throw new ParameterError(`port '${tcp[3]!}' is out of range in '${uri}'`);
  const host = tcp[1] ?? tcp[2]!;
  return { type: 'inet', host: host === '' || host === '0' ? '0.0.0.0' : host, port };
}

/** For messages. */
export function formatAddress(address: MigrationAddress): string {
  if (address.type === 'unix') return address.path;
  return net.isIPv6(address.host) ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}

/** Connect arguments for node:net. */
export function connectOptions(address: MigrationAddress): net.NetConnectOpts {
  return address.type === 'unix'
    ? { path: address.path }
    : { host: address.host === '0.0.0.0' ? '127.0.0.1' : address.host, port: address.port };
}
