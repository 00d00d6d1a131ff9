/**
 * Which bytes of one READ have arrived. A structured reply may bring them in pieces and in any order, but each byte
 * once, and all of them before it ends (proto.md "Structured reply message"); this is where that is checked.
 */
import { ProtocolError } from '../base/errors.ts';
import { NBD_MAX_READ_PIECES } from './limits.ts';

export class ReadCoverage {
  #length = 0;
  /** [0, #prefix) has arrived: all there is for a server that sends in order. */
  #prefix = 0;
  /** Pieces beyond the prefix, sorted, disjoint, not touching: from, to, from, to… */
  #pieces: number[] = [];

  /** Starts over for a request of `length` bytes. */
  reset(length: number): void {
    this.#length = length;
    this.#prefix = 0;
    if (this.#pieces.length > 0) this.#pieces = [];
  }

  get isComplete(): boolean {
    return this.#prefix === this.#length;
  }

  /** Notes `length` bytes at `from`, relative to the request. Throws ProtocolError when outside, empty or repeated. */
  add(from: number, length: number): void {
    const to = from + length;
    if (from < 0 || length <= 0 || to > this.#length) {
      throw new ProtocolError(
        `READ chunk of ${length} bytes at ${from} lies outside the ${this.#length} asked for`,
      );
    }
    if (from < this.#prefix) throw new ProtocolError(`READ chunk at ${from} brings bytes that came before`);
    const pieces = this.#pieces;
    let at = 0;
    while (at < pieces.length && pieces[at]! < from) at += 2;
    const endBefore = at > 0 ? pieces[at - 1]! : -1;
    const next = pieces[at] ?? Infinity;
    if (endBefore > from || next < to) {
      throw new ProtocolError(`READ chunk at ${from} brings bytes that came before`);
    }
    if (from === this.#prefix) {
      this.#prefix = next === to ? pieces[at + 1]! : to;
      if (next === to) pieces.splice(at, 2);
      return;
    }
    const joinsBefore = endBefore === from;
    if (joinsBefore && next === to) pieces.splice(at - 1, 2);
    else if (joinsBefore) pieces[at - 1] = to;
    else if (next === to) pieces[at] = from;
    else pieces.splice(at, 0, from, to);
    if (pieces.length > 2 * NBD_MAX_READ_PIECES) throw new ProtocolError('READ reply in too many pieces');
  }
}
