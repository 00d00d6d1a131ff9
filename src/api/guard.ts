/**
 * Who may ask at all: no web page. A page in somebody's browser can reach what the browser reaches, loopback and the
 * network behind it; its requests carry Origin, and with a name of its own that it lets point here (DNS rebinding) a
 * Host that is not ours. Neither daemons nor the `colo` program send Origin.
 */
import type { IncomingHttpHeaders } from 'node:http';
import { isIP } from 'node:net';
import { ForbiddenError } from './errors.ts';

/** `names`: those under which this listener may be asked, null for a unix socket. Throws ForbiddenError. */
export function checkCaller(headers: IncomingHttpHeaders, names: readonly string[] | null): void {
  if (headers.origin !== undefined) throw new ForbiddenError('the API is not for web pages (Origin is set)');
  if (names !== null) checkHost(headers, names);
}

/** That half of it which also holds for the dashboard's own pages. Throws ForbiddenError. */
export function checkHost(headers: IncomingHttpHeaders, names: readonly string[]): void {
  const host = hostOf(headers.host ?? '');
  if (isIP(host) !== 0 || host === 'localhost') return;
  if (!names.some((name) => name.toLowerCase() === host)) {
    throw new ForbiddenError(`this host is not '${host.slice(0, 100)}': ask it by its address`);
  }
}

/** Without the port and an IPv6 address's brackets. */
function hostOf(header: string): string {
  return header
    .toLowerCase()
    .replace(/:\d+$/, '')
    .replace(/^\[(.*)\]$/, '$1');
}
