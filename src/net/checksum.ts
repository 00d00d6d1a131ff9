/**
 * The Internet checksum (RFC 1071) over TCP segments and IPv4 headers, whole and incremental (RFC 1624, equation 3).
 * Works on frames parsed by a PacketView; the caller has checked that the headers are there.
 */
import type { PacketView } from './packet.ts';
import { PROTOCOL, putU16, u16 } from './packet.ts';

const TCP_CHECKSUM_AT = 16;

/** Adds up 16-bit words of `bytes[from, to)`; an odd last byte counts as the high one. Folded to 16 bits. */
export function onesSum(bytes: Uint8Array, from: number, to: number, initial = 0): number {
  let sum = initial;
  let at = from;
  for (; at + 1 < to; at += 2) sum += (bytes[at]! << 8) | bytes[at + 1]!;
  if (at < to) sum += bytes[at]! << 8;
  return fold(sum);
}

function fold(sum: number): number {
  let folded = sum;
  while (folded > 0xffff) folded = (folded & 0xffff) + Math.floor(folded / 0x10000);
  return folded;
}

/** The header checksum of the IPv4 header at `at`, its own field taken as zero. */
export function ipv4HeaderChecksum(frame: Uint8Array, at: number, headerBytes: number): number {
  const before = onesSum(frame, at, at + 10);
  return ~onesSum(frame, at + 12, at + headerBytes, before) & 0xffff;
}

/** The TCP checksum over IPv4 or IPv6 that `frame` should carry. `view.isTcp` must hold. */
export function tcpChecksum(frame: Uint8Array, view: PacketView): number {
  const at = view.transportAt;
  const segmentBytes = view.ipEnd - at;
  const addresses =
    view.network === 'ipv4'
      ? onesSum(frame, view.ipAt + 12, view.ipAt + 20)
      : onesSum(frame, view.ipAt + 8, view.ipAt + 40);
  const pseudo = addresses + PROTOCOL.TCP + (segmentBytes >>> 16) + (segmentBytes & 0xffff);
  const before = onesSum(frame, at, at + TCP_CHECKSUM_AT, pseudo);
  return ~onesSum(frame, at + TCP_CHECKSUM_AT + 2, view.ipEnd, before) & 0xffff;
}

/** The TCP checksum field of a frame with `view.isTcp`. */
export function readTcpChecksum(frame: Uint8Array, view: PacketView): number {
  return u16(frame, view.transportAt + TCP_CHECKSUM_AT);
}

export function writeTcpChecksum(frame: Uint8Array, view: PacketView, checksum: number): void {
  putU16(frame, view.transportAt + TCP_CHECKSUM_AT, checksum);
}

/**
 * A checksum after a 32-bit field changed from `before` to `after`. `isOddOffset`: the field begins on the low half of
 * a 16-bit word (a TCP option may), where its bytes count the other way round.
 */
export function updateChecksum(checksum: number, before: number, after: number, isOddOffset = false): number {
  let out = ~before >>> 0;
  let into = after >>> 0;
  out = fold((out >>> 16) + (out & 0xffff));
  into = fold((into >>> 16) + (into & 0xffff));
  let delta = fold(out + into);
  if (isOddOffset) delta = ((delta & 0xff) << 8) | (delta >>> 8);
  return ~fold((~checksum & 0xffff) + delta) & 0xffff;
}
