/**
 * Who may go on alone: one side of a pair as a pure state machine. Events go in, actions come out; nothing here waits,
 * knows a clock or talks to anybody. TABLE below is the whole of it. Rule 4 of docs/architecture.md; the argument is in
 * docs/arbiter.md, and test/unit/ha/model.test.ts walks through every state that two of these and an arbiter can reach.
 *
 * What keeps it from splitting:
 * - a side speaks alone only in `alone`, and gets there only by a swap that was won (or that surely never left);
 * - it swaps from the record that its own copy of the guest belongs to (`known`), never from one that it has just read,
 *   except when it starts from its disk, and then only as one of the members;
 * - before it asks for the record to say that a pair is whole again, it stops speaking alone.
 *
 * Assumes that a side is one process: whoever starts another has made sure that the one before it is dead.
 * Left to others: when a peer counts as lost, the times between retries, and doing what the actions say.
 */
import { sameRecord, type ArbiterRecord, type Proposal, type RecordId } from './arbiter/arbiter.ts';

export type Phase =
  /** No guest. There may be a disk. */
  | 'idle'
  /** Wants to start from its disk: reads the record. */
  | 'reading'
  /** Receives a guest. Its disk is being overwritten. */
  | 'joining'
  | 'secondary'
  | 'primary'
  /** Was alone, has a peer: sends it the first checkpoint. */
  | 'arming'
  /** The peer has it: asks for the record to say so. */
  | 'pairing'
  /** Asks to be alone. */
  | 'asking'
  | 'alone'
  /** Lost, or told to: the guest is being stopped, its output and its own state thrown away. */
  | 'stopping';

/** What the guest may say: all; what the peer has agreed to (rule 1); nothing. */
export type Output = 'free' | 'agreed' | 'held';

export interface Side {
  readonly id: string;
  /** Of this process and no other: nonces are made of it. */
  readonly incarnation: string;
  readonly phase: Phase;
  /** The record that this side's copy of the guest belongs to. */
  readonly known: RecordId | null;
  readonly peer: string | null;
  /** The swap that is under way, or about to be. */
  readonly swap: PendingSwap | null;
  /** Primary: false after this process stood still, until the peer has answered anew. */
  readonly isAnswered: boolean;
  /** Nonces used up. */
  readonly asked: number;
}

export interface PendingSwap {
  readonly expected: RecordId;
  readonly next: Proposal;
  /** An attempt was made whose outcome is unknown. */
  readonly mayHaveHappened: boolean;
  readonly isPeerLost: boolean;
  readonly isFromDisk: boolean;
}

export type Event =
  /** Start from the disk, if that is allowed. */
  | { readonly type: 'start' }
  | { readonly type: 'record'; readonly record: ArbiterRecord | null }
  | { readonly type: 'read-failed' }
  | { readonly type: 'won'; readonly record: ArbiterRecord }
  | { readonly type: 'lost'; readonly nonce: string; readonly current: ArbiterRecord | null }
  | { readonly type: 'unreachable'; readonly nonce: string; readonly mayHaveHappened: boolean }
  /** The back-off has run out. */
  | { readonly type: 'retry' }
  /** Its connection is closed, or it has been silent for too long. A suspicion; it may be wrong. */
  | { readonly type: 'peer-lost' }
  /** Alone: somebody is there whose disk is in step, and could be the secondary. */
  | { readonly type: 'peer-ready'; readonly peer: string }
  /** Idle: a side that is alone wants this one as its secondary. */
  | { readonly type: 'invited'; readonly peer: string }
  /** Joining: the first checkpoint is here, whole. `pairing`: the record as it will be. */
  | { readonly type: 'checkpoint-loaded'; readonly pairing: RecordId }
  /** Arming: the peer says so. */
  | { readonly type: 'checkpoint-confirmed' }
  /** This process stood still for a while (SIGSTOP, a frozen host). */
  | { readonly type: 'revived' }
  /** The peer answered something that was asked after that. */
  | { readonly type: 'peer-answered' }
  | { readonly type: 'stop' }
  | { readonly type: 'guest-stopped' };

export type EventType = Event['type'];
type EventOf<T extends EventType> = Extract<Event, { type: T }>;

