/**
 * The engine contract: what executes a guest. Nothing above this file knows which engine runs.
 *
 * States: `created` → start() → `paused` ⇄ `running` → stop() → `stopped`; `failed` when the machine died by itself.
 * pause/resume/capture/load are called by one owner, one at a time.
 *
 * RAM and device state travel as snapshots. An engine keeps the last captured or loaded state as its baseline, so that
 * a later snapshot holds only what changed and a load can undo what the guest did since.
 */
import type { Socket } from 'node:net';
import type { QmpTimestamp, QmpVersion } from '../qmp/types.ts';

/** One NIC of the guest. */
export interface EngineNic {
  readonly id: string;
  /** Six bytes. */
  readonly mac: Uint8Array;
  /** A frame for the guest. Copied before this returns. While the guest is paused, frames wait (bounded). */
  send(frame: Uint8Array): void;
  /** A frame from the guest; the view is valid during the call only. */
  onFrame: ((frame: Uint8Array) => void) | null;
}

/** A serial port of the guest, or another stream of characters that one of its devices has. */
export interface EngineSerial {
  /** Which chardev of ours is to be at its other end; absent for a serial port. */
  readonly chardev?: string;
  /** False: the guest is behind, wait for `onDrain`. The bytes have been taken all the same, within bounds. */
  write(bytes: Uint8Array): boolean;
  onData: ((bytes: Uint8Array) => void) | null;
  onDrain: (() => void) | null;
}

/** The disk as the engine uses it. Requests may overlap; a rejected promise is an I/O error for the guest. */
export interface EngineDisk {
  readonly id: string;
  readonly lengthBytes: number;
  readonly readOnly: boolean;
  read(offset: number, target: Uint8Array): Promise<void>;
  write(offset: number, source: Uint8Array): Promise<void>;
  flush(): Promise<void>;
  /** Zeros; `unmap`: the place may be given back. Without it the engine writes zeros. */
  writeZeroes?(offset: number, length: number, unmap: boolean): Promise<void>;
  /** A hint that the content is needed no more. */
  discard?(offset: number, length: number): Promise<void>;
}

/** The screen of an engine that has a VNC server (RFB). */
export interface EngineDisplay {
  /**
   * A new connection to the server of the machine that runs; waits for one that takes over, within bounds. It ends when
   * the machine is replaced. Throws ClosedError when there is none any more.
   */
  connect(): Promise<Socket>;
}

/** The monitor of an engine that has one of its own: commands that are not ours go there, its events are relayed. */
export interface EngineMonitor {
  /** QMP commands that it knows. Known after start(). */
  readonly commands: ReadonlySet<string>;
  /** Known after start(). */
  readonly version: QmpVersion;
  /** Throws QmpCommandError with the engine's class and text, ClosedError when the machine is gone. */
  execute(command: string, args: Readonly<Record<string, unknown>>): Promise<unknown>;
  /** An event that the engine does not keep to itself. */
  onEvent: ((name: string, data: Readonly<Record<string, unknown>>, timestamp: QmpTimestamp) => void) | null;
}

/**
 * Changed state since the baseline (or all of it, for the first one). Opaque but for its size: `ram` holds pages in the
 * engine's own encoding, `device` everything else. `device` is empty in a snapshot of RAM alone.
 */
export interface Snapshot {
  readonly ram: Uint8Array;
  readonly device: Uint8Array;
  /** Changed 4 KiB pages of RAM. */
  readonly pages: number;
  /** `maxPages` left some of the RAM for the next capture. */
  readonly more?: boolean;
}

export interface CaptureOptions {
  /** Everything, not only what changed since the baseline. All-zero pages are still left out. */
  readonly full: boolean;
  /** RAM alone (for the rounds of a migration while the guest runs). */
  readonly ramOnly?: boolean;
  /**
   * With `ramOnly`: about so many pages at most, and `more` when the next capture is to go on there. An engine whose
   * guests are small may send all at once.
   */
  readonly maxPages?: number;
}

export type EngineState = 'created' | 'paused' | 'running' | 'stopped' | 'failed';

/** SHUTDOWN's data (QEMU qapi/run-state.json, ShutdownCause). */
export interface ShutdownCause {
  /** The guest itself wanted it. */
  readonly guest: boolean;
  readonly reason: string;
}

export interface EngineEvents {
  /** The guest asked for power-off or reset, or the machine failed by itself. `cause`: if it was neither of these plainly. */
  onShutdown:
    | ((reason: 'guest-shutdown' | 'guest-reset' | 'failed', error?: Error, cause?: ShutdownCause) => void)
    | null;
  /**
   * The guest stands without having been told to; `state` is QEMU's run state (`io-error`, `watchdog`, …). May come more
   * than once, and for a guest that was told to stand just then.
   */
  onStopped: ((state: string) => void) | null;
  /** A guest that stood by itself runs again by itself. */
  onResumed: (() => void) | null;
}

export interface Engine extends EngineEvents {
  readonly engineName: string;
  readonly state: EngineState;
  readonly ramBytes: number;
  /** Hash of all that must be equal on both sides: engine version, firmware, devices, RAM size. Known after start(). */
  readonly buildId: string;
  /** What it is a hash of, as a person would compare it; an engine without choices has none. */
  readonly buildParts?: readonly string[];
  readonly nics: readonly EngineNic[];
  /** ttyS0 first; behind the serial ports the streams of other devices. */
  readonly serials: readonly EngineSerial[];
  /** Null: this engine has none. */
  readonly monitor: EngineMonitor | null;
  /** Absent: none, or none was asked for. */
  readonly display?: EngineDisplay;
  /** Builds the machine; it stays paused. Throws when it cannot be built. */
  start(): Promise<void>;
  /** Before a pause, while the guest runs: what would otherwise make the pause long. */
  preparePause?(): Promise<void>;
  /** When it ends no vCPU runs and no disk request is in flight. Idempotent. */
  pause(): Promise<void>;
  /** `lateMs`: the guest's clock goes on from that much later than where it stood. */
  resume(lateMs?: number): Promise<void>;
  /** Reset button: the guest reboots. */
  reset(): Promise<void>;
  /** State since the baseline, which it becomes. Paused, unless `ramOnly`. The buffers belong to the caller. */
  capture(options: CaptureOptions): Promise<Snapshot>;
  /** Ends when a load can begin, for an engine that has to make ready. Throws when it cannot; nothing has changed then. */
  prepareLoad?(): Promise<void>;
  /**
   * Paused: undoes what the guest did since the baseline, then applies the snapshots in order; the result is the new
   * baseline. All or nothing: a snapshot that does not fit is refused (ProtocolError) before anything changes. A load
   * that fails later leaves no whole state: `failed`.
   * The buffers may be transferred away; the caller must not use them afterwards.
   * `lateMs`: how far behind the guest's clock is by now, for an engine that can move it here alone; others do so in
   * `resume`.
   */
  load(snapshots: readonly Snapshot[], lateMs?: () => number): Promise<void>;
  /**
   * Takes a snapshot of RAM alone ahead of the load that will need it, so that nobody has to keep it: the guest is as it
   * was until then. An engine without this gets all of them at the load.
   */
  stage?(snapshot: Snapshot): Promise<void>;
  /** Ends the machine and frees everything. Idempotent; never waits on a peer. */
  stop(): Promise<void>;
}
