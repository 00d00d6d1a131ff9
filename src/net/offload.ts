/**
 * Makes frames whole that a guest with offloads has left to its NIC: fills in the checksum, and cuts a large TCP segment
 * into ones that fit a network. A frame has a virtio-net header in front; what comes out has none.
 *
 * The guest's word is taken for no length and no place: a header that does not fit its frame makes it `malformed`. What
 * it asks for beyond TCP (UDP in one piece, tunnels) was not offered and is the same. Facts: virtio 1.2, 5.1.6.2 "Packet
 * Transmission"; RFC 9293 for the flags; Linux Documentation/networking/segmentation-offloads.rst.
 */
import { ipv4HeaderChecksum, onesSum, tcpChecksum, writeTcpChecksum } from './checksum.ts';
import { MAX_FRAME_BYTES } from './framing.ts';
import { PROTOCOL, PacketView, putU16, putU32, u16 } from './packet.ts';

/** struct virtio_net_hdr_v1: u8 flags, u8 gso_type, u16 hdr_len, gso_size, csum_start, csum_offset, num_buffers. */
export const VNET_HEADER_BYTES = 12;
export const GSO_TYPE_AT = 1;
const GSO_SIZE_AT = 4;
const CSUM_START_AT = 6;
const CSUM_OFFSET_AT = 8;
export const VNET_NEEDS_CSUM = 1;
/** Towards a guest: somebody has looked at the checksum. */
export const VNET_DATA_VALID = 2;
export const GSO_NONE = 0;
export const GSO_TCPV4 = 1;
export const GSO_TCPV6 = 4;
export const GSO_ECN = 0x80;
/** What TCP counts on everywhere (RFC 9293, 3.7.1); a guest that asks for less wants to make work. */
const MIN_SEGMENT_BYTES = 40;
const TCP_FLAGS_AT = 13;
const FIN = 0x01;
const PSH = 0x08;
const CWR = 0x80;

export type OnWhole = (frame: Uint8Array) => void;

/** Where segments are made; what is handed out lasts as long as the call. */
const segmentBuffer = new Uint8Array(MAX_FRAME_BYTES);
const view = new PacketView();
const segmentView = new PacketView();

/**
 * Gives the frame behind the header to `onWhole`, in as many pieces as it takes; they are valid during the call only, and
 * `packet` may be changed. False: it makes no sense.
 */
export function makeWhole(packet: Uint8Array, onWhole: OnWhole): boolean {
  if (packet.length <= VNET_HEADER_BYTES) return false;
  const frame = packet.subarray(VNET_HEADER_BYTES);
  const gsoType = packet[GSO_TYPE_AT]! & ~GSO_ECN;
  if (gsoType === GSO_NONE) {
    if ((packet[0]! & VNET_NEEDS_CSUM) !== 0 && !fillChecksum(packet, frame)) return false;
    onWhole(frame);
    return true;
  }
  if (gsoType !== GSO_TCPV4 && gsoType !== GSO_TCPV6) return false;
  return cut(frame, gsoType === GSO_TCPV4, little16(packet, GSO_SIZE_AT), onWhole);
}

/** The sum of the addresses and the rest of the pseudo header stands in the field already. */
function fillChecksum(packet: Uint8Array, frame: Uint8Array): boolean {
  const start = little16(packet, CSUM_START_AT);
  const at = start + little16(packet, CSUM_OFFSET_AT);
  if (at + 2 > frame.length || start > at) return false;
  const checksum = ~onesSum(frame, start, frame.length) & 0xffff;
  // UDP's zero means none (RFC 768), and the other form of it is as good for all.
  putU16(frame, at, checksum === 0 ? 0xffff : checksum);
  packet[0]! &= ~VNET_NEEDS_CSUM;
  return true;
}

function cut(frame: Uint8Array, isIpv4: boolean, segmentBytes: number, onWhole: OnWhole): boolean {
  view.parse(frame);
  if (!view.isTcp || (view.network === 'ipv4') !== isIpv4 || segmentBytes < MIN_SEGMENT_BYTES) return false;
  const { payloadAt, payloadBytes } = view;
  const sequence = view.sequence;
  const flagsAt = view.transportAt + TCP_FLAGS_AT;
  const flags = frame[flagsAt]!;
  const ipAt = view.ipAt;
  const identification = isIpv4 ? u16(frame, ipAt + 4) : 0;
  const segment = segmentBuffer;
  segment.set(frame.subarray(0, payloadAt));
  let done = 0;
  for (let number = 0; number === 0 || done < payloadBytes; number++) {
    const take = Math.min(segmentBytes, payloadBytes - done);
    const isLast = done + take === payloadBytes;
    const end = payloadAt + take;
    segment.set(frame.subarray(payloadAt + done, payloadAt + done + take), payloadAt);
    if (isIpv4) {
      putU16(segment, ipAt + 2, end - ipAt);
      putU16(segment, ipAt + 4, (identification + number) & 0xffff);
      putU16(segment, ipAt + 10, ipv4HeaderChecksum(segment, ipAt, view.ipHeaderBytes));
    } else putU16(segment, ipAt + 4, end - view.ipPayloadAt);
    putU32(segment, view.transportAt + 4, (sequence + done) >>> 0);
    segment[flagsAt] = flags & ~((isLast ? 0 : FIN | PSH) | (number === 0 ? 0 : CWR));
    const whole = segment.subarray(0, end);
    segmentView.parse(whole);
    if (!segmentView.isTcp || segmentView.protocol !== PROTOCOL.TCP) return false;
    writeTcpChecksum(whole, segmentView, tcpChecksum(whole, segmentView));
    onWhole(whole);
    done += take;
  }
  return true;
}

function little16(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8);
}

/** `frame` behind a header that asks for nothing, in `into`, of which the part written is returned. */
export function withEmptyHeader(frame: Uint8Array, into: Uint8Array): Uint8Array {
  into.fill(0, 0, VNET_HEADER_BYTES);
  into.set(frame, VNET_HEADER_BYTES);
  return into.subarray(0, VNET_HEADER_BYTES + frame.length);
}
