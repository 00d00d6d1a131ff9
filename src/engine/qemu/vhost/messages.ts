/**
 * Messages of the vhost-user protocol as a back-end for a NIC reads and answers them: u32 request, u32 flags, u32 length of
 * the payload, the payload; in the byte order of the machine, which is little-endian on those that this runs on.
 *
 * Pure: bytes to values and back. What is said is judged as far as a message alone shows it; what it means is the
 * session's. Facts: QEMU docs/interop/vhost-user.rst, "Message Specification" and "Front-end message types".
 */
import { ProtocolError } from '../../../base/errors.ts';

export const HEADER_BYTES = 12;
const VERSION = 1;
const VERSION_BITS = 3;
const FLAG_REPLY = 4;
const FLAG_NEED_REPLY = 8;
/** Regions of memory in a table: VHOST_MEMORY_BASELINE_NREGIONS. */
export const MAX_REGIONS = 8;
const REGION_BYTES = 32;
const TABLE_HEADER_BYTES = 8;
/** The longest payload that any request here has. */
export const MAX_PAYLOAD_BYTES = TABLE_HEADER_BYTES + MAX_REGIONS * REGION_BYTES;
/** In the u64 that comes with a descriptor of a ring. */
const RING_INDEX_BITS = 0xffn;
const NO_FD_BIT = 0x100n;

/** How the payload of a request is laid out, and how many descriptors may come with it. */
const REQUESTS = {
  1: ['GET_FEATURES', 'none', 0],
  2: ['SET_FEATURES', 'u64', 0],
  3: ['SET_OWNER', 'none', 0],
  4: ['RESET_OWNER', 'none', 0],
  5: ['SET_MEM_TABLE', 'table', MAX_REGIONS],
  6: ['SET_LOG_BASE', 'log', 1],
  7: ['SET_LOG_FD', 'none', 1],
  8: ['SET_VRING_NUM', 'state', 0],
  9: ['SET_VRING_ADDR', 'addresses', 0],
  10: ['SET_VRING_BASE', 'state', 0],
  11: ['GET_VRING_BASE', 'state', 0],
  12: ['SET_VRING_KICK', 'ringFd', 1],
  13: ['SET_VRING_CALL', 'ringFd', 1],
  14: ['SET_VRING_ERR', 'ringFd', 1],
  15: ['GET_PROTOCOL_FEATURES', 'none', 0],
  16: ['SET_PROTOCOL_FEATURES', 'u64', 0],
  17: ['GET_QUEUE_NUM', 'none', 0],
  18: ['SET_VRING_ENABLE', 'state', 0],
  19: ['SEND_RARP', 'u64', 0],
} as const;

type RequestTable = typeof REQUESTS;
export type RequestName = RequestTable[keyof RequestTable][0];
type Layout = RequestTable[keyof RequestTable][1];

export interface Header {
  readonly request: number;
  readonly needsReply: boolean;
  readonly payloadBytes: number;
}

/** A part of the guest's memory: where the guest has it, where QEMU has it, where it lies in the file. */
export interface Region {
  readonly guestAddress: number;
  readonly byteLength: number;
  readonly userAddress: number;
  readonly fileOffset: number;
}

export type Message =
  | {
      readonly name:
        | 'GET_FEATURES'
        | 'SET_OWNER'
        | 'RESET_OWNER'
        | 'SET_LOG_FD'
        | 'GET_PROTOCOL_FEATURES'
        | 'GET_QUEUE_NUM';
    }
  | { readonly name: 'SET_FEATURES' | 'SET_PROTOCOL_FEATURES' | 'SEND_RARP'; readonly value: bigint }
  | { readonly name: 'SET_MEM_TABLE'; readonly regions: readonly Region[] }
  | { readonly name: 'SET_LOG_BASE' }
  | {
      readonly name: 'SET_VRING_NUM' | 'SET_VRING_BASE' | 'GET_VRING_BASE' | 'SET_VRING_ENABLE';
      readonly ring: number;
      readonly value: number;
    }
  | {
      readonly name: 'SET_VRING_ADDR';
      readonly ring: number;
      /** As QEMU has them. */
      readonly descriptors: number;
      readonly used: number;
      readonly available: number;
    }
  | {
      readonly name: 'SET_VRING_KICK' | 'SET_VRING_CALL' | 'SET_VRING_ERR';
      readonly ring: number;
      /** No descriptor comes: the ring is to be polled. */
      readonly isPolled: boolean;
    };

function rowOf(request: number): RequestTable[keyof RequestTable] | null {
  return Object.hasOwn(REQUESTS, request) ? REQUESTS[request as keyof RequestTable] : null;
}

