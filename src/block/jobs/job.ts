/**
 * What all visible block jobs share: identity, QEMU's states (job-states.ts) and the events of their changes, progress,
 * speed, pause, what follows a failed request, and the end. A concrete job (mirror, backup, commit) writes `run` as
 * straight-line code; this class owns the order of events. Facts: docs/qemu-behaviour.md 5.8, 5.10, and QEMU 7.2 asked
 * over QMP.
 *
 * Every state change is JOB_STATUS_CHANGE {status, id}. Orders:
 *   start     created, running
 *   ready     ready, BLOCK_JOB_READY
 *   pause     paused (running) or standby (ready), and back
 *   success   waiting, pending, [BLOCK_JOB_PENDING, finalize,] BLOCK_JOB_COMPLETED, concluded, [dismiss,] null
 *   failure   aborting, BLOCK_JOB_COMPLETED with `error`, concluded, null
 *   cancelled [running,] aborting, BLOCK_JOB_CANCELLED, concluded, null
 */
import { setMaxListeners } from 'node:events';
import { Deferred, Gate } from '../../base/async.ts';
import { ClosedError, ColoError, ERRNO_TEXT, IoError, errnoOf, messageOf } from '../../base/errors.ts';
import type {
  BlockJobInfo,
  EmitEvent,
  ErrorAction,
  IoStatus,
  JobInfo,
  JobOptions,
  JobType,
  OnError,
} from './job-info.ts';
import { NEXT_STATES, refuseVerb, requireVerb } from './job-states.ts';
import type { JobStatus, JobVerb } from './job-states.ts';
import { RateLimit } from './rate-limit.ts';

export type * from './job-info.ts';
export type { JobStatus } from './job-states.ts';

export abstract class Job {
  readonly id: string;
  abstract readonly type: JobType;
  /** Ends when the work is over and what the job held is free (state concluded); it never throws. */
  readonly concluded: Promise<void>;
  /** Ends when the job is gone (state null), well or not; it never throws. */
  readonly ended: Promise<void>;
  /** Resolves when the job became ready; throws when it ended before. */
  readonly becameReady: Promise<void>;
  readonly autoFinalize: boolean;
  readonly autoDismiss: boolean;
  protected readonly limit: RateLimit;
  /** Aborted by a forced cancel and by failures: whatever `run` waits for should give up. */
  protected readonly abort = new AbortController();
  readonly #emit: EmitEvent;
  readonly #onError: { readonly read: OnError; readonly write: OnError };
  readonly #concluded = new Deferred<void>();
  readonly #ended = new Deferred<void>();
  readonly #becameReady = new Deferred<void>();
  readonly #finalized = new Deferred<void>();
  readonly #atEnd: (() => Promise<void> | void)[] = [];
  /** Closed while paused. */
  readonly #pauseGate = new Gate();
  #status: JobStatus = 'undefined';
  #userPaused = false;
  /** The last part has begun: the guest may be kept waiting, so nobody may pause it. */
  #unstoppable = false;
  #cancelled = false;
  #failure: Error | null = null;
  #ioStatus: IoStatus = 'ok';

