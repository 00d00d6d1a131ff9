/**
 * The part of a secondary's TCP stream that the primary has not sent yet: pieces in sequence order, without overlaps,
 * and where the stream ends. What was stored first stays (a retransmission adds only what was missing). Sequence
 * numbers are compared by signed difference, so a store must never span 2^31 bytes; its bound sees to that.
 */
import { sequenceDifference } from '../packet.ts';

export type Agreement = 'equal' | 'partial' | 'different';

interface Piece {
  sequence: number;
  bytes: Uint8Array;
  atMs: number;
  isOwned: boolean;
}

/** Below this a loop is quicker than two views and a native call. */
const SHORT_BYTES = 48;

export class ByteStore {
  #pieces: Piece[] = [];
  #borrowed: Piece[] = [];
  #bytes = 0;
  #end: number | null = null;
  #endAtMs = 0;
  /** After `agree`: how many bytes were found equal. */
  agreedBytes = 0;

  get byteLength(): number {
    return this.#bytes;
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
    for (const piece of this.#pieces) if (piece.atMs < oldest) oldest = piece.atMs;
    return oldest === Infinity ? null : oldest;
  }

  /** Adds what is not there yet. The bytes are borrowed until `own` is called. */
  insert(sequence: number, bytes: Uint8Array, nowMs: number): void {
    const pieces = this.#pieces;
    let at = pieces.length;
    while (at > 0 && sequenceDifference(pieces[at - 1]!.sequence, sequence) > 0) at--;
    let from = 0;
    const previous = pieces[at - 1];
    if (previous) {
      const overlap = previous.bytes.length - sequenceDifference(sequence, previous.sequence);
      if (overlap > 0) from = overlap;
    }
    while (from < bytes.length) {
      const next = pieces[at];
      const room = next ? sequenceDifference(next.sequence, sequence) - from : bytes.length - from;
      const take = Math.min(room, bytes.length - from);
      if (take > 0) {
        const part = take === bytes.length ? bytes : bytes.subarray(from, from + take);
        const piece = { sequence: (sequence + from) >>> 0, bytes: part, atMs: nowMs, isOwned: false };
        if (at === pieces.length) pieces.push(piece);
        else pieces.splice(at, 0, piece);
        this.#borrowed.push(piece);
        this.#bytes += take;
        from += take;
        at++;
      }
      if (next) {
        from = Math.max(from, sequenceDifference(next.sequence, sequence) + next.bytes.length);
        at++;
      }
    }
  }

  /** Copies what is still borrowed. Must be called before the caller's buffer changes. */
  own(): void {
    if (this.#borrowed.length === 0) return;
    for (const piece of this.#borrowed) {
      if (piece.isOwned || piece.bytes.length === 0) continue;
      piece.bytes = Buffer.from(piece.bytes);
      piece.isOwned = true;
    }
    this.#borrowed.length = 0;
  }

  /**
   * Compares `source[from, to)`, whose first byte stands at `sequence`, with what is here. `partial`: equal as far as
   * it goes. `agreedBytes` says how far that is.
   */
  agree(sequence: number, source: Uint8Array, from: number, to: number): Agreement {
    this.agreedBytes = 0;
    let at = from;
    for (const piece of this.#pieces) {
      if (at === to) break;
      const skip = sequenceDifference((sequence + (at - from)) >>> 0, piece.sequence);
      if (skip >= piece.bytes.length) continue;
      if (skip < 0) break;
      const count = Math.min(piece.bytes.length - skip, to - at);
      if (!sameBytes(source, at, piece.bytes, skip, count)) return 'different';
      at += count;
      this.agreedBytes += count;
    }
    return at === to ? 'equal' : 'partial';
  }

  /** True when a byte at or behind `sequence` is here. */
  hasFrom(sequence: number): boolean {
    const last = this.#pieces.at(-1);
    return last !== undefined && sequenceDifference(last.sequence + last.bytes.length, sequence) > 0;
  }

  /** Forgets what lies before `sequence`; with it the end, when that has been passed. */
  dropBefore(sequence: number): void {
    let spent = 0;
    for (const piece of this.#pieces) {
      const excess = sequenceDifference(sequence, piece.sequence);
      if (excess <= 0) break;
      if (excess < piece.bytes.length) {
        piece.bytes = piece.bytes.subarray(excess);
        piece.sequence = sequence;
        this.#bytes -= excess;
        break;
      }
      this.#bytes -= piece.bytes.length;
      // It may still be on the list of the borrowed.
      piece.bytes = NOTHING;
      spent++;
    }
    if (spent > 0) this.#pieces.splice(0, spent);
    if (this.#end !== null && sequenceDifference(sequence, this.#end) > 0) this.#end = null;
  }

  clear(): void {
    this.#pieces = [];
    this.#borrowed = [];
    this.#bytes = 0;
    this.#end = null;
  }
}

const NOTHING = new Uint8Array(0);

/** Whether `count` bytes are the same in both places. */
export function sameBytes(
  a: Uint8Array,
  aFrom: number,
  b: Uint8Array,
  bFrom: number,
  count: number,
): boolean {
  if (count > SHORT_BYTES) {
    return Buffer.compare(a.subarray(aFrom, aFrom + count), b.subarray(bFrom, bFrom + count)) === 0;
  }
  for (let at = 0; at < count; at++) if (a[aFrom + at] !== b[bFrom + at]) return false;
  return true;
}
