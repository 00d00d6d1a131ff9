/**
 * One `colo vm` process on this host, a child of ours or an earlier daemon's: its monitor, its end, its death. Nothing ties
 * it to us: when we go, it stays.
 *
 * A child's end is told by Node. Another's is seen when its monitor's connection breaks, which the kernel does as it ends,
 * and at the latest by a look at /proc every now and then.
 */
import type { ChildProcess } from 'node:child_process';
import { Deferred } from '../../base/async.ts';
import { ClosedError, messageOf } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';
import { LastingQmpClient } from '../../qmp/lasting-client.ts';
import type { RunningVm, VmExit } from '../room.ts';
import { ConsoleHub } from './console-hub.ts';
import { isRunning, killProcess } from './process-identity.ts';
import type { ProcessRecord } from './process-record.ts';
import { lastWords, trimLog } from './vm-log.ts';
import type { VmPaths } from './vm-paths.ts';

const log = loggerFor('room');

/** Between two looks at a process that is no child of ours. */
const LOOK_MS = 100;
/** The same while it seems to be ending. */
const CLOSE_LOOK_MS = 2;
/** Close looks after a connection has ended; then it was the connection alone. */
const CLOSE_LOOKS = 500;
const TRIM_MS = 60_000;

export class RoomVm implements RunningVm {
  readonly name: string;
  readonly pid: number;
  readonly startedAs: RunningVm['startedAs'];
  readonly qmp: LastingQmpClient;
  readonly console: ConsoleHub;
  readonly consolePath: string;
  readonly vncPath: string;
  readonly logPath: string;
  readonly record: ProcessRecord;
  readonly #exited = new Deferred<VmExit>();
  readonly #child: ChildProcess | null;
  readonly #trimming: NodeJS.Timeout;
  #look: NodeJS.Timeout | null = null;
  #closeLooks = 0;

  /** `child`: when the process is ours. */
  constructor(record: ProcessRecord, paths: VmPaths, child: ChildProcess | null) {
    this.name = record.name;
    this.pid = record.pid;
    this.startedAs = record.startedAs;
    this.consolePath = paths.console;
    this.vncPath = paths.vnc;
    this.logPath = paths.log;
    this.record = record;
    this.#child = child;
    this.qmp = new LastingQmpClient({ path: record.qmp }, () => this.#lookClosely());
    this.console = new ConsoleHub(paths);
    if (!child) this.#lookLater();
    child?.once('exit', (code, signal) => this.#ended(code, signal));
    this.#trimming = setInterval(() => {
      trimLog(paths.log).catch((error: unknown) =>
        log.warn(`the log of '${this.name}': ${messageOf(error)}`),
      );
    }, TRIM_MS);
    this.#trimming.unref();
  }

  get exited(): Promise<VmExit> {
    return this.#exited.promise;
  }

  get isGone(): boolean {
    return this.#exited.settled;
  }

  async kill(): Promise<void> {
    // A child that has ended is a zombie until Node knows, so that its number is nobody else's before.
    if (this.#exited.settled) return;
    if (killProcess(this.record)) this.#lookClosely();
    else if (!this.#child) this.#lookNow();
    await this.#exited.promise;
  }

  /** Lets go of it; the process stays. `exited` will not resolve any more. */
  letGo(): void {
    this.#stop();
    this.qmp.close(new ClosedError(`VM '${this.name}' was let go`));
    this.#child?.removeAllListeners('exit');
  }

  #ended(code: number | null, signal: string | null): void {
    if (this.#exited.settled) return;
    this.#stop();
    const last = lastWords(this.logPath, this.record.logOffset);
    this.qmp.close(new ClosedError(`VM '${this.name}' has ended${last === '' ? '' : `: ${last}`}`));
    this.#exited.resolve({ code, signal, lastWords: last });
  }

  #stop(): void {
    this.console.close();
    clearInterval(this.#trimming);
    if (this.#look) clearTimeout(this.#look);
    this.#look = null;
  }

  #lookClosely(): void {
    if (this.#child || this.#exited.settled) return;
    this.#closeLooks = CLOSE_LOOKS;
    this.#lookNow();
  }

  #lookNow(): void {
    if (isRunning(this.record)) this.#lookLater();
    else this.#ended(null, null);
  }

  #lookLater(): void {
    if (this.#look) clearTimeout(this.#look);
    const isClose = this.#closeLooks > 0;
    if (isClose) this.#closeLooks--;
    this.#look = setTimeout(() => this.#lookNow(), isClose ? CLOSE_LOOK_MS : LOOK_MS);
    // The daemon decides how long it lives.
    this.#look.unref();
  }
}
