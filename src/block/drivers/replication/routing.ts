/**
 * Block replication's states, and where a request goes in each: the one table that the driver obeys.
 * Facts: docs/qemu-behaviour.md 5.1 (stages) and 5.3 (I/O routing).
 *
 * Stages: none → running → failover → done | failover-failed, and running → done without failover.
 * A node that is done, or on its way there, ignores start, checkpoint and stop, so that a promoted secondary can be
 * the primary of the next pair.
 */
import type { Role } from '../../../base/participant.ts';

export type ReplicationMode = Role;
export type Stage = 'none' | 'running' | 'failover' | 'failover-failed' | 'done';

/**
 * refuse: EIO. forward: to `file` (the other host), a failure is remembered and not told to the guest.
 * overlay: to the active disk, what it lacks comes through the chain. file: to whatever `file` is.
 * split: to the active disk where the overlays hold the data already, else to the secondary disk.
 */
export type ReadRoute = 'refuse' | 'overlay' | 'file';
export type WriteRoute = 'refuse' | 'forward' | 'overlay' | 'file' | 'split';

export interface Route {
  readonly read: ReadRoute;
  readonly write: WriteRoute;
}

const NOTHING: Route = { read: 'refuse', write: 'refuse' };

export const ROUTES: Readonly<Record<ReplicationMode, Readonly<Record<Stage, Route>>>> = {
  primary: {
    none: NOTHING,
    running: { read: 'refuse', write: 'forward' },
    // A primary has no failover of its own; the rows exist so that the table is whole.
    failover: NOTHING,
    'failover-failed': NOTHING,
    done: NOTHING,
  },
  secondary: {
    none: NOTHING,
    running: { read: 'overlay', write: 'overlay' },
    failover: { read: 'overlay', write: 'overlay' },
    'failover-failed': { read: 'overlay', write: 'split' },
    done: { read: 'file', write: 'file' },
  },
};

/** What a verb does to a node in a stage: act, say nothing, or refuse with a text. */
export type VerbAnswer = 'act' | 'ignore' | { readonly refuse: string };

const NOT_RUNNING: VerbAnswer = { refuse: 'Block replication is not running' };

export const VERBS: Readonly<
  Record<'start' | 'checkpoint' | 'getError' | 'stop', Readonly<Record<Stage, VerbAnswer>>>
> = {
  start: {
    none: 'act',
    running: { refuse: 'Block replication is running or done' },
    failover: 'ignore',
    'failover-failed': { refuse: 'Block replication is running or done' },
    done: 'ignore',
  },
  checkpoint: {
    none: 'act',
    running: 'act',
    failover: 'ignore',
    'failover-failed': 'act',
    done: 'ignore',
  },
  getError: { none: NOT_RUNNING, running: 'act', failover: 'act', 'failover-failed': 'act', done: 'act' },
  stop: {
    none: NOT_RUNNING,
    running: 'act',
    failover: 'ignore',
    'failover-failed': NOT_RUNNING,
    done: 'ignore',
  },
};

/** QEMU's numbers of the modes, which one error text quotes. */
export const MODE_NUMBER: Readonly<Record<ReplicationMode, number>> = { primary: 0, secondary: 1 };
