/**
 * What a switch reads of a frame: its two MAC addresses (IEEE 802.3, octets 0-5 destination, 6-11 source). A MAC is
 * kept as one number below 2^48, which is a Map key without a string per frame.
 */

/** Destination, source and type: what is shorter cannot be switched. */
export const ETHERNET_HEADER_BYTES = 14;

/** The MAC address at `at` (0 = destination, 6 = source) as a number, first octet highest. */
export function macAt(frame: Uint8Array, at: 0 | 6): number {
  const high = (frame[at]! << 8) | frame[at + 1]!;
  const low =
    ((frame[at + 2]! << 24) | (frame[at + 3]! << 16) | (frame[at + 4]! << 8) | frame[at + 5]!) >>> 0;
  return high * 0x1_0000_0000 + low;
}

/** True for broadcast and multicast: the lowest bit of the first octet, which is sent first. */
export function isGroupDestination(frame: Uint8Array): boolean {
  return (frame[0]! & 1) !== 0;
}

/** A source address that a station cannot have: a group address, or all zero. */
export function isBogusSource(frame: Uint8Array): boolean {
  return (
    (frame[6]! & 1) !== 0 || (frame[6]! | frame[7]! | frame[8]! | frame[9]! | frame[10]! | frame[11]!) === 0
  );
}

/** `52:54:00:12:34:56`, for messages. */
export function formatMac(mac: number): string {
  return mac
    .toString(16)
    .padStart(12, '0')
    .replace(/..(?!$)/g, '$&:');
}
