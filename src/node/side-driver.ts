/**
 * Drives one side of a pair: events go through the table (ha/side.ts), the side is saved, then the actions are done. What
 * an action comes to is the next event. Everything about the arbiter is done here; everything about guests is given in.
 *
 * Saved before it is acted on: a daemon that is started again goes on from the saved side, and a swap that was under way
 * is asked for again under the same nonce, which is the same swap (docs/arbiter.md).
 */
import { messageOf } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import { ArbiterUnreachableError, type Arbiter, type RecordId } from '../ha/arbiter/index.ts';
import { BackOff } from '../ha/life/back-off.ts';
import { step, type Action, type Event, type Side } from '../ha/side.ts';

/** What the table's actions mean for the guest. None of them throws; what they come to is fed as an event. */
export interface SideActs {
  /** A side that starts from its disk, alone. */
  startGuest(): void;
  /** The guest in memory goes on alone. */
  takeOver(): void;
  receive(peer: string): void;
  checkpoint(pairing: RecordId): void;
  confirm(): void;
  discard(): void;
  tellStale(): void;
  /** The arbiter cannot be asked, or said something. `trouble`: null when it has answered again. */
  arbiterTrouble(trouble: string | null): void;
  /** After every event that changed something. */
  changed(before: Side, after: Side): void;
}

const RETRY = { firstMs: 100, longestMs: 3_000 };
const log = loggerFor('side');

export class SideDriver {
  readonly #vm: string;
  readonly #arbiter: Arbiter;
  readonly #acts: SideActs;
  readonly #save: (side: Side) => void;
  readonly #retry = new BackOff(RETRY);
  #timer: NodeJS.Timeout | null = null;
  #side: Side;
  #isClosed = false;

  constructor(vm: string, side: Side, arbiter: Arbiter, acts: SideActs, save: (side: Side) => void) {
    this.#vm = vm;
    this.#side = side;
    this.#arbiter = arbiter;
    this.#acts = acts;
    this.#save = save;
  }

  get side(): Side {
    return this.#side;
  }

  /** Never throws. Events that are of no concern in the side's phase change nothing. */
  feed(event: Event): void {
    if (this.#isClosed) return;
    const before = this.#side;
    const { side, actions } = step(before, event);
    if (side !== before) {
      this.#save(side);
      this.#side = side;
      log.info({ vm: this.#vm, event: event.type, from: before.phase, to: side.phase }, 'side');
      this.#acts.changed(before, side);
    }
    for (const action of actions) this.#perform(action);
  }

  /** What was under way when the side was saved is done again. */
  resume(): void {
    const { phase, swap } = this.#side;
    if (phase === 'reading') this.#perform({ type: 'read' });
    if ((phase === 'asking' || phase === 'pairing') && swap) {
      this.#perform({ type: 'swap', expected: swap.expected, next: swap.next });
    }
    if (phase === 'stopping') this.#acts.discard();
  }

  /** Another side in its place: that of a new process. */
  reset(side: Side): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    this.#side = side;
  }

  /** Nothing more is done. The side stays as it was saved. */
  close(): void {
    this.#isClosed = true;
    if (this.#timer) clearTimeout(this.#timer);
  }

  #perform(action: Action): void {
    switch (action.type) {
      case 'read':
        void this.#read();
        return;
      case 'swap':
        void this.#swap(action.expected, action.next);
        return;
      case 'back-off':
        if (this.#timer) clearTimeout(this.#timer);
        this.#timer = setTimeout(() => this.feed({ type: 'retry' }), this.#retry.next());
        return;
      case 'start-guest':
        this.#acts.startGuest();
        return;
      case 'take-over':
        this.#acts.takeOver();
        return;
      case 'receive':
        this.#acts.receive(this.#side.peer ?? '');
        return;
      case 'checkpoint':
        this.#acts.checkpoint(action.pairing);
        return;
      case 'confirm':
        this.#acts.confirm();
        return;
      case 'discard':
        this.#acts.discard();
        return;
      case 'tell-stale':
        this.#acts.tellStale();
        return;
      // The VM itself holds its output while a pair is whole, and while it was stood still (checkpoint/primary.ts): its
      // comparer lets nothing out that the other copy has not said. What opens it is take-over and start-guest.
      case 'output':
      case 'ask-peer':
        return;
    }
  }

  async #read(): Promise<void> {
    try {
      const record = await this.#arbiter.read(this.#vm);
      this.#answered();
      this.feed({ type: 'record', record });
    } catch (error) {
      this.#troubled(error);
      this.feed({ type: 'read-failed' });
    }
  }

  async #swap(expected: RecordId, next: NonNullable<Side['swap']>['next']): Promise<void> {
    try {
      const result = await this.#arbiter.swap(this.#vm, expected, next);
      this.#answered();
      if (result.outcome === 'won') this.feed({ type: 'won', record: result.record });
      else this.feed({ type: 'lost', nonce: next.nonce, current: result.current });
    } catch (error) {
      this.#troubled(error);
      const mayHaveHappened = !(error instanceof ArbiterUnreachableError) || error.mayHaveHappened;
      this.feed({ type: 'unreachable', nonce: next.nonce, mayHaveHappened });
    }
  }

  #answered(): void {
    this.#retry.reset();
    this.#acts.arbiterTrouble(null);
  }

  #troubled(error: unknown): void {
    log.warn({ vm: this.#vm, err: error }, 'arbiter');
    this.#acts.arbiterTrouble(messageOf(error));
  }
}
