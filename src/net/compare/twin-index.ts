/**
 * Finds a packet by what it says, among all that wait in a comparer: for each list the oldest that is equal. Packets
 * are put in only when somebody has to look for one that is not first (datagram.ts). The table grows with its content,
 * which the bounds of the queues bound.
 */
import { randomInt } from 'node:crypto';
import { TRANSACTION_BYTES } from '../dhcp.ts';
import { sameBytes } from './bytes.ts';
import type { HeldPacket } from './held-packet.ts';

const FIRST_BUCKETS = 64;
const CHECKSUM_BYTES = 2;
const IDENTIFICATION_BYTES = 4;

/** Whether two packets say the same in all that is compared. */
export function isTwin(a: HeldPacket, b: HeldPacket): boolean {
  if (a.payloadBytes !== b.payloadBytes || a.fragment !== b.fragment) return false;
  const skew = b.from - a.from;
  if (a.identificationAt < 0 && a.checksumAt < 0) {
    if (b.identificationAt >= 0 || b.checksumAt >= 0) return false;
    return sameBytes(a.bytes, a.from, b.bytes, b.from, a.payloadBytes);
  }
  // The same fields at the same places; else it is not the same kind of packet.
  if (offsetOf(a.identificationAt, a) !== offsetOf(b.identificationAt, b)) return false;
  if (offsetOf(a.checksumAt, a) !== offsetOf(b.checksumAt, b)) return false;
  if (offsetOf(a.transactionAt, a) !== offsetOf(b.transactionAt, b)) return false;
  let at = a.from;
  if (a.identificationAt >= 0) {
    if (!sameBytes(a.bytes, at, b.bytes, at + skew, a.identificationAt - at)) return false;
    at = a.identificationAt + IDENTIFICATION_BYTES;
  }
  if (a.checksumAt >= 0) {
    if (!sameBytes(a.bytes, at, b.bytes, at + skew, a.checksumAt - at)) return false;
    at = a.checksumAt + CHECKSUM_BYTES;
  }
  if (a.transactionAt >= 0) {
    if (!sameBytes(a.bytes, at, b.bytes, at + skew, a.transactionAt - at)) return false;
    at = a.transactionAt + TRANSACTION_BYTES;
  }
  return sameBytes(a.bytes, at, b.bytes, at + skew, a.to - at);
}

/** The first byte of `a`, as an offset in its `bytes`, that is not in `b`, or -1 when one is the beginning of the other. */
export function differenceBetween(a: HeldPacket, b: HeldPacket): number {
  const count = Math.min(a.payloadBytes, b.payloadBytes);
  for (let at = a.from; at < a.from + count; at++) {
    if (at === a.identificationAt) at += IDENTIFICATION_BYTES;
    if (at === a.checksumAt) at += CHECKSUM_BYTES;
    if (at === a.transactionAt) at += TRANSACTION_BYTES;
    if (at < a.from + count && a.bytes[at] !== b.bytes[b.from + at - a.from]) return at;
  }
  return -1;
}

function offsetOf(at: number, packet: HeldPacket): number {
  return at < 0 ? -1 : at - packet.from;
}

export class TwinIndex {
  readonly #seed = randomInt(2 ** 32) | 0;
  #first = new Array<HeldPacket | null>(FIRST_BUCKETS).fill(null);
  #last = new Array<HeldPacket | null>(FIRST_BUCKETS).fill(null);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** Adds a packet under the list that `owner` names. Those of one list must be added in their order. */
  add(packet: HeldPacket, owner: number): void {
    if (this.#size === this.#first.length) this.#grow();
    packet.owner = owner;
    packet.hash = this.#hash(packet, owner);
    packet.isIndexed = true;
    this.#link(packet);
    this.#size++;
  }

  remove(packet: HeldPacket): void {
    if (!packet.isIndexed) return;
    const bucket = packet.hash & (this.#first.length - 1);
    const { chainBefore, chainBehind } = packet;
    if (chainBefore === null) this.#first[bucket] = chainBehind;
    else chainBefore.chainBehind = chainBehind;
    if (chainBehind === null) this.#last[bucket] = chainBefore;
    else chainBehind.chainBefore = chainBefore;
    packet.chainBefore = null;
    packet.chainBehind = null;
    packet.isIndexed = false;
    this.#size--;
  }

  /** The oldest of the list that `owner` names which says the same as `packet`, or null. */
  find(packet: HeldPacket, owner: number): HeldPacket | null {
    const hash = this.#hash(packet, owner);
    let at = this.#first[hash & (this.#first.length - 1)] ?? null;
    while (at !== null) {
      if (at.hash === hash && at.owner === owner && isTwin(at, packet)) return at;
      at = at.chainBehind;
    }
    return null;
  }

  #link(packet: HeldPacket): void {
    const bucket = packet.hash & (this.#first.length - 1);
    const before = this.#last[bucket] ?? null;
    packet.chainBefore = before;
    packet.chainBehind = null;
    if (before === null) this.#first[bucket] = packet;
    else before.chainBehind = packet;
    this.#last[bucket] = packet;
  }

  #grow(): void {
    const old = this.#first;
    this.#first = new Array<HeldPacket | null>(old.length * 2).fill(null);
    this.#last = new Array<HeldPacket | null>(old.length * 2).fill(null);
    for (const chain of old) {
      for (let at = chain; at !== null;) {
        const behind: HeldPacket | null = at.chainBehind;
        this.#link(at);
        at = behind;
      }
    }
  }

  /** Of all that is compared. */
  #hash(packet: HeldPacket, owner: number): number {
    let hash = mix(this.#seed ^ owner, packet.payloadBytes);
    hash = mix(hash, packet.fragment);
    let at = packet.from;
    if (packet.identificationAt >= 0) {
      hash = hashRange(hash, packet.bytes, at, packet.identificationAt);
      at = packet.identificationAt + IDENTIFICATION_BYTES;
    }
    if (packet.checksumAt >= 0) {
      hash = hashRange(hash, packet.bytes, at, packet.checksumAt);
      at = packet.checksumAt + CHECKSUM_BYTES;
    }
    if (packet.transactionAt >= 0) {
      hash = hashRange(hash, packet.bytes, at, packet.transactionAt);
      at = packet.transactionAt + TRANSACTION_BYTES;
    }
    hash = hashRange(hash, packet.bytes, at, packet.to);
    return hash ^ (hash >>> 16);
  }
}

function hashRange(hash: number, bytes: Uint8Array, from: number, to: number): number {
  let at = from;
  let mixed = hash;
  for (; at + 4 <= to; at += 4) {
    mixed = mix(mixed, bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24));
  }
  for (; at < to; at++) mixed = mix(mixed, bytes[at]!);
  return mixed;
}

function mix(hash: number, word: number): number {
  const product = Math.imul(hash ^ word, 0x85ebca6b);
  return Math.imul(product ^ (product >>> 15), 0x27d4eb2f);
}
