/**
 * The part of a secondary's TCP stream that the primary has not sent yet: pieces in sequence order, without overlaps,
 * and where the stream ends. What was stored first stays (a retransmission adds only what was missing). Sequence
 * numbers are signed and compared by their difference, so a store must never span 2^31 bytes; its bound sees to that.
 *
 * A piece is found by bisection, so that a flood of small ones costs little.
 */
import { sequenceDifference } from '../packet.ts';
import { agreeingBytes, sameBytes } from './bytes.ts';
import { PACKET_OVERHEAD_BYTES } from './held-packet.ts';
import type { PacketPool } from './packet-pool.ts';
import { Ring } from './ring.ts';

export type Agreement = 'equal' | 'partial' | 'different';

const NOTHING = new Uint8Array(0);
/** Unused records of pieces that a process keeps. */
const MAX_UNUSED_PIECES = 4096;

class Piece {
  sequence = 0;
  /** The caller's until `own`, then a pool's. */
  bytes: Uint8Array = NOTHING;
  from = 0;
  to = 0;
  atMs = 0;
  isOwned = false;
}

const unusedPieces: Piece[] = [];

/** What has come, and when. A time that is handed on by itself would be an object a packet. */
export interface ByteSource {
  readonly bytes: Uint8Array;
  readonly to: number;
  readonly atMs: number;
}

export class ByteStore {
  readonly #pool: PacketPool;
  readonly #pieces = new Ring<Piece>();
  /** Those of the last `insert` that lie in the caller's bytes. */
  readonly #borrowed = new Ring<Piece>();
  #bytes = 0;
  #heldBytes = 0;
  #end: number | null = null;
  #endAtMs = 0;
  /** After `agree`: how many bytes were found equal, and the byte that was not. */
  agreedBytes = 0;
  differentByte = 0;

  constructor(pool: PacketPool) {
    this.#pool = pool;
  }

  /** Bytes of the stream. */
  get byteLength(): number {
    return this.#bytes;
  }

  /** What they cost. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  get pieces(): number {
    return this.#pieces.length;
  }

  /** Sequence number behind the last byte of the stream (where its FIN stands), or null. */
  get end(): number | null {
    return this.#end;
  }

