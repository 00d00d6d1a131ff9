/**
 * What the disks of one VM on one host are, as a pure table: what happens to them goes in, what they are from then on
 * comes out. Kept in disks.json (record-file.ts); what is done to the files is disk-folder.ts's. docs/ha-disks.md has the
 * argument.
 *
 * A record says what is true after a power failure at any moment while it stands. So it is written before that which
 * makes it necessary (`merging` before the guest is heard, `syncing` before the first byte is copied), and after that
 * which makes it true (`whole`, `replica` when the images are on stable storage).
 */
import { z } from 'zod';
import { ColoError, messageOf } from '../../base/errors.ts';
import { sameRecord, type RecordId } from '../arbiter/arbiter.ts';

export const DISKS_VERSION = 1;
/** Of a record as JSON. */
export const MAX_DISKS_RECORD_BYTES = 64 * 1024;
/** Of one VM: more than any engine has places for. */
const MAX_DISKS = 64;

export const DISKS_KINDS = ['none', 'whole', 'replica', 'merging', 'syncing', 'stale'] as const;
export type DisksKind = (typeof DISKS_KINDS)[number];

export interface DisksRecord {
  /**
   * none: nothing here.
   * whole: the guest's own disks; whoever holds the arbiter's record may start from them.
   * replica: a secondary's. The images are in step as long as the pair was whole; overlays are thrown away at a start.
   * merging: took over. The overlays have to be merged into the images before these may be used.
   * syncing: the target of a resync; of no use until it has ended.
   * stale: left a pair that went on without it.
   */
  readonly kind: DisksKind;
  /** The arbiter's record that they belong to, or last belonged to. */
  readonly of: RecordId | null;
  /**
   * stale: they differ from the survivor's disks by no more than its bitmap `parted` knows, if that began when the pair
   * of `of` ended.
   */
  readonly isInStep: boolean;
  readonly sizes: readonly { readonly id: string; readonly sizeBytes: number }[];
}

export type DisksEvent =
  /** The disks were filled or made, at the very first start. */
  | { readonly type: 'made'; readonly of: RecordId; readonly sizes: DisksRecord['sizes'] }
  /** Whole disks go on under another record: a start from disk, a pair that is whole, the survivor of one. */
  | { readonly type: 'holds'; readonly of: RecordId }
  /** A replica is started from its disk: the overlays are gone. */
  | { readonly type: 'starts'; readonly of: RecordId }
  /** To become the secondary of somebody: from now on the images are written to from outside. */
  | { readonly type: 'invited'; readonly sizes: DisksRecord['sizes'] }
  /** The first checkpoint is loaded, the images are in step and on stable storage. `of`: the pair as it will be. */
  | { readonly type: 'loaded'; readonly of: RecordId }
  /** The swap is won and the guest is about to be heard; overlays and images are on stable storage. */
  | { readonly type: 'takes-over'; readonly of: RecordId }
  /** The overlays are in the images. */
  | { readonly type: 'merged' }
  /** A primary whose guest stands still, all of whose writes both sides have, gave way to its secondary. */
  | { readonly type: 'gave-way' }
  /** Whoever speaks for the VM goes on without these. */
  | { readonly type: 'left' }
  | { readonly type: 'removed' };

export type DisksEventType = DisksEvent['type'];
type EventOf<T extends DisksEventType> = Extract<DisksEvent, { type: T }>;
type Change<T extends DisksEventType> = (from: DisksRecord, event: EventOf<T>) => DisksRecord;

export const NO_DISKS: DisksRecord = { kind: 'none', of: null, isInStep: false, sizes: [] };

const removed: Change<'removed'> = () => NO_DISKS;
const whole = (from: DisksRecord, { of }: { readonly of: RecordId }): DisksRecord =>
  become(from, 'whole', of);
const target: Change<'invited'> = (_, { sizes }) => ({ kind: 'syncing', of: null, isInStep: false, sizes });
const astray: Change<'left'> = (from) => become(from, 'stale', from.of);
const inStep = (from: DisksRecord): DisksRecord => ({ ...become(from, 'stale', from.of), isInStep: true });