export type Action =
  | { readonly type: 'read' }
  | { readonly type: 'swap'; readonly expected: RecordId; readonly next: Proposal }
  /** Send `retry` after a while. */
  | { readonly type: 'back-off' }
  /** From now on the output is as outputOf(side) says. */
  | { readonly type: 'output'; readonly output: Output }
  | { readonly type: 'start-guest' }
  /** End the pair: the guest in memory goes on alone. */
  | { readonly type: 'take-over' }
  | { readonly type: 'receive' }
  | { readonly type: 'checkpoint'; readonly pairing: RecordId }
  | { readonly type: 'confirm' }
  | { readonly type: 'ask-peer' }
  /** Stop the guest and throw away its output, its memory and what only it has written. */
  | { readonly type: 'discard' }
  /** The disk is not of the newest: this side may not start. */
  | { readonly type: 'tell-stale' };

export interface Step {
  readonly side: Side;
  readonly actions: readonly Action[];
}

export type Handler<T extends EventType> = (side: Side, event: EventOf<T>) => Step;
export type Rules = Readonly<Record<Phase, { readonly [T in EventType]?: Handler<T> }>>;

export function newSide(id: string, incarnation: string): Side {
  return {
    id,
    incarnation,
    phase: 'idle',
    known: null,
    peer: null,
    swap: null,
    isAnswered: true,
    asked: 0,
  };
}

export function outputOf(side: Side): Output {
  if (side.phase === 'alone') return 'free';
  if (side.phase === 'primary') return side.isAnswered ? 'agreed' : 'held';
  if (side.phase === 'pairing') return side.isAnswered && side.swap?.isPeerLost === false ? 'agreed' : 'held';
  return 'held';
}

/** What is not in the table is of no concern in that phase. */
export const TABLE: Rules = {
  idle: { start: readRecord, invited: join },
  reading: { record: startFromDisk, 'read-failed': backOff, retry: readRecord, stop: becomeIdle },
  joining: { 'checkpoint-loaded': becomeSecondary, 'peer-lost': becomeIdle, stop: discard },
  secondary: { 'peer-lost': askToBeAlone, stop: discard },
  primary: {
    'peer-lost': askToBeAlone,
    revived: doubt,
    'peer-answered': believe,
    stop: discard,
  },
  arming: { 'checkpoint-confirmed': askToPair, 'peer-lost': goOnAlone, stop: discard },
  pairing: {
    won: becomePrimary,
    lost: discardIfMine,
    unreachable: waitOrGoBack,
    retry: askAgain,
    'peer-lost': notePeerLost,
    revived: doubt,
    'peer-answered': believe,
    stop: discard,
  },
  asking: { won: goAlone, lost: discardIfMine, unreachable: wait, retry: askAgain, stop: discard },
  alone: { 'peer-ready': arm, stop: discard },
  stopping: { 'guest-stopped': becomeIdle },
};

export function step(side: Side, event: Event, rules: Rules = TABLE): Step {
  const handler = rules[side.phase][event.type] as ((side: Side, event: Event) => Step) | undefined;
  if (!handler) return { side, actions: [] };
  const after = handler(side, event);
  const output = outputOf(after.side);
  if (output === outputOf(side)) return after;
  // What closes comes before what else is done, what opens after it.
  const change: Action = { type: 'output', output };
  const actions = output === 'free' ? [...after.actions, change] : [change, ...after.actions];
  return { side: after.side, actions };
}

function to(side: Side, ...actions: Action[]): Step {
  return { side, actions };
}

export function readRecord(side: Side): Step {
  return to({ ...side, phase: 'reading' }, { type: 'read' });
}

/** Whose disk has everything may start, by the same swap as any other. A stale copy never does. */
export function startFromDisk(side: Side, { record }: EventOf<'record'>): Step {
  if (!record?.members.includes(side.id)) return to({ ...side, phase: 'idle' }, { type: 'tell-stale' });
  return ask({ ...side, phase: 'asking' }, record, alone(side), true);
}

function join(side: Side, { peer }: EventOf<'invited'>): Step {
  return to({ ...side, phase: 'joining', peer }, { type: 'receive' });
}

/** The pair may not be whole yet. If it never will be, this side's swap from `pairing` cannot be won. */
function becomeSecondary(side: Side, { pairing }: EventOf<'checkpoint-loaded'>): Step {
  return to({ ...side, phase: 'secondary', known: pairing }, { type: 'confirm' });
}

export function askToBeAlone(side: Side): Step {
  if (!side.known) return discard(side);
  return ask({ ...side, phase: 'asking' }, side.known, alone(side), false);
}

function askToPair(side: Side): Step {
  if (!side.swap) return discard(side);
  const { expected, next } = side.swap;
  return to({ ...side, phase: 'pairing', isAnswered: true }, { type: 'swap', expected, next });
}