  constructor(options: JobOptions) {
    this.id = options.id;
    this.autoFinalize = options.autoFinalize ?? true;
    this.autoDismiss = options.autoDismiss ?? true;
    this.#emit = options.emit;
    this.#onError = { read: options.onSourceError ?? 'report', write: options.onTargetError ?? 'report' };
    this.limit = new RateLimit(options.speed ?? 0);
    // Every request in flight listens for the end.
    setMaxListeners(0, this.abort.signal);
    this.concluded = this.#concluded.promise;
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
  /** QEMU inserts a filter when this job starts and drains the disk for it, which shows as a short pause. */
  protected readonly drainsAtStart: boolean = false;
  /** QEMU keeps the disk drained while this job is pending, which shows as paused. */
  protected readonly drainsWhilePending: boolean = false;

  /** The switch-over, once the job was finalized; what throws here fails the job. */
  protected prepare(): Promise<void> | void {
    // Most jobs have nothing to switch.
  }

  /** Lasts until `finalized`; a job that has to keep its target equal meanwhile does that here. */
  protected async whilePending(finalized: Promise<void>): Promise<void> {
    await finalized;
  }

  /** Frees what the job holds, in every case. */
  protected clean(): Promise<void> | void {
    // Most jobs have freed everything in `run`.
  }

  get status(): JobStatus {
    return this.#status;
  }

  get isReady(): boolean {
    return this.#status === 'ready' || this.#status === 'standby';
  }

  /** Why the job failed, or null. */
  get failure(): Error | null {
    return this.#failure;
  }

  get wasCancelled(): boolean {
    return this.#cancelled;
  }

  /** True while the user, or an error with on-error=stop, keeps the job from going on. */
  protected get isPaused(): boolean {
    return !this.#pauseGate.isOpen;
  }

  /** `act` runs when the job has let go of its nodes; its last events wait for it. It must not throw. */
  atEnd(act: () => Promise<void> | void): void {
    this.#atEnd.push(act);
  }

  /** Begins the work; its `created` and `running` events have gone out when this returns. */
  start(): void {
    this.#become('created');
    this.#become('running');
    if (this.drainsAtStart) this.vmStopped();
    void this.#drive();
  }

  /** It is not to begin, and shows as little: created, null. Throws `reason`. */
  refuse(reason: string): never {
    this.#become('created');
    this.#become('null');
    throw new ColoError(reason);
  }

  /**
   * Ends the job. Ready and not forced: the target becomes a consistent copy of this moment, and that is success.
   * Otherwise the target is worthless. Throws when the user has paused it and `force` is not set.
   */
  cancel(force = false): void {
    if (this.#userPaused && !force) {
      throw new ColoError(`The block job for device '${this.id}' is currently paused`);
    }
    this.#requireVerb('cancel');
    if (this.isReady && !force) this.finish(false);
    else this.abandon();
  }

  /** Breaks the job off whatever its state; nothing happens when it is ending already. */
  abandon(): void {
    if (this.#isOver || this.abort.signal.aborted) return;
    if (this.#userPaused) this.#unpause();
    this.#cancelled = true;
    this.abort.abort(new ClosedError(`Job '${this.id}' was cancelled`));
    this.#pauseGate.open();
    this.#finalized.resolve();
  }

  /** Ends a ready job with its switch-over. Throws when it is not ready. */
  complete(): void {
    this.#requireVerb('complete');
    this.finish(true);
  }

  /** Ends a pending job; resolves when it has concluded. */
  async finalize(): Promise<void> {
    this.#requireVerb('finalize');
    this.#finalized.resolve();
    await this.concluded;
  }

  /** Forgets a concluded job. */
  dismiss(): void {
    this.#requireVerb('dismiss');
    this.#become('null');
    this.#ended.resolve();
  }

  pause(): void {
    this.#requireVerb('pause');
    if (this.#userPaused) throw new ColoError('Job is already paused');
    if (this.#unstoppable) refuseVerb(this.id, this.#status, 'pause');
    this.#pauseForUser();
  }

  resume(): void {
    this.#requireVerb('resume');
    if (!this.#userPaused) throw new ColoError("Can't resume a job that was not paused");
    this.#ioStatus = 'ok';
    this.#unpause();
    this.#pauseGate.open();
  }

  /** `speed`: bytes a second, 0 for unlimited. */
  setSpeed(speed: number): void {
    this.#requireVerb('set-speed');
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
      'auto-finalize': this.autoFinalize,
      'io-status': this.#ioStatus,
      device: this.id,
      'auto-dismiss': this.autoDismiss,
      busy: this.busy,
      len,
      offset,
      status: this.#status,
      paused: this.#userPaused || (this.drainsWhilePending && this.#status === 'pending'),
      speed: this.limit.speed,
      ready: this.isReady,
      type: this.type,
      ...this.#errorMember(),
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
      ...this.#errorMember(),
    };
  }

  /** For `run`: waits while the job is paused; throws when it was broken off. */
  protected async checkpoint(): Promise<void> {
    while (!this.#pauseGate.isOpen && !this.abort.signal.aborted) await this.#pauseGate.pass();
    this.abort.signal.throwIfAborted();
  }

  /** For `run`: the target has caught up. Only the first call counts. */
  protected declareReady(): void {
    if (this.isReady) return;
    this.#become('ready');
    this.#emit('BLOCK_JOB_READY', this.#eventData());
    this.#becameReady.resolve();
  }

  /** For `run`: from here on the job cannot be paused, because the guest may be waiting for its end. */
  protected beUnstoppable(): void {
    this.#unstoppable = true;
  }

  /** For `run`: one request failed; says what follows and tells the world. After `stop` the job is paused. */
  protected ioFailed(operation: 'read' | 'write', error: unknown): ErrorAction {
    const nospace = errnoOf(error) === 'ENOSPC';
    const policy = this.#onError[operation];
    let action: ErrorAction = policy === 'enospc' ? (nospace ? 'stop' : 'report') : policy;
    const canStop = this.#status === 'running' || this.#status === 'ready' || this.#userPaused;
    if (action === 'stop' && (!canStop || this.#unstoppable)) action = 'report';
    this.#emit('BLOCK_JOB_ERROR', { device: this.id, operation, action });
    if (action === 'stop') {
      if (this.#ioStatus === 'ok') this.#ioStatus = nospace ? 'nospace' : 'failed';
      if (!this.#userPaused) this.#pauseForUser();
    }
    return action;
  }

  get #isOver(): boolean {
    return this.#status === 'aborting' || this.#status === 'concluded' || this.#status === 'null';
  }

  async #drive(): Promise<void> {
    try {
      // The reply to the command that started the job goes out first.
      await new Promise((resolve) => setImmediate(resolve));
      await this.checkpoint();
      await this.run();
      await this.checkpoint();
      this.#become('waiting');
      this.#become('pending');
      if (!this.autoFinalize) {
        this.#emit('BLOCK_JOB_PENDING', { type: this.type, id: this.id });
        await this.whilePending(this.#finalized.promise);
        this.abort.signal.throwIfAborted();
      }
      await this.prepare();
      await this.clean();
      for (const act of this.#atEnd) await act();
      // A cancel that came too late has changed nothing.
      this.#cancelled = false;
      this.#emit('BLOCK_JOB_COMPLETED', this.#eventData());
    } catch (error) {
      await this.#fail(error);
    }
    this.#becameReady.reject(this.#failure ?? new ClosedError(`Job '${this.id}' ended before it was ready`));
    this.#pauseGate.open();
    this.#become('concluded');
    this.#concluded.resolve();
    if (this.autoDismiss) this.dismiss();
  }

  async #fail(error: unknown): Promise<void> {
    this.abort.abort(error);
    if (this.#userPaused) this.#unpause();
    this.#become('aborting');
    if (!this.#cancelled) this.#failure = error instanceof Error ? error : new ColoError(messageOf(error));
    try {
      await this.clean();
    } catch {
      // The first error is the one to tell.
    }
    for (const act of this.#atEnd) await act();
    if (this.#cancelled) this.#emit('BLOCK_JOB_CANCELLED', this.#eventData());
    else this.#emit('BLOCK_JOB_COMPLETED', { ...this.#eventData(), error: errorText(error) });
  }

  #pauseForUser(): void {
    this.#userPaused = true;
    this.#pauseGate.close();
    this.#become(this.#status === 'ready' ? 'standby' : 'paused');
  }

  #unpause(): void {
    this.#userPaused = false;
    if (this.#status === 'standby') this.#become('ready');
    if (this.#status === 'paused') this.#become('running');
  }

  #eventData(): Record<string, unknown> {
    const { offset, len } = this.progress();
    return { device: this.id, len, offset, speed: this.limit.speed, type: this.type };
  }

  #errorMember(): { error?: string } {
    if (this.#failure) return { error: errorText(this.#failure) };
    return this.#cancelled && this.#isOver ? { error: 'Operation canceled' } : {};
  }

  #requireVerb(verb: JobVerb): void {
    requireVerb(this.id, this.#status, verb);
    // A job that is being broken off has `aborting` as its next state, whatever it says now.
    if (this.abort.signal.aborted && !this.#isOver) refuseVerb(this.id, 'aborting', verb);
  }

  #become(status: JobStatus): void {
    if (this.#status === status) return;
    if (!NEXT_STATES[this.#status].includes(status)) {
      throw new Error(`Job '${this.id}' went from '${this.#status}' to '${status}'`);
    }
    this.#status = status;
    this.#emit('JOB_STATUS_CHANGE', { status, id: this.id });
  }
}

/** The text that QEMU gives in `error`: strerror for a failed request, else the message. */
function errorText(error: unknown): string {
  return error instanceof IoError ? ERRNO_TEXT[error.errno] : messageOf(error);
}