  setEnd(sequence: number, nowMs: number): void {
    if (this.#end !== null) return;
    this.#end = sequence;
    this.#endAtMs = nowMs;
  }

  /** When the oldest thing in here arrived, or null when there is nothing. */
  get oldestMs(): number | null {
    let oldest = this.#end === null ? Infinity : this.#endAtMs;
    for (let at = 0; at < this.#pieces.length; at++) oldest = Math.min(oldest, this.#pieces.get(at).atMs);
    return oldest === Infinity ? null : oldest;
  }

  /**
   * Adds what is not there yet of the source's `bytes[from, to)`. The bytes are borrowed until `own` is called. False:
   * there were `maxPieces` before all of it had been added.
   */
  insert(sequence: number, source: ByteSource, from: number, maxPieces: number): boolean {
    const pieces = this.#pieces;
    let place = this.#placeOf(sequence);
    /** Offsets are counted from `sequence`. */
    let at = 0;
    const length = source.to - from;
    if (place > 0) {
      const before = pieces.get(place - 1);
      at = Math.max(0, sequenceDifference((before.sequence + before.to - before.from) | 0, sequence));
    }
    while (at < length) {
      const next = place < pieces.length ? pieces.get(place) : null;
      const nextAt = next === null ? length : sequenceDifference(next.sequence, sequence);
      const upTo = Math.min(nextAt, length);
      if (upTo > at) {
        if (pieces.length >= maxPieces) return false;
        this.#add(place, (sequence + at) | 0, source, from + at, from + upTo);
        place++;
      }
      if (next === null) return true;
      at = Math.max(at, nextAt + next.to - next.from);
      place++;
    }
    return true;
  }

  /** Copies what is still borrowed. Must be called before the caller's buffer changes. */
  own(): void {
    for (let piece = this.#borrowed.shift(); piece !== null; piece = this.#borrowed.shift()) {
      // Used up in the meantime.
      if (piece.from === piece.to) {
        recycle(piece);
        continue;
      }
      const bytes = this.#pool.copy(piece.bytes, piece.from, piece.to);
      piece.to -= piece.from;
      piece.from = 0;
      piece.bytes = bytes;
      piece.isOwned = true;
      this.#heldBytes += bytes.length + PACKET_OVERHEAD_BYTES;
    }
  }

  /**
   * Compares `source[from, to)`, whose first byte stands at `sequence`, with what is here. `partial`: equal as far as
   * it goes. `agreedBytes` says how far that is.
   */
  agree(sequence: number, source: Uint8Array, from: number, to: number): Agreement {
    this.agreedBytes = 0;
    const pieces = this.#pieces;
    let at = from;
    for (let place = Math.max(0, this.#placeOf(sequence) - 1); place < pieces.length && at < to; place++) {
      const piece = pieces.get(place);
      const skip = sequenceDifference((sequence + (at - from)) | 0, piece.sequence);
      if (skip >= piece.to - piece.from) continue;
      if (skip < 0) break;
      const count = Math.min(piece.to - piece.from - skip, to - at);
      if (!sameBytes(piece.bytes, piece.from + skip, source, at, count)) {
        const agreed = agreeingBytes(piece.bytes, piece.from + skip, source, at, count);
        this.agreedBytes += agreed;
        this.differentByte = piece.bytes[piece.from + skip + agreed]!;
        return 'different';
      }
      at += count;
      this.agreedBytes += count;
    }
    return at === to ? 'equal' : 'partial';
  }

  /** True when a byte at or behind `sequence` is here. */
  hasFrom(sequence: number): boolean {
    const last = this.#pieces.last();
    return last !== null && sequenceDifference((last.sequence + last.to - last.from) | 0, sequence) > 0;
  }

  /** Forgets what lies before `sequence`; with it the end, when that has been passed. */
  dropBefore(sequence: number): void {
    for (let piece = this.#pieces.first(); piece !== null; piece = this.#pieces.first()) {
      const excess = sequenceDifference(sequence, piece.sequence);
      if (excess <= 0) break;
      if (excess < piece.to - piece.from) {
        piece.from += excess;
        piece.sequence = sequence;
        this.#bytes -= excess;
        break;
      }
      this.#pieces.shift();
      this.#forget(piece);
    }
    if (this.#end !== null && sequenceDifference(sequence, this.#end) > 0) this.#end = null;
  }

  clear(): void {
    for (let piece = this.#pieces.shift(); piece !== null; piece = this.#pieces.shift()) this.#forget(piece);
    this.#end = null;
  }

  /** The first place whose piece begins behind `sequence`. */
  #placeOf(sequence: number): number {
    const pieces = this.#pieces;
    let low = 0;
    let high = pieces.length;
    while (low < high) {
      // In order it is the last one.
      const middle = high - low > 8 && high === pieces.length ? high - 1 : (low + high) >>> 1;
      if (sequenceDifference(pieces.get(middle).sequence, sequence) > 0) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  #add(place: number, sequence: number, source: ByteSource, from: number, to: number): void {
    const piece = unusedPieces.pop() ?? new Piece();
    piece.sequence = sequence;
    piece.bytes = source.bytes;
    piece.from = from;
    piece.to = to;
    piece.atMs = source.atMs;
    piece.isOwned = false;
    if (place === this.#pieces.length) this.#pieces.push(piece);
    else this.#pieces.insert(place, piece);
    this.#borrowed.push(piece);
    this.#bytes += to - from;
  }

  #forget(piece: Piece): void {
    this.#bytes -= piece.to - piece.from;
    piece.from = piece.to;
    // `own` still has the others on its list.
    if (!piece.isOwned) return;
    this.#heldBytes -= piece.bytes.length + PACKET_OVERHEAD_BYTES;
    this.#pool.dropBytes(piece.bytes);
    recycle(piece);
  }
}

function recycle(piece: Piece): void {
  piece.bytes = NOTHING;
  if (unusedPieces.length < MAX_UNUSED_PIECES) unusedPieces.push(piece);
}
