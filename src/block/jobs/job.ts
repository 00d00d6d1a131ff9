/**
 * What all visible block jobs share: identity, QEMU's states and the events of their changes, progress, speed, pause,
 * and the end. A concrete job (mirror, commit) writes `run` as straight-line code and calls `ready`, `finishing`…;
 * this class owns the order of events. Facts: docs/qemu-behaviour.md 5.8, and qemu-system-x86_64 7.2 asked over QMP.
 *
 * Every state change is JOB_STATUS_CHANGE {status, id}. Orders:
 *   start     created, running
 *   ready     ready, BLOCK_JOB_READY
 *   pause     paused (running) or standby (ready), and back
 *   success   waiting, pending, BLOCK_JOB_COMPLETED, concluded, null
 *   failure   aborting, BLOCK_JOB_COMPLETED with `error`, concluded, null
 *   cancelled aborting, BLOCK_JOB_CANCELLED, concluded, null
 */
import { setMaxListeners } from 'node:events';
import { Deferred, Gate } from '../../base/async.ts';
import { ClosedError, ColoError, ERRNO_TEXT, IoError, errnoOf, messageOf } from '../../base/errors.ts';
import { RateLimit } from './rate-limit.ts';

/** QEMU's job states (qapi/job.json, JobStatus). */
export type JobStatus =
  | 'undefined'
  | 'created'
  | 'running'
  | 'paused'
  | 'ready'
  | 'standby'
  | 'waiting'
  | 'pending'
  | 'aborting'
  | 'concluded'
  | 'null';

export type JobType = 'mirror' | 'commit' | 'backup';

/** Receives QMP events, in order. */
export type EmitEvent = (event: string, data: Record<string, unknown>) => void;

export interface JobOptions {
  readonly id: string;
  readonly emit: EmitEvent;
  /** Bytes a second; 0: unlimited. */
  readonly speed?: number;
}

/** One element of query-block-jobs' reply. */
export interface BlockJobInfo {
  'auto-finalize': boolean;
  'io-status': 'ok' | 'failed' | 'nospace';
  device: string;
  'auto-dismiss': boolean;
  busy: boolean;
  len: number;
  offset: number;
  status: JobStatus;
  paused: boolean;
  speed: number;
  ready: boolean;
  type: JobType;
  error?: string;
}

/** One element of query-jobs' reply. */
export interface JobInfo {
  'current-progress': number;
  status: JobStatus;
  'total-progress': number;
  type: JobType;
  id: string;
  error?: string;
}

/** The states in which a job can still be acted on. */
const LIVE: ReadonlySet<JobStatus> = new Set<JobStatus>(['created', 'running', 'paused', 'ready', 'standby']);

export abstract class Job {
  readonly id: string;
  abstract readonly type: JobType;
  /** Ends when the job is gone (state null), well or not; it never throws. */
  readonly ended: Promise<void>;
  /** Resolves when the job became ready; throws when it ended before. */
  readonly becameReady: Promise<void>;
  protected readonly limit: RateLimit;
  /** Aborted by a forced cancel and by failures: whatever `run` waits for should give up. */
  protected readonly abort = new AbortController();
  readonly #emit: EmitEvent;
  readonly #ended = new Deferred<void>();
  readonly #becameReady = new Deferred<void>();
  /** Closed while paused. */
  readonly #pauseGate = new Gate();
  #status: JobStatus = 'undefined';
  #isReady = false;
  #userPaused = false;
  #cancelled = false;
  #failure: Error | null = null;
  #ioStatus: 'ok' | 'failed' | 'nospace' = 'ok';

  constructor(options: JobOptions) {
    this.id = options.id;
    this.#emit = options.emit;
    this.limit = new RateLimit(options.speed ?? 0);
    // Every request in flight listens for the end.
    setMaxListeners(0, this.abort.signal);
    this.ended = this.#ended.promise;
    this.becameReady = this.#becameReady.promise;
  }

  /** The job's work. Returns for success; throws for failure. */
  protected abstract run(): Promise<void>;
  /** Bytes done so far, and bytes expected in all. */
  abstract progress(): { readonly offset: number; readonly len: number };
  /** Whether I/O of the job is in flight. */
  protected abstract get busy(): boolean;
  /** Asks `run` to end well (a ready job only). */
  protected abstract finish(pivot: boolean): void;

  get status(): JobStatus {
    return this.#status;
  }

  get isReady(): boolean {
    return this.#isReady;
  }

  /** Why the job failed, or null. */
  get failure(): Error | null {
    return this.#failure;
  }

  get wasCancelled(): boolean {
    return this.#cancelled;
  }

  /** Begins the work; its `created` and `running` events have gone out when this returns. */
  start(): void {
    this.#become('created');
    this.#become('running');
    void this.#drive();
  }

  /**
   * Ends the job. Ready and not forced: the target becomes a consistent copy of this moment, and that is success.
   * Otherwise the target is worthless. Throws when the user has paused it and `force` is not set.
   */
  cancel(force = false): void {
    if (this.#userPaused && !force) {
      throw new ColoError(`The block job for device '${this.id}' is currently paused`);
    }
    this.#acceptVerb('cancel');
    if (this.#isReady && !force) {
      this.finish(false);
      return;
    }
    this.abandon();
  }

