/**
 * What an arbiter is: one record a VM, and a compare-and-swap on it (rule 4 of docs/architecture.md). Whoever moves the
 * record first lives. Everything that must hold for that is said here and checked by test/conformance/arbiter.ts;
 * who asks for what, and when, is side.ts's. The argument in plain words: docs/arbiter.md.
 *
 * A record is told from every other by its epoch AND its nonce. The epoch alone will not do: a claim that was given up
 * and one that was made later may both lead to the same number, and a swap that was meant for one must not hit the other.
 * The nonce also makes a swap that is tried again, because its answer was lost, one and the same swap.
 *
 * No decision here depends on a clock. Deadlines (monotonic) only end a wait, and then the outcome is unknown.
 */
import { ColoError } from '../../base/errors.ts';

/** Which of all records that a VM ever had. */
export interface RecordId {
  readonly epoch: number;
  readonly nonce: string;
}

/** What a swap wants the record to be; the epoch is one more than that of the record it replaces. */
export interface Proposal {
  /** Of this swap and no other, kept when it is tried again. */
  readonly nonce: string;
  /** The side that may speak alone; null while a pair is whole. */
  readonly holder: string | null;
  /** The sides whose disks hold everything that the world was told: who may start after a total loss. */
  readonly members: readonly string[];
  /** The caller's own, small. */
  readonly data: Readonly<Record<string, string>>;
}

export interface ArbiterRecord extends Proposal, RecordId {
  readonly version: 1;
  readonly vm: string;
}

export type SwapResult =
  | { readonly outcome: 'won'; readonly record: ArbiterRecord }
  /** `current`: what stood there instead; null where there was no record. */
  | { readonly outcome: 'lost'; readonly current: ArbiterRecord | null };

export interface Arbiter {
  /** Two sides that are to be a pair compare it first: whether they ask the same arbiter. */
  identity(): Promise<string>;
  /** The newest record, or null where there is none; never an older one than any that was won before the call. */
  read(vm: string): Promise<ArbiterRecord | null>;
  /** Makes the first record, epoch 1. Lost when there is one. */
  create(vm: string, first: Proposal): Promise<SwapResult>;
  /**
   * Replaces the record if it is still `expected`. Won also when it was replaced by this very proposal before (same
   * nonce), and lost when it has been replaced again since.
   */
  swap(vm: string, expected: RecordId, next: Proposal): Promise<SwapResult>;
  /** Calls back some time after a change, as a hint: changes may be told late, twice or never. Returns what ends it. */
  watch(vm: string, onChange: (record: ArbiterRecord | null) => void): () => void;
  /** Breaks off what is under way. Idempotent. */
  close(): Promise<void>;
}

/** The arbiter cannot be asked, or has not answered in time: nobody may go on because of this. */
export class ArbiterUnreachableError extends ColoError {
  /** A swap: false when it surely has not happened and never will; true when it may have, or still may. */
  readonly mayHaveHappened: boolean;

  constructor(message: string, mayHaveHappened: boolean, options?: { cause?: unknown }) {
    super(message, options);
    this.mayHaveHappened = mayHaveHappened;
  }
}

/** What stands in the arbiter is no record, or one of a newer version: nobody may go on before a person has looked. */
export class ArbiterRecordError extends ColoError {}

export function sameRecord(one: RecordId, other: RecordId): boolean {
  return one.epoch === other.epoch && one.nonce === other.nonce;
}

/** What a swap of `current` for `next` comes to. The whole of the rule, for arbiters that can look and write in one step. */
export function judge(
  vm: string,
  current: ArbiterRecord | null,
  expected: RecordId | null,
  next: Proposal,
): SwapResult & { readonly isNew: boolean } {
  const epoch = (expected?.epoch ?? 0) + 1;
  if (expected === null ? current === null : current !== null && sameRecord(current, expected)) {
    return { outcome: 'won', record: { version: 1, vm, epoch, ...next }, isNew: true };
  }
  if (current?.epoch === epoch && current.nonce === next.nonce) {
    return { outcome: 'won', record: current, isNew: false };
  }
  return { outcome: 'lost', current, isNew: false };
}
