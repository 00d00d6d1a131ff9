/**
 * One `colo vm` process of the demo and the QMP connection to it. The process is killed when its owner says so and at
 * the latest when the demo ends; its standard error is kept for the day it dies unasked.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { ColoError } from '../base/errors.ts';
import { coloCommand } from '../base/this-program.ts';
import { QmpClient } from '../qmp/client.ts';

export interface VmProcessOptions {
  readonly onStderr?: (chunk: string) => void;
  readonly isOwnGroup?: boolean;
}

const KEPT_STDERR_CHARS = 16 * 1024;
const QMP_READY_MS = 60_000;

export class VmProcess {
  readonly name: string;
  readonly host: string;
  readonly qmp: QmpClient;
  /** Resolves when the process is gone, however it went. */
  readonly exited: Promise<void>;
  readonly #child: ChildProcess;
  readonly #stderr: () => string;

  private constructor(name: string, host: string, qmp: QmpClient, child: ChildProcess, stderr: () => string) {
    this.name = name;
    this.host = host;
    this.qmp = qmp;
    this.#child = child;
    this.#stderr = stderr;
    this.exited = child.exitCode === null && child.signalCode === null ? gone(child) : Promise.resolve();
    // Not every kind of end closes its connections at once.
    void this.exited.then(() => this.qmp.close());
  }

  /**
   * Starts the process and waits for its monitor. Throws ColoError with its last words when it ends first. `onStderr`
   * hears the logs; without it they are this process's when it has them on. `isOwnGroup`: a Ctrl+C on the terminal does
   * not reach it.
   */
  static async start(
    name: string,
    host: string,
    folder: string,
    args: readonly string[],
    { onStderr, isOwnGroup = false }: VmProcessOptions = {},
  ): Promise<VmProcess> {
    const socket = path.join(folder, `${name}.qmp`);
    const { command, args: all } = coloCommand(
      'vm',
      '-name',
      name,
      '-qmp',
      `unix:${socket},server=on,wait=off`,
      ...args,
    );
    const child = spawn(command, all, { stdio: ['ignore', 'ignore', 'pipe'], detached: isOwnGroup });
    let text = '';
    child.stderr.setEncoding('utf8');
    // Whoever asks for logs wants those of the VMs too.
    if (onStderr) child.stderr.on('data', onStderr);
    else if (process.env['COLO_LOG'] !== undefined) child.stderr.pipe(process.stderr);
    child.stderr.on('data', (chunk: string) => {
      text = (text + chunk).slice(-KEPT_STDERR_CHARS);
    });
    const ended = new AbortController();
    const lastWords = (): string => text.trim().split('\n').at(-1) ?? '';
    child.once('exit', () => ended.abort(new ColoError(`VM '${name}' ended at its start: ${lastWords()}`)));
    child.once('error', (cause) => ended.abort(new ColoError(`VM '${name}' cannot be started`, { cause })));
    const deadline = performance.now() + QMP_READY_MS;
    for (;;) {
      ended.signal.throwIfAborted();
      try {
        const qmp = await QmpClient.connect({ path: socket });
        return new VmProcess(name, host, qmp, child, () => text);
      } catch (cause) {
        if (performance.now() > deadline) {
          child.kill('SIGKILL');
          throw new ColoError(`VM '${name}' does not answer on its monitor`, { cause });
        }
        // The socket appears when the machine has been built; the process's end breaks the wait off.
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
  }

  get pid(): number {
    return this.#child.pid!;
  }

  get stderr(): string {
    return this.#stderr();
  }

  get isAlive(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** As a host that loses power: no last word. Resolves when the process is gone. */
  async kill(): Promise<void> {
    if (!this.isAlive) return;
    this.#child.kill('SIGKILL');
    await this.exited;
  }
}

async function gone(child: ChildProcess): Promise<void> {
  await once(child, 'exit');
}
