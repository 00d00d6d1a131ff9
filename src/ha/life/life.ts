/**
 * The life of a protected VM, as one host tells it: a pure state machine. LIFE below is the whole of it; docs/states/life.md
 * draws it, and a test compares the two. It says what people see and what may be begun; it never says who may be heard:
 * that is ../side.ts and the arbiter.
 *
 * A host that carries the secondary tells the same life from its end: syncing while its disks are filled, protected while
 * it follows, dissolving when it asks to be alone.
 */
import type { VmState } from '../views.ts';

export type LifeEvent =
  /** It is to run here, from its disks. */
  | 'start'
  /** The arbiter has let it start, and the guest runs. */
  | 'started'
  /** It may not start here now: the reason says why. */
  | 'refused'
  /** A second host has been chosen, or this one was: disks are being filled. */
  | 'sync'
  /** The disks are equal: the guest's state is handed over. */
  | 'synced'
  /** The secondary has a whole checkpoint, and the arbiter's record says so. */
  | 'whole'
  /** The try at protection came to nothing; the guest goes on alone. */
  | 'sync-failed'
  /** The time between two tries is over. */
  | 'again'
  /** The other copy is silent, but known to live. */
  | 'silent'
  | 'back'
  /** The other copy is dead, or has to be taken for it. */
  | 'lost'
  /** This side goes on alone: the arbiter said yes. */
  | 'won'
  /** The other side goes on alone: this one is discarded. */
  | 'beaten'
  /** The process of this host's copy is gone. */
  | 'died'
  | 'stop'
  | 'stopped';

type Row = { readonly [E in LifeEvent]?: VmState };

export const LIFE: Readonly<Record<VmState, Row>> = {
  down: { start: 'starting', sync: 'syncing', refused: 'blocked' },
  starting: {
    started: 'unprotected',
    refused: 'blocked',
    died: 'blocked',
    beaten: 'stopping',
    stop: 'stopping',
  },
  blocked: { start: 'starting', sync: 'syncing', stop: 'stopping' },
  unprotected: { sync: 'syncing', 'sync-failed': 'backing-off', died: 'stopping', stop: 'stopping' },
  syncing: {
    synced: 'protecting',
    'sync-failed': 'backing-off',
    beaten: 'stopping',
    died: 'stopping',
    stop: 'stopping',
  },
  protecting: {
    whole: 'protected',
    'sync-failed': 'backing-off',
    lost: 'dissolving',
    beaten: 'stopping',
    died: 'stopping',
    stop: 'stopping',
  },
  protected: {
    silent: 'suspect',
    lost: 'dissolving',
    beaten: 'stopping',
    died: 'stopping',
    stop: 'stopping',
  },
  suspect: { back: 'protected', lost: 'dissolving', beaten: 'stopping', died: 'stopping', stop: 'stopping' },
  dissolving: { won: 'unprotected', beaten: 'stopping', died: 'stopping', stop: 'stopping' },
  'backing-off': { again: 'unprotected', sync: 'syncing', died: 'stopping', stop: 'stopping' },
  stopping: { stopped: 'down' },
};

export interface Life {
  readonly state: VmState;
  readonly reason: string;
  readonly sinceMs: number;
}

export interface LifeChange {
  readonly from: VmState;
  readonly to: VmState;
  readonly reason: string;
}

export const NEW_LIFE: Life = { state: 'down', reason: 'not started', sinceMs: 0 };

/** The life after `event`, and what changed; null: the event is of no concern in this state. `nowMs`: for people. */
export function live(
  life: Life,
  event: LifeEvent,
  reason: string,
  nowMs: number,
): { readonly life: Life; readonly change: LifeChange } | null {
  const to = LIFE[life.state][event];
  if (to === undefined) return null;
  return {
    life: { state: to, reason, sinceMs: nowMs },
    change: { from: life.state, to, reason },
  };
}
