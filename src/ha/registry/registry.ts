/**
 * Where hosts and VMs are found. Nothing that must be right depends on it: who may speak is the arbiter's, whether a peer
 * lives is the heartbeat's. What it tells may be late; what it is told is not lost.
 *
 * Made for many hosts: what a daemon does all the time (`entriesOf`, `watch` with its host, `publish`, `publishVm`) costs
 * by what concerns that host, not by the size of the cluster; `hosts`, `entries` and `views` read everything and are for
 * people and for small clusters; whoever looks for a host to place something on takes `someHosts`.
 *
 * Every call ends within its deadline. No host's wall clock is compared with another's.
 */
import { ColoError } from '../../base/errors.ts';
import type { HostView, VmEntry, VmView } from '../views.ts';

export interface Versioned<T> {
  readonly value: T;
  /** Of this state of the entry and no other; only to be compared. */
  readonly version: string;
}

export type PutResult =
  | { readonly isPut: true; readonly version: string }
  /** Somebody has changed it meanwhile; `current`: what is there instead, null: nothing. */
  | { readonly isPut: false; readonly current: Versioned<VmEntry> | null };

export interface WatchScope {
  /** Only what concerns this host: entries of which it is home or has a copy. Absent: anything in the cluster. */
  readonly host?: string;
}

export interface Registry {
  /**
   * Registers this host and keeps that up until `withdraw` or `close`, whatever becomes of the store meanwhile; called again,
   * tells what has changed. Rejects when the store cannot be reached now: it is tried on all the same.
   * `isAlive` and `isInMaintenance` of `host` are not looked at.
   */
  publish(host: HostView): Promise<void>;
  /** Not alive from now on: the daemon ends on purpose. */
  withdraw(): Promise<void>;
  /** Removes a host that does not live from the list. False: it lives. */
  forgetHost(name: string): Promise<boolean>;
  /** All that ever were and were not forgotten, by name; `isAlive` false: its registration has run out. */
  hosts(): Promise<readonly HostView[]>;
  /**
   * Living ones: those of `names` that live, and others by chance up to `count` altogether. In a cluster that is not larger
   * it is all of them.
   */
  someHosts(count: number, names?: readonly string[]): Promise<readonly HostView[]>;
  host(name: string): Promise<HostView | null>;
  /** By anybody, also for a host that is away. */
  setMaintenance(host: string, isOn: boolean): Promise<void>;

  entries(): Promise<readonly Versioned<VmEntry>[]>;
  /** Those that concern a host: its home is there, or the newest view has a copy there. May be a few more, never fewer. */
  entriesOf(host: string): Promise<readonly Versioned<VmEntry>[]>;
  entry(name: string): Promise<Versioned<VmEntry> | null>;
  /** Compare-and-swap; `expected` null: there must be none. Tried again after its answer was lost it is the same put. */
  putEntry(entry: VmEntry, expected: string | null): Promise<PutResult>;
  /** Removes the entry and the view. False: it has changed since `expected`. True also when it was gone already. */
  removeEntry(name: string, expected: string): Promise<boolean>;

  /**
   * What its holder tells about a VM. False, and nothing is told: there is a view of a higher epoch, or no entry. A view that
   * differs from the last one in counters only is written now and then.
   */
  publishVm(view: VmView): Promise<boolean>;
  views(): Promise<readonly VmView[]>;
  view(name: string): Promise<VmView | null>;

  /**
   * Calls back when something may have changed: soon after a change, after the store could not be reached, and now and then
   * for nothing. Returns what ends it.
   */
  watch(onChange: () => void, scope?: WatchScope): () => void;
  /** Breaks off what is under way. The registration runs out by itself. Idempotent. */
  close(): Promise<void>;
}

/** The store cannot be asked, or has not answered in time. What was to be written may have been. */
export class RegistryUnreachableError extends ColoError {}

/** What stands in the store under a name is none of ours, or of a version too new. */
export class RegistryDataError extends ColoError {}
