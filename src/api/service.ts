/**
 * What a host's daemon can be asked: `colo up` and its kin over the API's unix socket, other hosts over TCP. The daemon
 * implements it; http-server.ts serves it, http-client.ts is the same interface at the other end.
 */
import type { Duplex } from 'node:stream';
import type { PairLinks } from '../ha/pair-links.ts';
import type { HostFacts } from '../ha/spec/facts.ts';
import type { VmSpec } from '../ha/spec/vm-spec.ts';
import type { Finding, HaEvent, HostView, VmView } from '../ha/views.ts';

/** In every answer; a peer that is one version away is understood. */
export const API_VERSION = 1;

export interface NodeService {
  health(): Promise<Health>;
  hosts(): Promise<readonly HostView[]>;
  vms(): Promise<readonly VmView[]>;
  /** Throws NoSuchVmError. */
  vm(name: string): Promise<VmView>;
  spec(name: string): Promise<VmSpec>;
  check(spec: VmSpec): Promise<readonly Finding[]>;
  up(spec: VmSpec): Promise<VmView>;
  /** The guest is stopped; its disks stay unless `purge`. */
  down(name: string, options: { readonly purge: boolean }, call?: CallOptions): Promise<VmView>;
  checkpoint(name: string, call?: CallOptions): Promise<VmView>;
  /** Planned switch-over to the secondary. Resolves when the other side is heard. */
  failover(name: string, call?: CallOptions): Promise<VmView>;
  /** Moves the primary to `host`. Resolves when it is there. */
  migrate(name: string, host: string, call?: CallOptions): Promise<VmView>;
  /** Suspends (or takes up again) automatic actions for a VM. */
  setPaused(name: string, isPaused: boolean): Promise<VmView>;
  /** Maintenance of a host; `drain`: what is there is moved away first. */
  setMaintenance(
    host: string,
    isOn: boolean,
    options: { readonly drain: boolean },
    call?: CallOptions,
  ): Promise<HostView>;
  /** Kept events after `sequence`, then, with `follow`, those that come until `signal`. */
  events(options: EventQuery): AsyncIterable<HaEvent>;
  /** What the VM's processes on this host wrote to standard error. */
  logs(
    name: string,
    options: { readonly lines: number; readonly follow: boolean; readonly signal?: AbortSignal },
  ): AsyncIterable<string>;
  /**
   * The first serial port of that copy (default: the primary's), both ways. What is written to a copy that follows
   * another is discarded.
   */
  console(name: string, copy?: Copy): Promise<Duplex>;
  /** The VNC server of that copy, for one client: RFB both ways. Throws ColoError when it has none. */
  screen(name: string, copy?: Copy): Promise<Duplex>;
  /** One QMP command to the VM's process on this host, as a person would type it. */
  qmp(name: string, command: string, args?: Readonly<Record<string, unknown>>): Promise<unknown>;
}

/** Of calls that may take minutes: whoever asked has gone away, or no longer wants to wait. */
export interface CallOptions {
  readonly signal?: AbortSignal;
}

/** Which of a VM's two: the one that is heard, or the one that follows it. */
export const COPIES = ['primary', 'secondary'] as const;
export type Copy = (typeof COPIES)[number];

export interface EventQuery {
  readonly after?: number;
  readonly vm?: string;
  readonly follow: boolean;
  readonly signal?: AbortSignal;
}

export interface Health {
  readonly version: typeof API_VERSION;
  readonly software: string;
  readonly host: string;
  readonly isHealthy: boolean;
  /** What is wrong, a sentence each; empty when healthy. */
  readonly troubles: readonly string[];
  /** Absent: none is configured. */
  readonly dashboard?: DashboardPlace;
}

/** Where a host's dashboard is. */
export interface DashboardPlace {
  /** Null: it is not served, for this reason. */
  readonly url: string | null;
  readonly reason: string | null;
  /** The file on that host that holds the token which it asks for. */
  readonly tokenFile: string | null;
}

/** Between the daemons of two hosts, about one VM. */
export interface PeerService {
  /** What this host has of the VM. */
  copy(name: string): Promise<CopyReport>;
  /**
   * Become the secondary: make disks, start the process, export the disks. Throws BusyError when this host has a copy
   * that is not idle.
   */
  join(request: JoinRequest, call?: CallOptions): Promise<JoinAnswer>;
  /** The first checkpoint is about to be sent; `pairing` is the record that it belongs to. Resolves when it is loaded. */
  awaitCheckpoint(
    name: string,
    pairing: { readonly epoch: number; readonly nonce: string },
    call?: CallOptions,
  ): Promise<void>;
  /** The primary steps aside (planned): ask the arbiter now. Resolves when this side is heard. */
  takeOver(name: string, call?: CallOptions): Promise<void>;
  /** Stop and discard this host's copy. */
  leave(name: string, reason: string): Promise<void>;
  /** The VM was removed: its disks here, too. Throws BusyError while there is a copy that is not idle. */
  purge(name: string): Promise<void>;
  /** This host with a VM in mind, for `colo check`. Touches nothing. */
  facts(spec: VmSpec): Promise<HostFacts>;
}

export interface CopyReport {
  readonly host: string;
  readonly phase: string;
  readonly known: { readonly epoch: number; readonly nonce: string } | null;
  readonly isProcessAlive: boolean;
  /** What the disks here are: see ha/disks. */
  readonly disks: 'none' | 'whole' | 'stale' | 'replica' | 'merging' | 'syncing';
}

export interface JoinRequest {
  readonly version: typeof API_VERSION;
  readonly spec: VmSpec;
  readonly from: string;
  readonly primaryHost: string;
  readonly nics: PairLinks['nics'];
  readonly sizes: readonly { readonly id: string; readonly sizeBytes: number }[];
  /** The record that the primary is alone by, when a bitmap tells how the disks here differ from its own; else null: whole copy. */
  readonly bitmapSince: { readonly epoch: number; readonly nonce: string } | null;
}

export interface JoinAnswer {
  readonly version: typeof API_VERSION;
  readonly links: PairLinks;
  /** True: only what the primary's bitmap holds has to be copied. */
  readonly isBitmapEnough: boolean;
}
