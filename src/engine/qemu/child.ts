/**
 * One qemu-system-x86_64 process: started with its sockets ready to be connected to, commanded over QMP, killed. It dies
 * with us whatever we die of: setpriv (util-linux) has the kernel send it SIGKILL when its parent ends.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import net from 'node:net';
import path from 'node:path';
import { Deferred, withDeadline } from '../../base/async.ts';
import { ClosedError, ColoError } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';
import { QmpClient } from '../../qmp/client.ts';
import type { QmpEvent } from '../../qmp/types.ts';

const log = loggerFor('engine-qemu');
/** From fork to QMP greeting. */
const START_DEADLINE_MS = 60_000;
const COMMAND_DEADLINE_MS = 30_000;
/** What we keep of its standard error, for the message of its end. */
const KEPT_STDERR_BYTES = 4096;
/** In the child the RAM file is this descriptor. */
export const RAM_FD = 3;

export interface ChildPlan {
  readonly binary: string;
  readonly args: readonly string[];
  readonly ramFd: number;
  /** Private to this child; its control socket is made here. */
  readonly folder: string;
}

export class QemuChild {
  readonly folder: string;
  /** Resolves when the process is gone, with the reason. Never rejects. */
  readonly ended: Promise<Error>;
  onEvent: ((event: QmpEvent) => void) | null = null;
  readonly #process: ChildProcess;
  readonly #ended = new Deferred<Error>();
  #stderr = '';
  #qmp: QmpClient | null = null;
  #isOver = false;

  private constructor(plan: ChildPlan) {
    this.folder = plan.folder;
    this.ended = this.#ended.promise;
    const args = ['--pdeathsig', 'KILL', plan.binary, ...plan.args];
    this.#process = spawn('setpriv', args, { stdio: ['ignore', 'ignore', 'pipe', plan.ramFd] });
    this.#process.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-KEPT_STDERR_BYTES);
      log.debug(text.trimEnd());
    });
    this.#process.on('error', (error) => this.#over(error));
    this.#process.on('close', (code, signal) => {
      const how = signal ? `was killed by ${signal}` : `exited with status ${code ?? 0}`;
      const said = this.#stderr.trim().split('\n').at(-1) ?? '';
      this.#over(new ClosedError(`qemu ${how}${said === '' ? '' : `: ${said}`}`));
    });
  }

  /** Starts the process and waits for its monitor. Throws ColoError with what QEMU said. */
  static async start(plan: ChildPlan): Promise<QemuChild> {
    const control = path.join(plan.folder, 'qmp');
    const listener = net.createServer();
    const arrived = new Deferred<net.Socket>();
    listener.once('connection', (socket) => arrived.resolve(socket));
    await new Promise<void>((resolve, reject) => {
      listener.once('error', reject).listen(control, resolve);
    });
    const args = [...plan.args, '-chardev', `socket,id=colo-qmp,path=${control}`];
    const child = new QemuChild({ ...plan, args: [...args, '-mon', 'chardev=colo-qmp,mode=control'] });
    void child.ended.then((error) => arrived.reject(error));
    try {
      const socket = await withDeadline(arrived.promise, START_DEADLINE_MS, 'qemu: start');
      child.#qmp = await QmpClient.over(socket, 'qemu', { timeoutMs: START_DEADLINE_MS });
      child.#qmp.onEvent((event) => child.onEvent?.(event));
      return child;
    } catch (error) {
      // If it has died, what it said tells more than a broken connection.
      const reason = child.#isOver ? await child.ended : error;
      await child.kill();
      throw reason instanceof Error ? reason : new ColoError(String(reason));
    } finally {
      listener.close();
    }
  }

  get pid(): number {
    return this.#process.pid ?? 0;
  }

  get qmp(): QmpClient {
    if (!this.#qmp) throw new ClosedError('qemu has not been started');
    return this.#qmp;
  }

  execute(command: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    return this.qmp.execute(command, args, { timeoutMs: COMMAND_DEADLINE_MS });
  }

  /** SIGKILL; ends when the process is gone, so that it touches neither RAM nor disk any more. Idempotent. */
  async kill(): Promise<void> {
    this.onEvent = null;
    if (!this.#isOver) this.#process.kill('SIGKILL');
    await this.ended;
    this.#qmp?.close();
  }

  #over(error: Error): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#ended.resolve(error);
  }
}
