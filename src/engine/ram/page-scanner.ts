/**
 * Finds and copies the pages in which a guest's RAM differs from its baseline, on worker threads (none: on the caller's).
 * One job at a time; its owner sees to that. Waking the threads and hearing of their end takes some 50 µs.
 */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { Deferred } from '../../base/async.ts';
import { ClosedError, ColoError, messageOf } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';
import type { Logger } from '../../base/logger.ts';
import { addressOf } from './memory-calls.ts';
import type { RamFile } from './ram-file.ts';
import {
  BUFFER_ADDRESS,
  BUFFER_LENGTH,
  COUNT,
  createShared,
  ENTRIES,
  ENTRIES_OFFSET,
  FINISHED,
  GENERATION,
  JOB,
  KIND,
  NEXT,
  pairOf,
  takePart,
} from './scan-job.ts';
import type { JobKind, Shared, WorkerStart } from './scan-job.ts';
import type { PageEntries } from './soft-dirty.ts';
import { forgetBase, mark, STRIP_PAGES } from './strips.ts';
import type { Pair } from './strips.ts';

/** More threads than this are limited by the memory, not by the processors. */
const MAX_DEFAULT_THREADS = 4;
/** So few pages are copied at once by the caller: waking threads would take longer. */
const FEW_PAGES = 64;

export function defaultThreads(): number {
  return Math.min(availableParallelism(), MAX_DEFAULT_THREADS);
}

export class PageScanner {
  readonly #shared: Shared;
  readonly #pair: Pair;
  readonly #base: RamFile;
  #workers: Worker[] = [];
  #job: Deferred<void> | null = null;
  #isClosed = false;
  /** Threads that are being ended. */
  #ending: Promise<unknown> = Promise.resolve();
  readonly #log: Logger;

  private constructor(ram: RamFile, base: RamFile) {
    this.#base = base;
    this.#log = loggerFor(`ram ${ram.name}`);
    this.#shared = createShared(ram.byteLength);
    this.#pair = pairOf({ shared: this.#shared, ram, base });
  }

  /** Both are equally large and stay open until close(). Throws ColoError when the threads cannot be started. */
  static async open(ram: RamFile, base: RamFile, threads = defaultThreads()): Promise<PageScanner> {
    if (ram.byteLength !== base.byteLength) throw new ColoError('page scanner: two sizes of RAM');
    const scanner = new PageScanner(ram, base);
    try {
      await scanner.#startWorkers(ram, base, threads);
    } catch (error) {
      await scanner.close();
      throw new ColoError(`page scanner: its threads cannot be started: ${messageOf(error)}`, {
        cause: error,
      });
    }
    return scanner;
  }

  /** How many strips of STRIP_PAGES pages there are. */
  get stripCount(): number {
    return this.#shared.counts.length;
  }

  /**
   * The pages of strips [from, to) that differ, ascending, behind the `kept` pages that an earlier call has left at the
   * start of the list (they lie before those strips). Valid until the next call. With `entries` only pages that have
   * been written since, by what they say, or that copyIn has written, are compared.
   */
  async findChanges(
    from = 0,
    to = this.stripCount,
    kept = 0,
    entries: PageEntries | null = null,
  ): Promise<Uint32Array> {
    const { control, buffer, pages, counts } = this.#shared;
    Atomics.store(control, COUNT, to);
    Atomics.store(control, ENTRIES, entries?.fd ?? -1);
    if (entries) buffer[ENTRIES_OFFSET] = BigInt(entries.offset);
    await this.#run('compare', from, to - from > 1);
    let count = kept;
    for (let strip = from; strip < to; strip++) {
      const first = strip * STRIP_PAGES;
      const found = counts[strip]!;
      if (found > 0 && first > count) pages.copyWithin(count, first, first + found);
      count += found;
    }
    return pages.subarray(0, count);
  }

  /** Copies the first `count` pages that findChanges returned from RAM to `data`, and what has arrived there to the baseline. */
  async copyOut(count: number, data: Uint8Array): Promise<void> {
    await this.#copy('copyOut', count, data);
  }

  /** Writes pages that were received to the baseline. */
  async copyIn(pages: Uint32Array, data: Uint8Array): Promise<void> {
    this.#shared.pages.set(pages);
    await this.#copy('copyIn', pages.length, data);
  }

  /** Copies the first `count` pages that findChanges returned from the baseline to RAM. */
  async copyBack(count: number): Promise<void> {
    await this.#copy('copyBack', count);
  }

