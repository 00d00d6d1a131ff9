/**
 * Checks the guest's network options before anything is built: they end up on a kernel command line, where a typing
 * mistake would show only as a guest that cannot be reached.
 */
import { isIPv4, isIPv6 } from 'node:net';
import { GuestBuildError } from './errors.ts';
import type { GuestNetwork } from './guest-scripts.ts';

/**
 * Throws a GuestBuildError unless `ip` is ADDRESS/LENGTH and `gateway` an address, both IPv4, where given; the same for
 * `ip6` and `gateway6`.
 */
export function checkNetwork({ ip, gateway, ip6, gateway6 }: GuestNetwork): void {
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
  if (ip6 !== undefined) {
    const match = /^([0-9a-f:.]+)\/(\d{1,3})$/i.exec(ip6);
    const length = Number(match?.[2]);
    if (match === null || !isIPv6(match[1]!) || length < 1 || length > 128) {
      throw new GuestBuildError(
        `"${ip6}" is not an IPv6 address with its prefix length, such as fd00::20/64.`,
      );
    }
  }
  // A zone (fe80::1%eth0) would be taken for one, and means nothing on a kernel command line.
  if (gateway6 !== undefined && (!isIPv6(gateway6) || gateway6.includes('%'))) {
    throw new GuestBuildError(`The gateway "${gateway6}" is not an IPv6 address.`);
  }
  if (gateway6 !== undefined && ip6 === undefined) {
    throw new GuestBuildError('An IPv6 gateway without an IPv6 address: give the guest one with --ip6.');
  }
}
