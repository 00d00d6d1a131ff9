/** The frames of bench/compare/load.ts, each with its length in front, as it stands on the wire. */

const LENGTH_BYTES = 4;
const ETHERNET_BYTES = 14;
const IP_BYTES = 20;
const TCP_BYTES = 20;
/** Where a framed frame has its IP identification: here the frame's place in the ring. */
export const IDENTIFICATION_AT = LENGTH_BYTES + ETHERNET_BYTES + 4;
const SEQUENCE_AT = LENGTH_BYTES + ETHERNET_BYTES + IP_BYTES + 4;

/** Fills `framed` with a TCP segment of `flow`. */
export function buildFrame(framed: Buffer, index: number, flow: number): void {
  framed.writeUInt32BE(framed.length - LENGTH_BYTES, 0);
  const frame = framed.subarray(LENGTH_BYTES);
  frame.set([0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x08, 0x00]);
  const ip = frame.subarray(ETHERNET_BYTES);
  ip.set([0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 1, flow >>> 8, flow & 0xff]);
  ip.writeUInt16BE(ip.length, 2);
  ip.writeUInt16BE(index, 4);
  let sum = 0;
  for (let word = 0; word < IP_BYTES; word += 2) sum += ip.readUInt16BE(word);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  ip.writeUInt16BE(~sum & 0xffff, 10);
  const tcp = ip.subarray(IP_BYTES);
  tcp.writeUInt16BE(80, 0);
  tcp.writeUInt16BE(40_000 + flow, 2);
  tcp.writeUInt32BE(7_000, 8);
  // The TCP checksum stays empty: a card with offload leaves it so, and no comparer looks.
  tcp.set([0x50, 0x18, 0xff, 0xff], 12);
  for (let byte = TCP_BYTES; byte < tcp.length; byte++) tcp[byte] = (byte * 31 + index * 7) & 0xff;
}

/** Makes the frame at `at` of `ring` the segment number `round` of its flow. */
export function numberFrame(ring: Buffer, at: number, frameBytes: number, round: number): void {
  const payloadBytes = frameBytes - ETHERNET_BYTES - IP_BYTES - TCP_BYTES;
  ring.writeUInt32BE((1_000 + round * payloadBytes) >>> 0, at + SEQUENCE_AT);
}

/** A frame that is the same on both sides; QEMU's comparer lets the primary's pass. */
export function arp(kind: number): Buffer {
  const framed = Buffer.alloc(LENGTH_BYTES + 60, kind);
  framed.writeUInt32BE(60, 0);
  framed.writeUInt16BE(0x0806, LENGTH_BYTES + 12);
  return framed;
}
