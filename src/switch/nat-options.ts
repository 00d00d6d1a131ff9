/**
 * What a user says about the NAT: its network and its port forwards, in the words of QEMU's `-netdev user` (net=,
 * hostfwd=, restrict=). Two differences: an empty host address means loopback, not every interface, and host port 0
 * takes a free port. IPv4 only, as slirp_add_hostfwd is.
 */
import { isIPv4 } from 'node:net';
import { ParameterError } from '../base/errors.ts';

export interface NatNetwork {
  /** `10.0.2.0/24`. */
  readonly cidr: string;
  readonly network: Uint8Array;
  readonly mask: Uint8Array;
  /** The NAT itself, network + 2: the gateway, and the host as the guest reaches it. */
  readonly gateway: Uint8Array;
  /** A name server that asks the host's own: network + 3. */
  readonly dns: Uint8Array;
  /** First address that DHCP gives away: network + 15. */
  readonly dhcpStart: Uint8Array;
}

export interface HostForward {
  readonly protocol: 'tcp' | 'udp';
  readonly hostAddress: string;
  /** 0: any free port. */
  readonly hostPort: number;
  /** Null: the first DHCP address. */
  readonly guestAddress: string | null;
  readonly guestPort: number;
}

export const DEFAULT_NAT_CIDR = '10.0.2.0/24';

/** 28 leaves room for the addresses up to .15 of which .15 itself would be the broadcast address: 27 is the least. */
const LONGEST_PREFIX = 27;
const SHORTEST_PREFIX = 8;

/** Throws ParameterError. */
export function parseNatNetwork(cidr: string): NatNetwork {
  const [address = '', length = '', ...rest] = cidr.split('/');
  const prefix = /^\d{1,2}$/.test(length) ? Number(length) : NaN;
  if (!isIPv4(address) || rest.length > 0 || !(prefix >= SHORTEST_PREFIX && prefix <= LONGEST_PREFIX)) {
    throw new ParameterError(
      `network ${cidr}: give an IPv4 network such as ${DEFAULT_NAT_CIDR}, /${SHORTEST_PREFIX} to /${LONGEST_PREFIX}`,
    );
  }
  const mask = (0xffff_ffff << (32 - prefix)) >>> 0;
  const base = toNumber(address);
  if ((base & mask) >>> 0 !== base) {
    throw new ParameterError(
      `network ${cidr}: the address has bits outside its mask; did you mean ${toText((base & mask) >>> 0)}/${prefix}?`,
    );
  }
  return {
    cidr,
    network: toBytes(base),
    mask: toBytes(mask),
    gateway: toBytes(base + 2),
    dns: toBytes(base + 3),
    dhcpStart: toBytes(base + 15),
  };
}

/** `[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport`. Throws ParameterError. */
export function parseHostForward(text: string, network: NatNetwork): HostForward {
  const match = /^(tcp|udp)?:([^:]*):(\d{1,5})-([^:]*):(\d{1,5})$/.exec(text);
  if (!match) {
    throw new ParameterError(`hostfwd ${text}: use [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport`);
  }
  const hostAddress = match[2] || '127.0.0.1';
  const guestAddress = match[4] || null;
  const hostPort = Number(match[3]);
  const guestPort = Number(match[5]);
  if (!isIPv4(hostAddress))
    throw new ParameterError(`hostfwd ${text}: ${hostAddress} is not an IPv4 address`);
  if (guestAddress !== null && !isInside(guestAddress, network)) {
    throw new ParameterError(`hostfwd ${text}: ${guestAddress} is not an address in ${network.cidr}`);
  }
  if (hostPort > 65535) throw new ParameterError(`hostfwd ${text}: a host port is 0 (any free one) to 65535`);
  if (guestPort < 1 || guestPort > 65535)
    throw new ParameterError(`hostfwd ${text}: a guest port is 1 to 65535`);
  return { protocol: match[1] === 'udp' ? 'udp' : 'tcp', hostAddress, hostPort, guestAddress, guestPort };
}

/** An IPv4 address in network order. */
export function ipv4Bytes(address: string): Uint8Array {
  return toBytes(toNumber(address));
}

export function ipv4Text(bytes: Uint8Array): string {
  return bytes.join('.');
}

function isInside(address: string, network: NatNetwork): boolean {
  if (!isIPv4(address)) return false;
  return ipv4Bytes(address).every((byte, i) => (byte & network.mask[i]!) === network.network[i]);
}

function toNumber(address: string): number {
  return address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
}

function toBytes(address: number): Uint8Array {
  return Uint8Array.of(address >>> 24, (address >>> 16) & 0xff, (address >>> 8) & 0xff, address & 0xff);
}

function toText(address: number): string {
  return ipv4Text(toBytes(address));
}