/** What is not in the table must not happen: somebody would lose data. */
export const DISKS_TABLE: Readonly<Record<DisksKind, { readonly [T in DisksEventType]?: Change<T> }>> = {
  none: {
    made: (_, { of, sizes }) => ({ kind: 'whole', of: idOf(of), isInStep: false, sizes }),
    invited: target,
    removed,
  },
  whole: { holds: whole, 'gave-way': inStep, left: astray, removed },
  replica: {
    starts: whole,
    'takes-over': (from, { of }) => become(from, 'merging', of),
    invited: target,
    left: inStep,
    removed,
  },
  merging: {
    merged: (from) => become(from, 'whole', from.of),
    holds: (from, { of }) => become(from, 'merging', of),
    left: astray,
    removed,
  },
  syncing: { loaded: (from, { of }) => become(from, 'replica', of), invited: target, left: astray, removed },
  stale: { invited: target, left: (from) => from, removed },
};

/** Throws DisksError for what must not happen. */
export function changeDisks(from: DisksRecord, event: DisksEvent): DisksRecord {
  const change = DISKS_TABLE[from.kind][event.type] as
    ((from: DisksRecord, event: DisksEvent) => DisksRecord) | undefined;
  if (!change)
    throw new DisksError(`disks that are '${from.kind}' cannot have '${event.type}' happen to them`);
  return change(from, event);
}

/** They may be started from, by whoever the arbiter lets. */
export function isUsable({ kind }: DisksRecord): boolean {
  return kind === 'whole' || kind === 'replica' || kind === 'merging';
}

/**
 * Whether a survivor's bitmap tells all in which the disks here may differ from its own. `pairing`: the record of the pair
 * at whose end the bitmap began; null: there is none, or its beginning is not known. The images must open without repair, too.
 */
export function isBitmapEnough(here: DisksRecord, pairing: RecordId | null): boolean {
  if (pairing === null || here.of === null) return false;
  const isInStep = here.kind === 'replica' || (here.kind === 'stale' && here.isInStep);
  return isInStep && sameRecord(here.of, pairing);
}

/** The disks cannot be used as asked: what they are, or their files, do not allow it. */
export class DisksError extends ColoError {}

function become(from: DisksRecord, kind: DisksKind, of: RecordId | null): DisksRecord {
  return { kind, of: of && idOf(of), isInStep: false, sizes: from.sizes };
}

function idOf({ epoch, nonce }: RecordId): RecordId {
  return { epoch, nonce };
}

const stored = z.object({
  version: z.literal(DISKS_VERSION),
  vm: z.string().min(1).max(64),
  kind: z.enum(DISKS_KINDS),
  of: z.object({ epoch: z.int().min(1), nonce: z.string().min(1).max(128) }).nullable(),
  isInStep: z.boolean(),
  sizes: z
    .array(z.object({ id: z.string().regex(/^[a-z][a-z0-9-]{0,31}$/), sizeBytes: z.int().min(512) }))
    .max(MAX_DISKS),
});

export function encodeDisks(vm: string, record: DisksRecord): string {
  return `${JSON.stringify(stored.parse({ version: DISKS_VERSION, vm, ...record }), null, 2)}\n`;
}

/** Throws DisksError. A record that cannot be read is not guessed at: its disks are of no use until a person has looked. */
export function decodeDisks(text: string, vm: string, where: string): DisksRecord {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw unreadable(where, messageOf(error), error);
  }
  const version = z.object({ version: z.int() }).safeParse(value);
  if (version.success && version.data.version > DISKS_VERSION) {
    throw new DisksError(
      `${where}: of version ${version.data.version}, and this program knows version ${DISKS_VERSION}; use a newer one`,
    );
  }
  const checked = stored.safeParse(value);
  if (!checked.success) throw unreadable(where, z.prettifyError(checked.error), checked.error);
  const { vm: named, kind, of, isInStep, sizes } = checked.data;
  if (named !== vm) throw unreadable(where, `it is the record of '${named}'`);
  return { kind, of, isInStep, sizes };
}

function unreadable(where: string, why: string, cause?: unknown): DisksError {
  return new DisksError(
    `${where}: not a record of disks (${why}). Remove the folder to have the disks copied from another host`,
    { cause },
  );
}
