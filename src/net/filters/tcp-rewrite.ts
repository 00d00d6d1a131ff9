/**
 * Moves the numbers in the TCP header of one frame, and brings the checksum along (RFC 1624). The frame has been parsed
 * and `view.isTcp` holds; nothing else of it is touched, so a segment of any size and a partial checksum stay what they
 * are. Facts: docs/qemu-behaviour.md 4; RFC 793 3.1, RFC 2018 3 (SACK), RFC 7323 3.2 (timestamps).
 */
import { readTcpChecksum, updateChecksum, writeTcpChecksum } from '../checksum.ts';
import type { PacketView } from '../packet.ts';
import { TCP_FLAG, putU32, u32 } from '../packet.ts';
import { NO_STAMP } from './tcp-mapping.ts';

const TCP_HEADER_BYTES = 20;
const OPTION = { END: 0, NOP: 1, SACK: 5, TIMESTAMPS: 8 } as const;
const TIMESTAMPS_BYTES = 10;
/** NOP, NOP, timestamps: how hosts begin their options. */
const USUAL_OPTIONS = 0x0101_080a;
/** virtio_net_hdr.flags: the checksum field holds the pseudo header's sum only, which no rewriting changes. */
export const VNET_NEEDS_CSUM = 1;

/** Where the timestamp value stands, or NO_STAMP. The echo is four bytes behind it. */
export function timestampAt(frame: Uint8Array, view: PacketView): number {
  const options = view.transportAt + TCP_HEADER_BYTES;
  if (view.payloadAt >= options + 12 && u32(frame, options) === USUAL_OPTIONS) return options + 4;
  const at = optionAt(frame, view, OPTION.TIMESTAMPS, options);
  return at >= 0 && frame[at + 1] === TIMESTAMPS_BYTES ? at + 2 : NO_STAMP;
}

/** Client → guest: the acknowledgment and the SACK blocks name bytes that the guest has sent, the echo its timestamps. */
export function moveAcknowledgment(
  frame: Uint8Array,
  view: PacketView,
  offset: number,
  echoAt: number,
  clock: number,
): void {
  if (offset !== 0) {
    replaceField(frame, view, view.transportAt + 8, view.acknowledgment + offset);
    let at = optionAt(frame, view, OPTION.SACK, view.transportAt + TCP_HEADER_BYTES);
    while (at >= 0) {
      const end = at + frame[at + 1]!;
      for (let edge = at + 2; edge + 4 <= end; edge += 4) {
        replaceField(frame, view, edge, u32(frame, edge) + offset);
      }
      at = optionAt(frame, view, OPTION.SACK, end);
    }
  }
  if (echoAt !== NO_STAMP && clock !== 0) replaceField(frame, view, echoAt, u32(frame, echoAt) + clock);
}

/** Guest → client: the sequence number and the timestamp. */
export function moveSequence(
  frame: Uint8Array,
  view: PacketView,
  offset: number,
  stampAt: number,
  clock: number,
): void {
  if (offset !== 0) replaceField(frame, view, view.transportAt + 4, view.sequence - offset);
  if (stampAt !== NO_STAMP && clock !== 0) replaceField(frame, view, stampAt, u32(frame, stampAt) - clock);
}

/**
 * A RST with an ACK and sequence number 0 answers a segment that had no ACK (RFC 793 3.4): the zero is not one of the
 * guest's numbers.
 */
export function isUnnumberedReset(view: PacketView): boolean {
  const both = TCP_FLAG.RST | TCP_FLAG.ACK;
  return view.sequence === 0 && (view.tcpFlags & both) === both;
}

/** The first whole option of that kind at or behind `from`, or -1. */
function optionAt(frame: Uint8Array, view: PacketView, wanted: number, from: number): number {
  const end = view.payloadAt;
  let at = from;
  while (at < end) {
    const kind = frame[at]!;
    if (kind === OPTION.END) return -1;
    if (kind === OPTION.NOP) {
      at++;
      continue;
    }
    const length = at + 1 < end ? frame[at + 1]! : 0;
    if (length < 2 || at + length > end) return -1;
    if (kind === wanted) return at;
    at += length;
  }
  return -1;
}

function replaceField(frame: Uint8Array, view: PacketView, at: number, value: number): void {
  const before = u32(frame, at);
  putU32(frame, at, value);
  if (view.start > 0 && frame[0]! & VNET_NEEDS_CSUM) return;
  const isOdd = ((at - view.transportAt) & 1) === 1;
  writeTcpChecksum(frame, view, updateChecksum(readTcpChecksum(frame, view), before, value >>> 0, isOdd));
}