/** Alone, with a peer: from here on nothing leaves before the peer has agreed. */
export function arm(side: Side, { peer }: EventOf<'peer-ready'>): Step {
  if (!side.known) return to(side);
  const next: Proposal = { nonce: nonce(side), holder: null, members: [side.id, peer], data: {} };
  const swap = pending(side.known, next, false);
  const pairing = { epoch: side.known.epoch + 1, nonce: next.nonce };
  return to({ ...side, phase: 'arming', peer, asked: side.asked + 1, swap }, { type: 'checkpoint', pairing });
}

/** Before the swap has been asked for: the record still says that this side may. */
function goOnAlone(side: Side): Step {
  return to({ ...side, phase: 'alone', peer: null, swap: null });
}

export function becomePrimary(side: Side, { record }: EventOf<'won'>): Step {
  if (!isMine(side, record.nonce)) return to(side);
  const isPeerLost = side.swap?.isPeerLost === true;
  const primary: Side = { ...side, phase: 'primary', known: idOf(record), swap: null };
  return isPeerLost ? askToBeAlone(primary) : to(primary);
}

export function goAlone(side: Side, { record }: EventOf<'won'>): Step {
  if (!isMine(side, record.nonce)) return to(side);
  const isFromDisk = side.swap?.isFromDisk === true;
  return to(
    { ...side, phase: 'alone', known: idOf(record), peer: null, swap: null, isAnswered: true },
    { type: isFromDisk ? 'start-guest' : 'take-over' },
  );
}

function discardIfMine(side: Side, { nonce: asked }: EventOf<'lost'>): Step {
  if (!isMine(side, asked)) return to(side);
  return side.swap?.isFromDisk === true ? becomeIdle(side) : discard(side);
}

/** Unheard, until the arbiter has answered. */
function wait(side: Side, event: EventOf<'unreachable'>): Step {
  if (!side.swap || !isMine(side, event.nonce)) return to(side);
  const mayHaveHappened = side.swap.mayHaveHappened || event.mayHaveHappened;
  return to({ ...side, swap: { ...side.swap, mayHaveHappened } }, { type: 'back-off' });
}

/** As wait; but a pair that surely never came to be, and whose other half is gone, leaves this side what it was. */
export function waitOrGoBack(side: Side, event: EventOf<'unreachable'>): Step {
  const waiting = wait(side, event);
  const { swap } = waiting.side;
  if (swap?.isPeerLost && !swap.mayHaveHappened) return goOnAlone(waiting.side);
  return waiting;
}

function askAgain(side: Side): Step {
  if (!side.swap) return to(side);
  return to(side, { type: 'swap', expected: side.swap.expected, next: side.swap.next });
}

function notePeerLost(side: Side): Step {
  return side.swap ? to({ ...side, swap: { ...side.swap, isPeerLost: true } }) : to(side);
}

/** The peer may have taken over meanwhile, and what it agreed to before says nothing about that. */
function doubt(side: Side): Step {
  return to({ ...side, isAnswered: false }, { type: 'ask-peer' });
}

function believe(side: Side): Step {
  return to({ ...side, isAnswered: true });
}

function backOff(side: Side): Step {
  return to(side, { type: 'back-off' });
}

function discard(side: Side): Step {
  return to({ ...side, phase: 'stopping', known: null, peer: null, swap: null }, { type: 'discard' });
}

function becomeIdle(side: Side): Step {
  return to({ ...side, phase: 'idle', known: null, peer: null, swap: null, isAnswered: true });
}

function alone(side: Side): Proposal {
  return { nonce: nonce(side), holder: side.id, members: [side.id], data: {} };
}

function ask(side: Side, expected: RecordId, next: Proposal, isFromDisk: boolean): Step {
  const swap = pending(idOf(expected), next, isFromDisk);
  return to({ ...side, asked: side.asked + 1, swap }, { type: 'swap', expected: swap.expected, next });
}

function pending(expected: RecordId, next: Proposal, isFromDisk: boolean): PendingSwap {
  return { expected, next, mayHaveHappened: false, isPeerLost: false, isFromDisk };
}

function nonce(side: Side): string {
  return `${side.incarnation}.${side.asked + 1}`;
}

function isMine(side: Side, asked: string): boolean {
  return side.swap?.next.nonce === asked;
}

function idOf({ epoch, nonce: of }: RecordId): RecordId {
  return { epoch, nonce: of };
}

/** Whether this side's copy is the one that a record speaks of. */
export function belongsTo(side: Side, record: RecordId): boolean {
  return side.known !== null && sameRecord(side.known, record);
}
