/**
 * The embedded engine: npm's v86 in a worker thread, behind the engine contract. This side keeps the contract's states,
 * passes commands and data to the worker, and serves its disks; the machine itself is in machine.ts.
 *
 * A guest's reset restarts it (or pauses it, see V86Options.onGuestReset) and is announced by onShutdown; a guest that
 * powers off, or halts with interrupts off, is left paused and announced too.
 */
import { Worker } from 'node:worker_threads';
import type { Transferable } from 'node:worker_threads';
import { Deferred, withDeadline } from '../../base/async.ts';
import { ClosedError, ColoError, messageOf, ProtocolError } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';
import type { Logger } from '../../base/logger.ts';
import type { CaptureOptions, Engine, EngineDisk, EngineEvents, EngineState, Snapshot } from '../engine.ts';
import { serveDisk } from './disk-server.ts';
import { V86Nic, V86Serial } from './ports.ts';
import { shapeOf } from './options.ts';
import type { V86Options, V86Shape } from './options.ts';
import { SLOT_COUNT, SLOT_MAIN_TOOK_MESSAGES, SLOT_WORKER_DROPPED_FRAMES } from './protocol.ts';
import type { Command, FromWorker, Reply, ToWorker, WorkerStart } from './protocol.ts';

const START_DEADLINE_MS = 60_000;

export class V86Engine implements Engine {
  readonly engineName = 'v86';
  readonly ramBytes: number;
  readonly nics: readonly V86Nic[];
  readonly serial: V86Serial;
  readonly serials: readonly V86Serial[];
  readonly monitor = null;
  onShutdown: EngineEvents['onShutdown'] = null;
  /** This machine does not stand by itself but when it is over. */
  onStopped: EngineEvents['onStopped'] = null;
  onResumed: EngineEvents['onResumed'] = null;
  readonly #options: V86Options;
  readonly #shape: V86Shape;
  readonly #disks: readonly EngineDisk[];
  readonly #log: Logger;
  readonly #counters = new Int32Array(new SharedArrayBuffer(SLOT_COUNT * Int32Array.BYTES_PER_ELEMENT));
  readonly #pending = new Map<number, Deferred<Reply>>();
  readonly #ready = new Deferred<string>();
  #worker: Worker | null = null;
  #state: EngineState = 'created';
  #buildId = '';
  #nextId = 1;

