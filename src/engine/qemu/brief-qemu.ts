/**
 * A QEMU that is asked something and ended: its monitor is at a socket pair, and it dies with us whatever we die of
 * (setpriv, util-linux). What it may be is not known yet: every wait has an end, and what it says is bounded.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import net from 'node:net';
import { Deferred } from '../../base/async.ts';
import { ClosedError, messageOf } from '../../base/errors.ts';
import { QmpClient } from '../../qmp/client.ts';
import { refusalOf } from './refusal.ts';

/** What we keep of what it says meanwhile. */
const KEPT_STDERR_BYTES = 4 * 1024;
/** The end of its monitor is heard a little before its own. */
const END_GRACE_MS = 500;

export class BriefQemu {
  readonly #process: ChildProcess;
  /** Its exit status, 128 more for a signal. Never rejects. */
  readonly ended: Promise<number>;
  #stderr = '';
  #failure: Error | null = null;
  #isOver = false;
  #client: QmpClient | null = null;

  constructor(binary: string, args: readonly string[]) {
    const monitor = ['-chardev', 'socket,id=colo-qmp,fd=3', '-qmp', 'chardev:colo-qmp'];
    this.#process = spawn('setpriv', ['--pdeathsig', 'KILL', binary, ...args, ...monitor], {
      stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
    });
    const ended = new Deferred<number>();
    this.ended = ended.promise;
    this.#process.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(0, KEPT_STDERR_BYTES);
    });
    this.#process.stdio[3]?.on('error', () => undefined); // told by its end
    this.#process.once('error', (error) => {
      this.#failure = error;
      this.#isOver = true;
      ended.resolve(255);
    });
    // Not `close`: a child of its own may hold the pipes.
    this.#process.once('exit', (code, signal) => {
      this.#isOver = true;
      ended.resolve(code ?? (signal ? 128 : 0));
    });
  }

  /** Its monitor. Throws ColoError when it is none, or not in time. */
  async qmp(timeoutMs: number): Promise<QmpClient> {
    const socket = this.#process.stdio[3];
    if (!(socket instanceof net.Socket)) throw this.#failure ?? new ClosedError('it was not started');
    this.#client = await QmpClient.over(socket, 'its monitor', { timeoutMs });
    return this.#client;
  }

  /** Why it is of no use, from what it said itself if it has ended; one line. */
  async reasonOf(error: unknown): Promise<string> {
    if (error instanceof ClosedError && !this.#isOver) await Promise.race([this.ended, pause(END_GRACE_MS)]);
    if (this.#failure) return this.#failure.message;
    const said = refusalOf(this.#stderr);
    if (!this.#isOver) return messageOf(error).split('\n', 1)[0] ?? '';
    const { exitCode, signalCode } = this.#process;
    const how = signalCode ? `it was killed by ${signalCode}` : `it ended with status ${exitCode ?? 0}`;
    return said === null ? how : `${how}: ${said}`;
  }

  /** Ends when it is gone. */
  async kill(): Promise<void> {
    this.#client?.close();
    this.#process.stdio[3]?.destroy();
    this.#process.stderr?.destroy();
    if (!this.#isOver) this.#process.kill('SIGKILL');
    await this.ended;
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref());
}
