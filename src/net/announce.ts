/**
 * The frame with which a machine that moved makes switches learn its new place: a RARP "request reverse" from and about
 * its own MAC, as broadcast. Facts: QEMU net/announce.c; RFC 903. How often it is sent: announcer.ts.
 */
import { ParameterError } from '../base/errors.ts';
import { ETHERTYPE, putU16 } from './packet.ts';

/** Shortest Ethernet frame without FCS. */
const FRAME_BYTES = 60;
const HTYPE_ETHERNET = 1;
const OP_REQUEST_REVERSE = 3;

/** `mac`: six bytes. */
export function announceFrame(mac: Uint8Array): Uint8Array {
  if (mac.length !== 6) throw new ParameterError(`a MAC address has 6 bytes, not ${mac.length}`);
  const frame = new Uint8Array(FRAME_BYTES);
  frame.fill(0xff, 0, 6);
  frame.set(mac, 6);
  putU16(frame, 12, ETHERTYPE.RARP);
  putU16(frame, 14, HTYPE_ETHERNET);
  putU16(frame, 16, ETHERTYPE.IPV4);
  frame[18] = 6;
  frame[19] = 4;
  putU16(frame, 20, OP_REQUEST_REVERSE);
  frame.set(mac, 22);
  frame.set(mac, 32);
  return frame;
}
