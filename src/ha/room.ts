/**
 * The machine room of one host: the `colo vm` processes on it. They outlive the daemon; `adopt` finds them again.
 * Implemented in room/; the daemon's controllers use it, their tests imitate it.
 */
import type { QmpConnection } from '../qmp/lasting-client.ts';
import type { PairLinks } from './pair-links.ts';
import type { VmSpec } from './spec/vm-spec.ts';

export interface Room {
  /** A guest that boots from the VM's own disks, unprotected. Stands still until `cont`. Throws ColoError with its last words. */
  startPrimary(spec: VmSpec, disks: readonly VmDisk[]): Promise<RunningVm>;
  /** A guest that waits for its state; its disks' images are exported once the caller asks for it by QMP. */
  startSecondary(spec: VmSpec, disks: readonly VmDisk[], links: PairLinks): Promise<RunningVm>;
  /** The process that an earlier daemon started, if it still lives. */
  adopt(name: string): Promise<RunningVm | null>;
  /** VMs of which an earlier daemon has left something, dead or alive: for `adopt`. */
  names(): Promise<readonly string[]>;
  /** Free TCP ports out of the node's range; kept from others until `release`. */
  reservePorts(count: number): Promise<PortLease>;
}

export interface PortLease {
  readonly ports: readonly number[];
  release(): void;
}

export interface RunningVm {
  readonly name: string;
  readonly pid: number;
  /** What it was started as; it may have taken over since. */
  readonly startedAs: 'primary' | 'secondary';
  /**
   * Connected anew by itself when the connection breaks while the process lives; an event RECONNECTED says that others
   * may have been missed. Commands under way are rejected then.
   */
  readonly qmp: QmpConnection;
  /** Unix socket of the first serial port, for any number of clients; each is told first what was said last. */
  readonly consolePath: string;
  /** Unix socket of its VNC server, when it was started with one. */
  readonly vncPath: string;
  readonly logPath: string;
  /** Resolves when the process is gone, however it went. */
  readonly exited: Promise<VmExit>;
  /** SIGKILL; resolves when it is gone. */
  kill(): Promise<void>;
}

export interface VmExit {
  readonly code: number | null;
  readonly signal: string | null;
  readonly lastWords: string;
}

/** One disk's files on this host. */
export interface VmDisk {
  readonly id: string;
  readonly sizeBytes: number;
  /** The disk itself: a primary's, or the secondary disk (`parent0` in QEMU's document). */
  readonly image: string;
  readonly active: string;
  readonly hidden: string;
}
