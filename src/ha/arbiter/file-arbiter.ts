/**
 * The arbiter in a directory that both sides see (an NFS export, a cluster file system; what it must be able to do is in
 * docs/arbiter.md). The directory is touched in a child process only, one call at a time: a file system that hangs costs
 * one process that is killed, never a thread of this one. Another is started when the last has really ended, so there
 * is never more than one.
 */
import { fork, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Deferred, Mutex, withDeadline } from '../../base/async.ts';
import { ColoError, TimeoutError, messageOf } from '../../base/errors.ts';
import {
  ArbiterRecordError,
  ArbiterUnreachableError,
  type Arbiter,
  type ArbiterRecord,
  type Proposal,
  type RecordId,
  type SwapResult,
} from './arbiter.ts';
import type { FileAnswer, FileRequest } from './file-child.ts';
import { checkProposal, checkVmName } from './record.ts';
import { ReadingWatch } from './reading-watch.ts';

/** One call, with what waits before it. */
const CALL_DEADLINE_MS = 3_000;
/** Calls that wait for the one that is under way; more are refused. */
const MAX_WAITING_CALLS = 256;
/** Between two looks for a watcher. */
const WATCH_MS = 1_000;

export interface FileArbiterOptions {
  readonly deadlineMs?: number;
  readonly watchMs?: number;
}

export class FileArbiter implements Arbiter {
  readonly #dir: string;
  readonly #deadlineMs: number;
  readonly #turn = new Mutex();
  readonly #watch: ReadingWatch;
  #waiting = 0;
  #child: ChildProcess | null = null;
  #isClosed = false;

  constructor(dir: string, options: FileArbiterOptions = {}) {
    this.#dir = dir;
    this.#deadlineMs = options.deadlineMs ?? CALL_DEADLINE_MS;
    this.#watch = new ReadingWatch((vm) => this.read(vm), options.watchMs ?? WATCH_MS);
  }

  /** Makes the directory into an arbiter's, if it is none; returns its identity. Once, by a person. */
  prepare(): Promise<string> {
    return this.#call({ verb: 'prepare', dir: this.#dir }) as Promise<string>;
  }

  identity(): Promise<string> {
    return this.#call({ verb: 'identity', dir: this.#dir }) as Promise<string>;
  }

  async read(vm: string): Promise<ArbiterRecord | null> {
    checkVmName(vm);
    return (await this.#call({ verb: 'read', dir: this.#dir, vm })) as ArbiterRecord | null;
  }

  create(vm: string, first: Proposal): Promise<SwapResult> {
    return this.#swap(vm, null, first);
  }

  swap(vm: string, expected: RecordId, next: Proposal): Promise<SwapResult> {
    return this.#swap(vm, expected, next);
  }

  watch(vm: string, onChange: (record: ArbiterRecord | null) => void): () => void {
    checkVmName(vm);
    return this.#watch.add(vm, onChange);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#watch.close();
    this.#child?.kill('SIGKILL');
    await Promise.resolve();
  }

  /** The process that touches the directory, for tests. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  async #swap(vm: string, expected: RecordId | null, next: Proposal): Promise<SwapResult> {
    const checked = checkProposal(vm, next);
    return (await this.#call({ verb: 'swap', dir: this.#dir, vm, expected, next: checked })) as SwapResult;
  }

  async #call(request: FileRequest): Promise<unknown> {
    if (this.#isClosed) throw this.#unreachable('closed', false);
    if (this.#waiting >= MAX_WAITING_CALLS) throw this.#unreachable('too many calls wait already', false);
    this.#waiting++;
    const until = performance.now() + this.#deadlineMs;
    // Set when the deadline runs out before its turn: then it must never be sent.
    const state = { isOver: false, isSent: false };
    const work = this.#turn.run(async () => {
      const left = until - performance.now();
      if (state.isOver || left <= 1) return null;
      const child = this.#ready();
      state.isSent = true;
      try {
        return await ask(child, request, left);
      } catch (error) {
        // Before the next has its turn: it must not be sent to a process that hangs.
        child.kill('SIGKILL');
        throw error;
      }
    });
    try {
      const answer = await withDeadline(work, this.#deadlineMs, `arbiter ${this.#dir}`);
      if (answer?.ok === true) return answer.value;
      throw answer ? asError(answer) : this.#unreachable('no answer in time', false);
    } catch (error) {
      state.isOver = true;
      if (!(error instanceof ChildGoneError || error instanceof TimeoutError)) throw error;
      const mayHaveHappened = state.isSent && request.verb === 'swap';
      throw this.#unreachable(`${messageOf(error)}; does the file system hang?`, mayHaveHappened, error);
    } finally {
      this.#waiting--;
    }
  }

  #ready(): ChildProcess {
    if (this.#isClosed) throw this.#unreachable('closed', false);
    const last = this.#child;
    if (last?.connected && !last.killed) return last;
    if (last && last.exitCode === null && last.signalCode === null) {
      throw this.#unreachable('a call hangs in the file system, and its process cannot be ended yet', false);
    }
    const isSource = import.meta.url.endsWith('.ts');
    const file = fileURLToPath(new URL(isSource ? './file-child.ts' : './file-child.js', import.meta.url));
    const execArgv = isSource ? ['--import', import.meta.resolve('tsx')] : [];
    const child = fork(file, { execArgv, stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
    child.on('error', () => undefined);
    child.unref();
    child.channel?.unref();
    this.#child = child;
    return child;
  }

  #unreachable(why: string, mayHaveHappened: boolean, cause?: unknown): ArbiterUnreachableError {
    return new ArbiterUnreachableError(`arbiter ${this.#dir}: ${why}`, mayHaveHappened, { cause });
  }
}

class ChildGoneError extends ColoError {}

async function ask(child: ChildProcess, request: FileRequest, ms: number): Promise<FileAnswer> {
  const answer = new Deferred<FileAnswer>();
  const onMessage = (message: unknown): void => answer.resolve(message as FileAnswer);
  const onExit = (): void => answer.reject(new ChildGoneError('its process has ended'));
  child.once('message', onMessage);
  child.once('exit', onExit);
  child.channel?.ref();
  try {
    child.send(request, (error) => {
      if (error) answer.reject(new ChildGoneError(messageOf(error), { cause: error }));
    });
    return await withDeadline(answer.promise, ms, 'its process');
  } finally {
    child.off('message', onMessage);
    child.off('exit', onExit);
    child.channel?.unref();
  }
}

function asError(answer: Extract<FileAnswer, { ok: false }>): ColoError {
  if (answer.kind === 'record') return new ArbiterRecordError(answer.message);
  return new ArbiterUnreachableError(answer.message, answer.mayHaveHappened);
}
