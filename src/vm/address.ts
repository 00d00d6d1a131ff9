/**
 * Migration URIs: `tcp:HOST:PORT`, `tcp:[v6]:PORT`, `unix:PATH` (QEMU docs: -incoming, migrate). An empty host or `0`
 * means every interface when listening, as in QEMU.
 */
import net from 'node:net';
import { ParameterError } from '../base/errors.ts';

export type MigrationAddress =
  | { readonly type: 'inet'; readonly host: string; readonly port: number }
  | { readonly type: 'unix'; readonly path: string };

/** Throws ParameterError with QEMU's text for an unknown scheme. */
export function parseMigrationUri(uri: string): MigrationAddress {
  const unix = /^unix:(.+)$/.exec(uri);
  if (unix) return { type: 'unix', path: unix[1]! };
  const tcp = /^tcp:(?:\[([0-9a-fA-F:.]+)\]|([^:,]*)):(\d+)(?:,.*)?$/.exec(uri);
  if (!tcp) throw new ParameterError(`unknown migration protocol: ${uri}`);
  const port = Number(tcp[3]);
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
