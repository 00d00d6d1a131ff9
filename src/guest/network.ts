/**
 * Checks the guest's network options before anything is built: they end up on a kernel command line, where a typing
 * mistake would show only as a guest that cannot be reached.
 */
import { isIPv4 } from 'node:net';
import { GuestBuildError } from './errors.ts';
import type { GuestNetwork } from './guest-scripts.ts';

/** Throws a GuestBuildError unless `ip` is ADDRESS/LENGTH and `gateway` an address, both IPv4, where given. */
export function checkNetwork({ ip, gateway }: GuestNetwork): void {
  if (ip !== undefined) {
    const match = /^([^/]+)\/(\d{1,2})$/.exec(ip);
    const length = Number(match?.[2]);
    if (match === null || !isIPv4(match[1]!) || length < 1 || length > 32) {
      throw new GuestBuildError(
        `"${ip}" is not an IPv4 address with its prefix length, such as 192.168.1.20/24.`,
      );
    }
  }
  if (gateway !== undefined && !isIPv4(gateway)) {
    throw new GuestBuildError(`The gateway "${gateway}" is not an IPv4 address.`);
  }
}
