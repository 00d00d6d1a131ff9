/**
 * A process in which a directory is touched that may hang (a network file system whose server is gone): one call at a time,
 * each with a deadline, so that a call that never returns costs one process that is killed, and never a thread of this one.
 * Another is started when the last has really ended, so there is never more than one.
 */
import { fork, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Deferred, Mutex, withDeadline } from '../../base/async.ts';
import { ColoError, TimeoutError, messageOf } from '../../base/errors.ts';

/** Calls that wait for the one that is under way; more are refused. */
const MAX_WAITING_CALLS = 256;
/**
 * For the process to start, which is Node's own time and not the directory's: it has not been touched yet, so no call's
 * deadline runs. On a machine that is far too busy it takes longer than a call may.
 */
const START_MS = 60_000;

/** The process has not answered. */
export class NoAnswerError extends ColoError {
  /** False: the request has not been sent and never will be. */
  readonly isSent: boolean;

  constructor(message: string, isSent: boolean, options?: { cause?: unknown }) {
    super(message, options);
    this.isSent = isSent;
  }
}

/** Its other end: a module that says one message when it listens, and answers each of `process.on('message')` with one, in order. */
export class FileProcess<Request extends object, Answer> {
  readonly #module: string;
  readonly #what: string;
  readonly #deadlineMs: number;
  readonly #turn = new Mutex();
  #waiting = 0;
  #child: ChildProcess | null = null;
  #isListening = new Deferred<void>();
  #isClosed = false;

  /** `module`: file URL, `.ts` or, built, `.js`. `what`: for messages. */
  constructor(module: string, what: string, deadlineMs: number) {
    this.#module = module;
    this.#what = what;
    this.#deadlineMs = deadlineMs;
  }

  close(): void {
    this.#isClosed = true;
    this.#child?.kill('SIGKILL');
  }

  /** For tests. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Throws NoAnswerError. */
  async call(request: Request): Promise<Answer> {
    if (this.#isClosed) throw this.#failure('closed', false);
    if (this.#waiting >= MAX_WAITING_CALLS) throw this.#failure('too many calls wait already', false);
    this.#waiting++;
    try {
      await this.#ready();
      return await this.#callReady(request);
    } finally {
      this.#waiting--;
    }
  }

  async #callReady(request: Request): Promise<Answer> {
    const until = performance.now() + this.#deadlineMs;
    // Set when the deadline runs out before its turn: then it must never be sent.
    const state = { isOver: false, isSent: false };
    const work = this.#turn.run(async () => {
      // The call before may have ended the last one.
      const child = await this.#ready();
      const left = until - performance.now();
      if (state.isOver || left <= 1) return null;
      state.isSent = true;
      try {
        return { answer: (await ask(child, request, left)) as Answer };
      } catch (error) {
        // Before the next has its turn: it must not be sent to a process that hangs.
        child.kill('SIGKILL');
        throw error;
      }
    });
    try {
      const done = await withDeadline(work, this.#deadlineMs, this.#what);
      if (done) return done.answer;
      throw this.#failure('no answer in time', false);
    } catch (error) {
      state.isOver = true;
      if (!(error instanceof ChildGoneError || error instanceof TimeoutError)) throw error;
      throw this.#failure(`${messageOf(error)}; does the file system hang?`, state.isSent, error);
    }
  }

  /** Throws NoAnswerError. */
  async #ready(): Promise<ChildProcess> {
    const child = this.#current();
    try {
      await withDeadline(this.#isListening.promise, START_MS, 'its start');
      return child;
    } catch (error) {
      child.kill('SIGKILL');
      throw this.#failure(messageOf(error), false, error);
    }
  }

  #current(): ChildProcess {
    if (this.#isClosed) throw this.#failure('closed', false);
    const last = this.#child;
    if (last?.connected && !last.killed) return last;
    if (last && last.exitCode === null && last.signalCode === null) {
      throw this.#failure('a call hangs in the file system, and its process cannot be ended yet', false);
    }
    const execArgv = this.#module.endsWith('.ts') ? ['--import', import.meta.resolve('tsx')] : [];
    const child = fork(fileURLToPath(this.#module), {
      execArgv,
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    const listening = (this.#isListening = new Deferred<void>());
    listening.promise.catch(() => undefined); // whoever waits for it hears
    child.on('error', () => undefined);
    child.once('message', () => listening.resolve());
    child.once('exit', () => listening.reject(new ChildGoneError('its process has ended')));
    child.unref();
    child.channel?.unref();
    this.#child = child;
    return child;
  }

  #failure(why: string, isSent: boolean, cause?: unknown): NoAnswerError {
    return new NoAnswerError(`${this.#what}: ${why}`, isSent, { cause });
  }
}

/** The module beside `of` (an import.meta.url), as source or built. */
export function moduleBeside(of: string, name: string): string {
  return new URL(`./${name}${of.endsWith('.ts') ? '.ts' : '.js'}`, of).href;
}

class ChildGoneError extends ColoError {}

async function ask(child: ChildProcess, request: object, ms: number): Promise<unknown> {
  const answer = new Deferred<unknown>();
  const onMessage = (message: unknown): void => answer.resolve(message);
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
