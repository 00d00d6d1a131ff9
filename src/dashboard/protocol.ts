/**
 * What the page and its server say to each other, as JSON text messages on a WebSocket (`/v1/live`). The page is built from
 * the same sources, so both ends always have the same version; a page that was left open over an upgrade sees another
 * version in `hello` and loads itself anew. Consoles and screens are WebSockets of their own with the bytes as they are
 * (`/v1/console`, `/v1/screen`; binary messages), so that a console that talks a lot holds nothing else up.
 *
 * Times are milliseconds since 1970 by the server's clock unless a name says otherwise.
 */
import type { HaEvent, HostView, VmView } from '../ha/views.ts';

export const DASHBOARD_VERSION = 1;

/** The actions of the page. The last four are the demo's: they are done to processes, as a failing host would do it. */
export const ACTIONS = [
  'checkpoint',
  'failover',
  'migrate',
  'pause',
  'resume',
  'kill-primary',
  'kill-secondary',
  'freeze-primary',
  'cut-link',
] as const;
export type Action = (typeof ACTIONS)[number];

/** Which of a VM's two copies. */
export const COPIES = ['primary', 'secondary'] as const;
export type Copy = (typeof COPIES)[number];

/** What a person can look at of a copy: its first serial port, its VNC server. */
export interface ScreenView {
  readonly serial: boolean;
  readonly vnc: boolean;
}

/** A VM in the page's lists. */
export interface VmPicture extends VmView {
  /** What may be asked for now; the others are not offered. */
  readonly actions: readonly Action[];
  readonly screens: Readonly<Record<Copy, ScreenView>>;
}

/** What flows over one arrow of the picture, averaged since the message before. */
export interface Flow {
  readonly framesPerSec: number;
  readonly bytesPerSec: number;
}

/** The arrows between the two copies of the VM that is watched. What is not measured is null. */
export interface PairPicture {
  readonly vm: string;
  readonly atMs: number;
  /** filter-mirror and redirector: what the primary receives goes to the secondary, too. */
  readonly mirror: Flow | null;
  /** The primary's frames on their way to colo-compare. */
  readonly primaryOut: Flow | null;
  /** The secondary's frames on their way to colo-compare. */
  readonly secondaryOut: Flow | null;
  /** What colo-compare lets out to the world. */
  readonly released: Flow | null;
  /** Packets and bytes that colo-compare holds at this moment, and how long the newest had to wait, microseconds. */
  readonly held: {
    readonly packets: number;
    readonly bytes: number;
    readonly p50Us: number | null;
    readonly p99Us: number | null;
  } | null;
  /** Disk writes forwarded to the secondary (block replication), and what is on its way unconfirmed. */
  readonly replication: {
    readonly bytesPerSec: number;
    readonly writesPerSec: number;
    readonly inFlight: number;
  } | null;
  /** The checkpoint channel. */
  readonly channel: {
    readonly checkpointsPerSec: number;
    readonly bytesPerSec: number;
    /** Since the secondary was heard last, milliseconds. */
    readonly silentMs: number | null;
  } | null;
}

/** One checkpoint, for the charts. */
export interface CheckpointSample {
  /** Counting up from 1 in one primary's life in COLO; begins anew with each primary. */
  readonly sequence: number;
  readonly atMs: number;
  readonly cause: string;
  /** How long the guest stood still. */
  readonly pauseMs: number;
  /** From the request until held packets were let go. */
  readonly heldMs: number;
  /** Pages of 4 KiB that were sent, and bytes altogether. */
  readonly pages: number;
  readonly bytes: number;
}

export type ServerMessage =
  | {
      readonly type: 'hello';
      readonly version: typeof DASHBOARD_VERSION;
      readonly kind: 'demo' | 'node';
      readonly software: string;
      /** Of the node; null in the demo. */
      readonly host: string | null;
      /** False: a watcher only, no actions and no typing. */
      readonly mayAct: boolean;
    }
  /** Everything at once; sent at the beginning and when something has changed, once a second at most. */
  | { readonly type: 'cluster'; readonly hosts: readonly HostView[]; readonly vms: readonly VmPicture[] }
  /** Of the VM that is watched, twice a second at most; not sent again while nothing changes. */
  | { readonly type: 'pair'; readonly pair: PairPicture }
  /** Oldest first. `isAll`: the chart begins anew with these; else they are added. */
  | {
      readonly type: 'checkpoints';
      readonly vm: string;
      readonly isAll: boolean;
      readonly samples: readonly CheckpointSample[];
    }
  /** Oldest first; the newest kept ones at the beginning, then each as it comes. */
  | { readonly type: 'events'; readonly events: readonly HaEvent[] }
  /** The source cannot be asked at the moment (null: it can again). */
  | { readonly type: 'trouble'; readonly message: string | null }
  /** Of one `act`. */
  | { readonly type: 'answer'; readonly id: number; readonly error: string | null; readonly text: string };

export type ClientMessage =
  /** Which VM's pair and checkpoints to send; null: none. */
  | { readonly type: 'watch'; readonly vm: string | null }
  | {
      readonly type: 'act';
      /** Chosen by the page, to find the answer by. */
      readonly id: number;
      readonly vm: string;
      readonly action: Action;
      /** Of `migrate`. */
      readonly host?: string;
    };
