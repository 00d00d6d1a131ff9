/**
 * How quorum decides: the count of one fanned-out request, and the vote over contents. No node is touched here.
 * Facts: docs/qemu-behaviour.md 5.6. Among candidates with equal counts QEMU takes the one that was first seen last.
 */
import { createHash } from 'node:crypto';
import { Deferred } from '../../../base/async.ts';
import { IoError, errnoOf } from '../../../base/errors.ts';
import type { Errno } from '../../../base/errors.ts';
import type { BlockExtent } from '../../driver.ts';

const SECTOR_BYTES = 512;

/** The candidate with most votes; ties go to the one first seen last. Undefined without candidates. */
export function mostFrequent<T>(
  candidates: Iterable<T>,
): { readonly value: T; readonly votes: number } | undefined {
  const votes = new Map<T, number>();
  for (const candidate of candidates) votes.set(candidate, (votes.get(candidate) ?? 0) + 1);
  let best: { value: T; votes: number } | undefined;
  for (const [value, count] of votes) if (!best || count >= best.votes) best = { value, votes: count };
  return best;
}

/** The error that a failed request ends with: the most frequent errno, with one of its causes. */
export function majorityError(errors: readonly unknown[], what: string): IoError {
  const errno: Errno = mostFrequent(errors.map(errnoOf))?.value ?? 'EIO';
  const cause = errors.find((error) => errnoOf(error) === errno);
  return new IoError(errno, what, { cause });
}

/** Groups equal contents. Returns the indices of the winning group and of the losers. */
export function voteContents(contents: readonly Uint8Array[]): { winners: number[]; losers: number[] } {
  const hashes = contents.map((bytes) => createHash('sha256').update(bytes).digest('base64'));
  const best = mostFrequent(hashes)?.value;
  const winners: number[] = [];
  const losers: number[] = [];
  for (const [index, hash] of hashes.entries()) (hash === best ? winners : losers).push(index);
  return { winners, losers };
}

export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return (
    Buffer.compare(
      Buffer.from(a.buffer, a.byteOffset, a.byteLength),
      Buffer.from(b.buffer, b.byteOffset, b.byteLength),
    ) === 0
  );
}

/** Counts how a request that went to several children ends. A child that is taken away no longer counts. */
export class Ballot<Child> {
  /** Ends when every child has answered or was taken away. */
  readonly decided: Promise<void>;
  ok = 0;
  readonly errors: unknown[] = [];
  readonly #open: Set<Child>;
  readonly #copies: readonly Child[];
  readonly #decided = new Deferred<void>();
  #isStored: boolean;

  /** `copies`: those among the children that take every write and from which nothing can be read. */
  constructor(children: readonly Child[], copies: readonly Child[] = []) {
    this.#open = new Set(children);
    this.#copies = copies;
    this.#isStored = copies.length === children.length;
    this.decided = this.#decided.promise;
    this.#check();
  }

  /** Some child that is more than a copy has succeeded, or there is none but copies. */
  get isStored(): boolean {
    return this.#isStored || this.#copies.length === 0;
  }

  /** Whether this child still counts and has not answered. */
  awaits(child: Child): boolean {
    return this.#open.has(child);
  }

  /** Notes a success; false when the child no longer counts. */
  succeed(child: Child): boolean {
    if (!this.#open.delete(child)) return false;
    this.ok++;
    this.#isStored ||= !this.#copies.includes(child);
    this.#check();
    return true;
  }

  /** Notes a failure; false when the child no longer counts. */
  fail(child: Child, error: unknown): boolean {
    if (!this.#open.delete(child)) return false;
    this.errors.push(error);
    this.#check();
    return true;
  }

  leave(child: Child): void {
    if (this.#open.delete(child)) this.#check();
  }

  #check(): void {
    if (this.#open.size === 0) this.#decided.resolve();
  }
}

/** Events count in sectors of 512 bytes, touched ones whole. */
export function sectors(offset: number, length: number): { 'sector-num': number; 'sectors-count': number } {
  const first = Math.floor(offset / SECTOR_BYTES);
  return { 'sector-num': first, 'sectors-count': Math.ceil((offset + length) / SECTOR_BYTES) - first };
}

/** Cuts the range at every border that any child tells of. */
export function agreedZeros(
  answers: readonly BlockExtent[][],
  offset: number,
  length: number,
): BlockExtent[] {
  const borders = new Set([offset, offset + length]);
  for (const extents of answers) for (const extent of extents) borders.add(extent.offset);
  const cuts = [...borders].sort((a, b) => a - b);
  const at = answers.map(() => 0);
  const out: BlockExtent[] = [];
  for (let cut = 0; cut + 1 < cuts.length; cut++) {
    const from = cuts[cut] ?? 0;
    const zero = answers.every((extents, child) => {
      let index = at[child] ?? 0;
      while (index < extents.length && from >= (extents[index]?.offset ?? 0) + (extents[index]?.length ?? 0))
        index++;
      at[child] = index;
      return extents[index]?.zero === true;
    });
    out.push({ offset: from, length: (cuts[cut + 1] ?? from) - from, zero, data: !zero, allocated: true });
  }
  return out;
}
