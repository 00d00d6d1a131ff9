/**
 * Plays what both guests say into a comparer, in chunks that heed no frame, and holds each release against the model at
 * once. For property tests.
 */
import assert from 'node:assert/strict';
import type { PropertyRig } from './property-rig.ts';
import { wireBytes } from './property-rig.ts';
import type { WireFrame } from './property-frames.ts';
import type { Chunk } from './tcp-script.ts';

/** After so many chunks the rest goes in large ones. */
const PATIENCE_CHUNKS = 300;

/** A byte stream of frames that is given piece by piece. */
export class Feed<T extends { readonly frame: WireFrame }> {
  readonly #items: readonly T[];
  readonly #bytes: Buffer;
  readonly #ends: number[] = [];
  #given = 0;
  #whole = 0;

  constructor(items: readonly T[]) {
    this.#items = items;
    const parts = items.map(({ frame }) => wireBytes(frame));
    this.#bytes = Buffer.concat(parts);
    let end = 0;
    for (const part of parts) this.#ends.push((end += part.length));
  }

  get isSpent(): boolean {
    return this.#given === this.#bytes.length;
  }

  /** Gives up to so many bytes; returns what has become whole by them. */
  give(count: number, into: { give(bytes: Uint8Array): void }): readonly T[] {
    const to = Math.min(this.#bytes.length, this.#given + count);
    into.give(this.#bytes.subarray(this.#given, to));
    this.#given = to;
    const from = this.#whole;
    while (this.#whole < this.#ends.length && this.#ends[this.#whole]! <= to) this.#whole++;
    return this.#items.slice(from, this.#whole);
  }
}

/** Whose turn it is, until both feeds are spent. */
export function* turns(
  chunks: readonly Chunk[],
  primary: { readonly isSpent: boolean },
  secondary: { readonly isSpent: boolean },
): Generator<Chunk> {
  for (let turn = 0; !primary.isSpent || !secondary.isSpent; turn++) {
    const { isPrimary, bytes } = chunks[turn % chunks.length] ?? { isPrimary: true, bytes: 1 };
    yield {
      isPrimary: primary.isSpent ? false : secondary.isSpent || isPrimary,
      bytes: turn < PATIENCE_CHUNKS ? bytes : 10_000,
    };
  }
}

/** Exactly these, in this order, byte by byte with their vnet headers. */
export function assertReleased(
  rig: PropertyRig,
  expected: readonly { readonly frame: WireFrame }[],
  where: string,
): void {
  const released = rig.released();
  const count = Math.min(released.length, expected.length);
  for (let at = 0; at < count; at++) {
    const [left, owed] = [released[at]!, expected[at]!.frame];
    if (left.vnetHdrLen === owed.vnetHdrLen && Buffer.compare(left.bytes, owed.bytes) === 0) continue;
    assert.deepEqual(left, owed, `${where}: packet ${at} of ${expected.length} is another`);
  }
  assert.equal(released.length, expected.length, `${where}: number of packets that left`);
}