/** Throws ProtocolError: another version, a request that nobody offered, a payload of another length. */
export function parseHeader(bytes: Buffer): Header {
  const request = bytes.readUInt32LE(0);
  const flags = bytes.readUInt32LE(4);
  const payloadBytes = bytes.readUInt32LE(8);
  if ((flags & VERSION_BITS) !== VERSION) throw malformed(`version ${flags & VERSION_BITS} of the protocol`);
  if ((flags & FLAG_REPLY) !== 0) throw malformed('an answer to nothing');
  const row = rowOf(request);
  if (!row) throw malformed(`request ${request}, which was not offered`);
  if (payloadBytes > MAX_PAYLOAD_BYTES) throw malformed(`${row[0]} with ${payloadBytes} bytes`);
  return { request, needsReply: (flags & FLAG_NEED_REPLY) !== 0, payloadBytes };
}

/** The whole message. `payload` has the header's length; `fds`: how many descriptors came. Throws ProtocolError. */
export function parseMessage({ request }: Header, payload: Buffer, fds: number): Message {
  const row = rowOf(request);
  if (!row) throw malformed(`request ${request}, which was not offered`);
  const [name, layout, maxFds] = row;
  if (fds > maxFds) throw malformed(`${name} with ${fds} descriptors`);
  if (payload.length !== lengthOf(layout, payload)) throw malformed(`${name} with ${payload.length} bytes`);
  return build(name, payload, fds);
}

function lengthOf(layout: Layout, payload: Buffer): number {
  switch (layout) {
    // What QEMU sends along with a request that has no payload is looked at by nobody.
    case 'none':
      return payload.length;
    case 'u64':
    case 'ringFd':
    case 'state':
      return 8;
    case 'log':
      return 16;
    case 'addresses':
      return 40;
    case 'table':
      return payload.length < TABLE_HEADER_BYTES
        ? TABLE_HEADER_BYTES
        : TABLE_HEADER_BYTES + payload.readUInt32LE(0) * REGION_BYTES;
  }
}

function build(name: RequestName, payload: Buffer, fds: number): Message {
  switch (name) {
    case 'SET_FEATURES':
    case 'SET_PROTOCOL_FEATURES':
    case 'SEND_RARP':
      return { name, value: payload.readBigUInt64LE(0) };
    case 'SET_MEM_TABLE':
      return { name, regions: regionsOf(payload, fds) };
    case 'SET_VRING_NUM':
    case 'SET_VRING_BASE':
    case 'GET_VRING_BASE':
    case 'SET_VRING_ENABLE':
      return { name, ring: payload.readUInt32LE(0), value: payload.readUInt32LE(4) };
    case 'SET_VRING_ADDR':
      return {
        name,
        ring: payload.readUInt32LE(0),
        descriptors: addressAt(payload, 8),
        used: addressAt(payload, 16),
        available: addressAt(payload, 24),
      };
    case 'SET_VRING_KICK':
    case 'SET_VRING_CALL':
    case 'SET_VRING_ERR': {
      const value = payload.readBigUInt64LE(0);
      const isPolled = (value & NO_FD_BIT) !== 0n;
      if (fds !== (isPolled ? 0 : 1)) throw malformed(`${name} with ${fds} descriptors`);
      return { name, ring: Number(value & RING_INDEX_BITS), isPolled };
    }
    default:
      return { name };
  }
}

function regionsOf(payload: Buffer, fds: number): Region[] {
  const count = payload.readUInt32LE(0);
  if (count > MAX_REGIONS || fds !== count)
    throw malformed(`a table of ${count} regions with ${fds} descriptors`);
  return Array.from({ length: count }, (_, index) => {
    const at = TABLE_HEADER_BYTES + index * REGION_BYTES;
    return {
      guestAddress: addressAt(payload, at),
      byteLength: addressAt(payload, at + 8),
      userAddress: addressAt(payload, at + 16),
      fileOffset: addressAt(payload, at + 24),
    };
  });
}

/** No machine has addresses that a number does not hold. */
function addressAt(payload: Buffer, at: number): number {
  const value = Number(payload.readBigUInt64LE(at));
  if (!Number.isSafeInteger(value)) throw malformed('an address beyond all memory');
  return value;
}

export function encodeU64Reply(request: number, value: bigint): Buffer {
  const bytes = replyHeader(request, 8);
  bytes.writeBigUInt64LE(value, HEADER_BYTES);
  return bytes;
}

export function encodeStateReply(request: number, ring: number, value: number): Buffer {
  const bytes = replyHeader(request, 8);
  bytes.writeUInt32LE(ring, HEADER_BYTES);
  bytes.writeUInt32LE(value, HEADER_BYTES + 4);
  return bytes;
}

function replyHeader(request: number, payloadBytes: number): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES + payloadBytes);
  bytes.writeUInt32LE(request, 0);
  bytes.writeUInt32LE(VERSION | FLAG_REPLY, 4);
  bytes.writeUInt32LE(payloadBytes, 8);
  return bytes;
}

function malformed(what: string): ProtocolError {
  return new ProtocolError(`vhost-user: QEMU sent ${what}`);
}
