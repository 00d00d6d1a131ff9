/**
 * One qemu-system-x86_64 process: started, commanded over QMP, killed. Its connections to us are inherited descriptors
 * (`CHILD_FD`): hidden sockets that it connects to, and connected pairs, `pipes`.
 *
 * It dies with us whatever we die of. setpriv (util-linux) has the kernel send it SIGKILL when its parent ends. If the
 * parent ended before setpriv had asked for that, nobody listens at the control socket any more, and QEMU exits because it
 * cannot connect. A QEMU whose control socket is closed is of no use and is killed.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import net from 'node:net';
import { Deferred, withDeadline } from '../../base/async.ts';
import { ClosedError, ColoError } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';
import { QmpClient } from '../../qmp/client.ts';
import type { QmpEvent } from '../../qmp/types.ts';
import { pathOfFd } from './hidden-socket.ts';
import type { HiddenListener } from './hidden-socket.ts';
import { QemuRefusedError, refusalOf } from './refusal.ts';

const log = loggerFor('engine-qemu');
/** From fork to QMP greeting. */
const START_DEADLINE_MS = 60_000;
const COMMAND_DEADLINE_MS = 30_000;
/** What we keep of its standard error, for the message of its end. */
const KEPT_STDERR_BYTES = 4096;

/** The child's descriptors beside its standard ones; the pipes follow each other. */
export const CHILD_FD = { ram: 3, disks: 4, state: 5, control: 6, pipes: 7 } as const;

export interface ChildPlan {
  readonly binary: string;
  readonly args: readonly string[];
  readonly ramFd: number;
  readonly disksFd: number;
  readonly stateFd: number;
  /** Shared by all children of an engine, which start one after the other. */
  readonly control: HiddenListener;
  readonly pipes: number;
  /** Sockets for virtio NICs, behind the pipes. */
  readonly vhostFds: readonly number[];
}

export class QemuChild {
  /** Our ends. */
  readonly pipes: readonly net.Socket[];
  /** Resolves when the process is gone, with the reason. Never rejects. */
  readonly ended: Promise<Error>;
  onEvent: ((event: QmpEvent) => void) | null = null;
  readonly #process: ChildProcess;
  readonly #ended = new Deferred<Error>();
  /** Told of the end. By hand: a promise that lives as long as the child would keep all that ever waited for it. */
  readonly #waiting = new Set<Deferred<string>>();
  #stderr = '';
  #qmp: QmpClient | null = null;
  #isOver = false;

  private constructor(plan: ChildPlan) {
    this.ended = this.#ended.promise;
    const control = `socket,id=colo-qmp,path=${pathOfFd(CHILD_FD.control)}`;
    const args = [...plan.args, '-chardev', control, '-qmp', 'chardev:colo-qmp'];
    const fds = [plan.ramFd, plan.disksFd, plan.stateFd, plan.control.fd];
    const pipes = Array.from({ length: plan.pipes }, () => 'pipe' as const);
    this.#process = spawn('setpriv', ['--pdeathsig', 'KILL', plan.binary, ...args], {
      stdio: ['ignore', 'ignore', 'pipe', ...fds, ...pipes, ...plan.vhostFds],
    });
    this.pipes = this.#process.stdio.slice(CHILD_FD.pipes).filter((one) => one instanceof net.Socket);
    for (const pipe of this.pipes) pipe.on('error', (error) => log.debug(error.message));
    this.#watch();
  }

  /** Starts the process and waits for its monitor; `onSpawn` has it from the first moment. Throws ColoError. */
  static async start(plan: ChildPlan, onSpawn: (child: QemuChild) => void): Promise<QemuChild> {
    const connection = plan.control.next();
    const child = new QemuChild(plan);
    onSpawn(child);
    try {
      const ended = child.ended.then((reason) => Promise.reject(reason));
      const socket = await withDeadline(Promise.race([connection, ended]), START_DEADLINE_MS, 'qemu: start');
      child.#qmp = await QmpClient.over(socket, 'qemu', { timeoutMs: START_DEADLINE_MS });
      child.#qmp.onEvent((event) => child.onEvent?.(event));
      void child.#qmp.closed.then(() => child.#process.kill('SIGKILL'));
      return child;
    } catch (error) {
      await child.kill();
      throw await child.#reasonFor(error);
    } finally {
      plan.control.giveUp();
    }
  }

  get pid(): number {
    return this.#process.pid ?? 0;
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  get qmp(): QmpClient {
    if (!this.#qmp) throw new ClosedError('qemu has not been started');
    return this.#qmp;
  }

  /** Throws QmpCommandError, TimeoutError, or ClosedError with what the process ended of. */
  async execute(command: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    try {
      return await this.qmp.execute(command, args, { timeoutMs: COMMAND_DEADLINE_MS });
    } catch (error) {
      throw await this.#reasonFor(error);
    }
  }

  /** The next MIGRATION event with one of these statuses. Throws TimeoutError, or ClosedError as `execute`. */
  async migrationStatus(statuses: readonly string[], deadlineMs: number): Promise<string> {
    if (this.#isOver) throw await this.ended;
    const found = new Deferred<string>();
    const stop = this.qmp.onEvent(({ event, data }) => {
      const status = event === 'MIGRATION' ? data['status'] : null;
      if (typeof status === 'string' && statuses.includes(status)) found.resolve(status);
    });
    this.#waiting.add(found);
    try {
      return await withDeadline(found.promise, deadlineMs, 'qemu: migration');
    } finally {
      this.#waiting.delete(found);
      stop();
    }
  }

  /** SIGKILL; ends when the process is gone, so that it touches neither RAM nor disk any more. Idempotent. */
  async kill(): Promise<void> {
    this.onEvent = null;
    if (!this.#isOver) this.#process.kill('SIGKILL');
    await this.ended;
    this.#qmp?.close();
    for (const pipe of this.pipes) pipe.destroy();
  }

  /** A connection that broke is followed by an end that says why. */
  async #reasonFor(error: unknown): Promise<Error> {
    if (this.#isOver || error instanceof ClosedError) return await this.ended;
    return error instanceof Error ? error : new ColoError(String(error));
  }

  #watch(): void {
    const { stderr } = this.#process;
    stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-KEPT_STDERR_BYTES);
      log.debug(text.trimEnd());
    });
    const said = new Deferred<void>();
    stderr?.once('close', () => said.resolve());
    this.#process.on('error', (error) => this.#over(error));
    // Not 'close': that waits for pipes that nobody reads.
    this.#process.on('exit', (code, signal) => {
      const how = signal ? `was killed by ${signal}` : `exited with status ${code ?? 0}`;
      void said.promise.then(() => {
        const why = refusalOf(this.#stderr);
        const isRefusal = why !== null && code !== null && this.#qmp === null;
        if (isRefusal) this.#over(new QemuRefusedError(why.startsWith('-') ? why : `QEMU: ${why}`));
        else this.#over(new ClosedError(`qemu ${how}${why === null ? '' : `: ${why}`}`));
      });
    });
  }

  #over(error: Error): void {
    if (this.#isOver) return;
    this.#isOver = true;
    for (const found of this.#waiting) found.reject(error);
    this.#ended.resolve(error);
  }
}