  /** Breaks the job off whatever its state; nothing happens when it is ending already. */
  abandon(): void {
    if (!LIVE.has(this.#status) || this.abort.signal.aborted) return;
    this.#cancelled = true;
    this.abort.abort(new ClosedError(`Job '${this.id}' was cancelled`));
    this.#pauseGate.open();
  }

  /** Ends a ready job with its switch-over. Throws when it is not ready. */
  complete(): void {
    if (this.#status !== 'ready' && this.#status !== 'standby') {
      if (this.#status === 'running')
        throw new ColoError(`The active block job '${this.id}' cannot be completed`);
      throw new ColoError(
        `Job '${this.id}' in state '${this.#status}' cannot accept command verb 'complete'`,
      );
    }
    this.finish(true);
  }

  pause(): void {
    this.#acceptVerb('pause');
    if (this.#userPaused) throw new ColoError('Job is already paused');
    this.#userPaused = true;
    this.#pauseGate.close();
    this.#become(this.#isReady ? 'standby' : 'paused');
  }

  resume(): void {
    this.#acceptVerb('resume');
    if (!this.#userPaused) throw new ColoError("Can't resume a job that was not paused");
    this.#userPaused = false;
    this.#become(this.#isReady ? 'ready' : 'running');
    this.#pauseGate.open();
  }

  /** `speed`: bytes a second, 0 for unlimited. */
  setSpeed(speed: number): void {
    this.#acceptVerb('set-speed');
    if (!(Number.isSafeInteger(speed) && speed >= 0)) {
      throw new ColoError("Parameter 'speed' expects a non-negative value");
    }
    this.limit.setSpeed(speed);
  }

  /** The VM has stopped: QEMU drains all disks for that, which shows as one short pause of every job. */
  vmStopped(): void {
    if (this.#userPaused || (this.#status !== 'running' && this.#status !== 'ready')) return;
    const before = this.#status;
    this.#become(before === 'ready' ? 'standby' : 'paused');
    this.#become(before);
  }

  /** The VM runs again: nothing shows. */
  vmResumed(): void {
    // Here so that callers need not know that QEMU says nothing.
  }

  info(): BlockJobInfo {
    const { offset, len } = this.progress();
    return {
      'auto-finalize': true,
      'io-status': this.#ioStatus,
      device: this.id,
      'auto-dismiss': true,
      busy: this.busy,
      len,
      offset,
      status: this.#status,
      paused: this.#userPaused,
      speed: this.limit.speed,
      ready: this.#isReady,
      type: this.type,
      ...(this.#failure ? { error: errorText(this.#failure) } : {}),
    };
  }

  jobInfo(): JobInfo {
    const { offset, len } = this.progress();
    return {
      'current-progress': offset,
      status: this.#status,
      'total-progress': len,
      type: this.type,
      id: this.id,
      ...(this.#failure ? { error: errorText(this.#failure) } : {}),
    };
  }

  /** For `run`: waits while the job is paused; throws when it was broken off. */
  protected async checkpoint(): Promise<void> {
    while (!this.#pauseGate.isOpen && !this.abort.signal.aborted) await this.#pauseGate.pass();
    this.abort.signal.throwIfAborted();
  }

  /** For `run`: the target has caught up. Only the first call counts. */
  protected declareReady(): void {
    if (this.#isReady) return;
    this.#isReady = true;
    this.#become('ready');
    this.#emit('BLOCK_JOB_READY', this.#eventData());
    this.#becameReady.resolve();
  }

  /** For `run`: one request failed (on-error=report). */
  protected reportIoError(operation: 'read' | 'write', error: unknown): void {
    this.#ioStatus = errnoOf(error) === 'ENOSPC' ? 'nospace' : 'failed';
    this.#emit('BLOCK_JOB_ERROR', { device: this.id, operation, action: 'report' });
  }

  async #drive(): Promise<void> {
    try {
      // The reply to the command that started the job goes out first.
      await new Promise((resolve) => setImmediate(resolve));
      await this.checkpoint();
      await this.run();
      this.#become('waiting');
      this.#become('pending');
      this.#emit('BLOCK_JOB_COMPLETED', this.#eventData());
    } catch (error) {
      this.abort.abort(error);
      this.#become('aborting');
      if (this.#cancelled) {
        this.#emit('BLOCK_JOB_CANCELLED', this.#eventData());
      } else {
        this.#failure = error instanceof Error ? error : new ColoError(messageOf(error));
        this.#emit('BLOCK_JOB_COMPLETED', { ...this.#eventData(), error: errorText(error) });
      }
    }
    this.#becameReady.reject(this.#failure ?? new ClosedError(`Job '${this.id}' ended before it was ready`));
    this.#pauseGate.open();
    this.#become('concluded');
    this.#become('null');
    this.#ended.resolve();
  }

  #eventData(): Record<string, unknown> {
    const { offset, len } = this.progress();
    return { device: this.id, len, offset, speed: this.limit.speed, type: this.type };
  }

  #acceptVerb(verb: string): void {
    if (LIVE.has(this.#status) && !this.abort.signal.aborted) return;
    throw new ColoError(`Job '${this.id}' in state '${this.#status}' cannot accept command verb '${verb}'`);
  }

  #become(status: JobStatus): void {
    if (this.#status === status) return;
    this.#status = status;
    this.#emit('JOB_STATUS_CHANGE', { status, id: this.id });
  }
}

/** The text that QEMU gives in `error`: strerror for a failed request, else the message. */
function errorText(error: unknown): string {
  return error instanceof IoError ? ERRNO_TEXT[error.errno] : messageOf(error);
}
