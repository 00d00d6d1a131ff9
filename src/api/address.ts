/** Where a daemon's API is: `unix:PATH` or `HOST:PORT`, an IPv6 address in brackets. */
import { isIP } from 'node:net';
import { ParameterError } from '../base/errors.ts';

export { isLoopback } from '../base/loopback.ts';

export type NodeAddress = { readonly path: string } | { readonly host: string; readonly port: number };

/** Throws ParameterError. */
export function parseNodeAddress(text: string): NodeAddress {
  if (text.startsWith('unix:')) {
    const path = text.slice('unix:'.length);
    if (path === '') throw new ParameterError(`'${text}': no path after unix:`);
    return { path };
  }
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port < 1 || port > 65535) {
    throw new ParameterError(`'${text}': expected unix:PATH or HOST:PORT`);
  }
  return { host, port };
}

export function textOfNodeAddress(address: NodeAddress): string {
  return 'path' in address ? `unix:${address.path}` : hostAndPort(address.host, address.port);
}

export function hostAndPort(host: string, port: number): string {
  return isIP(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`;
}