  /** This process has written to a page of RAM: no page entries tell of that. */
  markWritten(page: number): void {
    mark(this.#shared.notes, page);
  }

  /** All of the baseline becomes zero and takes no memory. */
  clearBaseline(): void {
    this.#base.discard(0, this.#base.byteLength);
    forgetBase(this.#shared.notes);
  }

  /** Ends the threads; a job that is under way ends first. Idempotent. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#job?.promise.catch(() => undefined);
    this.#endWorkers();
    await this.#ending;
  }

  #endWorkers(): void {
    const workers = this.#workers;
    if (workers.length === 0) return;
    this.#workers = [];
    this.#ending = Promise.all(workers.map(async (worker) => worker.terminate()));
  }

  async #startWorkers(ram: RamFile, base: RamFile, threads: number): Promise<void> {
    const memory = ({ fd, address, byteLength }: RamFile) => ({ fd, address, byteLength });
    const start: WorkerStart = { shared: this.#shared, ram: memory(ram), base: memory(base), threads };
    const ready: Promise<void>[] = [];
    for (let at = 0; at < threads; at++) {
      const worker = new Worker(workerUrl(), { workerData: start, name: `ram ${ram.name}` });
      this.#workers.push(worker);
      const isReady = new Deferred<void>();
      ready.push(isReady.promise);
      worker.on('message', (message: 'ready' | 'done') => {
        if (message === 'ready') isReady.resolve();
        else this.#done();
      });
      const failed = (error: Error): void => {
        isReady.reject(error);
        this.#failed(error);
      };
      worker.on('error', (error) => failed(error instanceof Error ? error : new Error(String(error))));
      worker.on('exit', (code) => failed(new Error(`a thread ended with code ${code}`)));
    }
    await Promise.all(ready);
    // Sleeping threads keep no process alive.
    for (const worker of this.#workers) worker.unref();
  }

  async #copy(kind: JobKind, count: number, data?: Uint8Array): Promise<void> {
    if (count === 0) return;
    const { control, buffer } = this.#shared;
    Atomics.store(control, COUNT, count);
    if (data) {
      buffer[BUFFER_ADDRESS] = addressOf(data);
      buffer[BUFFER_LENGTH] = BigInt(data.byteLength);
    }
    await this.#run(kind, 0, count > FEW_PAGES);
  }

  async #run(kind: JobKind, next: number, isWorthThreads: boolean): Promise<void> {
    if (this.#isClosed) throw new ClosedError('page scanner: closed');
    if (this.#job) throw new ColoError('page scanner: busy');
    const workers = this.#workers;
    if (!isWorthThreads || workers.length === 0) {
      Atomics.store(this.#shared.control, KIND, JOB[kind]);
      Atomics.store(this.#shared.control, NEXT, next);
      takePart(this.#shared, this.#pair);
      return;
    }
    const job = new Deferred<void>();
    this.#job = job;
    for (const worker of workers) worker.ref();
    this.#begin(kind, next);
    try {
      await job.promise;
    } finally {
      this.#job = null;
      for (const worker of workers) worker.unref();
    }
  }

  #begin(kind: JobKind, next = 0): void {
    const { control } = this.#shared;
    Atomics.store(control, KIND, JOB[kind]);
    Atomics.store(control, NEXT, next);
    Atomics.store(control, FINISHED, 0);
    Atomics.add(control, GENERATION, 1);
    Atomics.notify(control, GENERATION);
  }

  #done(): void {
    this.#job?.resolve();
  }

  /** A thread is lost, and with it the job; the next ones are done by the caller. */
  #failed(cause: Error): void {
    if (this.#isClosed || this.#workers.length === 0) return;
    this.#log.error({ err: cause }, 'a thread has failed; pages are compared without threads from now on');
    this.#endWorkers();
    const error = new ColoError(`page scanner: ${cause.message}`, { cause });
    // Nobody else may be at it when the caller goes on.
    const job = this.#job;
    void this.#ending.finally(() => job?.reject(error));
  }
}

/** The worker's entry. From source it is TypeScript, and tsx does not carry its loader over to workers by itself. */
function workerUrl(): URL {
  if (!import.meta.url.endsWith('.ts')) return new URL('./scan-worker.js', import.meta.url);
  const loader = import.meta.resolve('tsx/esm/api');
  const entry = new URL('./scan-worker.ts', import.meta.url).href;
  const text = `import { register } from ${JSON.stringify(loader)}; register(); await import(${JSON.stringify(entry)});`;
  return new URL(`data:text/javascript,${encodeURIComponent(text)}`);
}