  /** Throws ParameterError when v86 cannot build such a machine. */
  constructor(options: V86Options) {
    this.#options = options;
    this.#shape = shapeOf(options);
    this.#disks = options.disks;
    this.#log = loggerFor(`engine-v86 ${options.name}`);
    this.ramBytes = options.ramBytes;
    const post = (message: ToWorker, transfer: Transferable[]): void =>
      this.#worker?.postMessage(message, transfer);
    this.nics = options.nics.map(({ id, mac }, at) => new V86Nic(id, mac, at, this.#counters, post));
    this.serial = new V86Serial(post);
    this.serials = [this.serial];
  }

  get state(): EngineState {
    return this.#state;
  }

  get buildId(): string {
    return this.#buildId;
  }

  /** Frames that found no room on their way to or from the guest. */
  get droppedFrames(): number {
    const here = this.nics.reduce((sum, nic) => sum + nic.droppedFrames, 0);
    return here + Atomics.load(this.#counters, SLOT_WORKER_DROPPED_FRAMES);
  }

  async start(): Promise<void> {
    if (this.#state !== 'created') throw new ColoError(`engine v86: start in state ${this.#state}`);
    const { bios, vgaBios, rtcBaseMs = Date.now(), onGuestReset = 'reboot' } = this.#options;
    const counters = this.#counters.buffer;
    const start: WorkerStart = { shape: this.#shape, bios, vgaBios, rtcBaseMs, onGuestReset, counters };
    const worker = new Worker(workerUrl(), { workerData: start, name: `v86 ${this.#options.name}` });
    this.#worker = worker;
    worker.on('message', (message: FromWorker) => this.#onMessage(message));
    worker.on('error', (error) => this.#failed(error instanceof Error ? error : new Error(String(error))));
    worker.on('exit', (code) => this.#failed(new Error(`its worker ended with code ${code}`)));
    try {
      this.#buildId = await withDeadline(this.#ready.promise, START_DEADLINE_MS, 'engine v86: start');
      this.#state = 'paused';
    } catch (error) {
      await this.stop();
      throw new ColoError(`engine v86: the machine cannot be built: ${messageOf(error)}`, { cause: error });
    }
  }

  async pause(): Promise<void> {
    if (this.#state === 'paused') return;
    this.#mustBe('pause', 'running');
    await this.#command({ kind: 'pause' });
    this.#become('running', 'paused');
  }

  async resume(lateMs = 0): Promise<void> {
    if (this.#state === 'running') return;
    this.#mustBe('resume', 'paused');
    // Before the answer: a power-off that follows at once must find the state it ends.
    this.#state = 'running';
    await this.#command({ kind: 'resume', lateMs });
  }

  async reset(): Promise<void> {
    this.#mustBe('reset', 'paused', 'running');
    await this.#command({ kind: 'reset' });
  }

  async capture(options: CaptureOptions): Promise<Snapshot> {
    const ramOnly = options.ramOnly ?? false;
    if (ramOnly) this.#mustBe('capture', 'paused', 'running');
    else this.#mustBe('capture', 'paused');
    const { snapshot } = await this.#command({ kind: 'capture', full: options.full, ramOnly });
    if (!snapshot) throw new ColoError('engine v86: the worker answered a capture without a snapshot');
    return snapshot;
  }

  async load(snapshots: readonly Snapshot[]): Promise<void> {
    this.#mustBe('load', 'paused');
    const transfer = new Set<ArrayBuffer>();
    const wire = snapshots.map(({ ram, device, pages }) => ({
      ram: movable(ram, transfer),
      device: movable(device, transfer),
      pages,
    }));
    const { macs } = await this.#command({ kind: 'load', snapshots: wire }, [...transfer]);
    for (const [at, mac] of (macs ?? []).entries()) this.nics[at]?.setMac(mac);
  }

  async stop(): Promise<void> {
    const worker = this.#worker;
    this.#worker = null;
    if (this.#state !== 'failed') this.#state = 'stopped';
    this.#rejectAll(new ClosedError('engine v86: stopped'));
    // Ends the thread wherever it is; a guest in an endless loop too.
    await worker?.terminate();
  }

  #mustBe(verb: string, ...states: EngineState[]): void {
    if (!states.includes(this.#state)) throw new ColoError(`engine v86: ${verb} in state ${this.#state}`);
  }

  /** A state reached by a command, unless the machine went elsewhere meanwhile. */
  #become(from: EngineState, to: EngineState): void {
    if (this.#state === from) this.#state = to;
  }

  #command(command: Command, transfer: Transferable[] = []): Promise<Reply> {
    const id = this.#nextId++;
    const deferred = new Deferred<Reply>();
    this.#pending.set(id, deferred);
    this.#worker?.postMessage({ kind: 'command', id, command } satisfies ToWorker, transfer);
    return deferred.promise;
  }

  #onMessage(message: FromWorker): void {
    switch (message.kind) {
      case 'frame':
        Atomics.add(this.#counters, SLOT_MAIN_TOOK_MESSAGES, 1);
        if (this.#worker) this.#guard(() => this.nics[message.nic]?.onFrame?.(message.data));
        return;
      case 'serial':
        Atomics.add(this.#counters, SLOT_MAIN_TOOK_MESSAGES, 1);
        if (this.#worker) this.#guard(() => this.serial.onData?.(message.data));
        return;
      case 'disk':
        void this.#serve(message);
        return;
      case 'reply':
        this.#onReply(message);
        return;
      case 'ready':
        this.#ready.resolve(message.buildId);
        return;
      case 'shutdown':
        if (message.isPaused) this.#become('running', 'paused');
        if (this.#worker) this.#guard(() => this.onShutdown?.(message.reason));
        return;
      case 'failed':
        this.#failed(new Error(message.message));
        return;
      case 'log':
        this.#log.debug(message.text);
    }
  }

  #onReply({ id, error, reply }: Extract<FromWorker, { kind: 'reply' }>): void {
    const deferred = this.#pending.get(id);
    this.#pending.delete(id);
    if (!error) deferred?.resolve(reply);
    else
      deferred?.reject(
        error.isProtocolError ? new ProtocolError(error.message) : new ColoError(error.message),
      );
  }

  async #serve(message: Extract<FromWorker, { kind: 'disk' }>): Promise<void> {
    const { ok, data } = await serveDisk(this.#disks, message, this.#log);
    const answer: ToWorker = { kind: 'diskDone', id: message.id, ok, data };
    this.#worker?.postMessage(answer, data ? [data.buffer] : []);
  }

  /** A listener's mistake is not the guest's end. */
  #guard(call: () => void): void {
    try {
      call();
    } catch (error) {
      this.#log.error({ err: error }, 'a listener of the engine threw');
    }
  }

  #failed(error: Error): void {
    const worker = this.#worker;
    if (!worker) return;
    this.#worker = null;
    const wasBuilt = this.#state !== 'created';
    this.#state = 'failed';
    this.#log.error({ err: error }, 'the machine failed');
    this.#rejectAll(new ColoError(`engine v86: the machine failed: ${error.message}`, { cause: error }));
    worker
      .terminate()
      .catch((cause: unknown) => this.#log.error({ err: cause }, 'the worker cannot be ended'));
    if (wasBuilt) this.#guard(() => this.onShutdown?.('failed', error));
  }

  #rejectAll(error: Error): void {
    this.#ready.reject(error);
    for (const deferred of this.#pending.values()) deferred.reject(error);
    this.#pending.clear();
  }
}

/** The worker's entry. From source it is TypeScript, and tsx does not carry its loader over to workers by itself. */
function workerUrl(): URL {
  if (!import.meta.url.endsWith('.ts')) return new URL('./worker.js', import.meta.url);
  const loader = import.meta.resolve('tsx/esm/api');
  const entry = new URL('./worker.ts', import.meta.url).href;
  const text = `import { register } from ${JSON.stringify(loader)}; register(); await import(${JSON.stringify(entry)});`;
  return new URL(`data:text/javascript,${encodeURIComponent(text)}`);
}

/** The bytes in a buffer of their own, which can be transferred: themselves, if they fill theirs. */
function movable(bytes: Uint8Array, transfer: Set<ArrayBuffer>): Uint8Array {
  const { buffer } = bytes;
  const fills =
    buffer instanceof ArrayBuffer && bytes.byteLength === buffer.byteLength && !transfer.has(buffer);
  const own = fills ? bytes : bytes.slice();
  transfer.add(own.buffer as ArrayBuffer);
  return own;
}
