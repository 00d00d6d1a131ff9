/**
 * The switch's address syntax: `unix:PATH`, `tcp:HOST:PORT`, `tcp:[IPV6]:PORT`, `tcp:PORT`. Without a host, loopback is
 * meant: a switch port has no authentication, so reaching out of this machine must be asked for.
 */
import { ParameterError } from '../base/errors.ts';

export type LinkAddress =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number };

/** sockaddr_un's path, without the terminating zero. */
const MAX_UNIX_PATH_BYTES = 107;

/** Throws ParameterError. `what` names the option in the message. */
export function parseLinkAddress(text: string, what: string): LinkAddress {
  if (text.startsWith('unix:')) {
    const path = text.slice('unix:'.length);
    const bytes = Buffer.byteLength(path);
    if (bytes === 0 || bytes > MAX_UNIX_PATH_BYTES || path.includes('\0')) {
      throw new ParameterError(`${what} ${text}: a unix socket's path has 1 to ${MAX_UNIX_PATH_BYTES} bytes`);
    }
    return { kind: 'unix', path };
  }
  const match = /^tcp:(?:(?:\[([0-9A-Fa-f:.]+)\]|([^:[\]]*)):)?(\d{1,5})$/.exec(text);
  if (!match) throw new ParameterError(`${what} ${text}: use unix:PATH, tcp:HOST:PORT or tcp:[IPV6]:PORT`);
  const port = Number(match[3]);
  if (port > 65535) throw new ParameterError(`${what} ${text}: a port is at most 65535`);
  return { kind: 'tcp', host: match[1] ?? (match[2] || '127.0.0.1'), port };
}

export function formatLinkAddress(address: LinkAddress): string {
  if (address.kind === 'unix') return `unix:${address.path}`;
  return address.host.includes(':')
    ? `tcp:[${address.host}]:${address.port}`
    : `tcp:${address.host}:${address.port}`;
}
