/**
 * The built colo, or QEMU, without a guest (`-machine none`), driven in the same way: QMP, and single disk requests by the
 * human monitor's qemu-io. QEMU prints on its standard output what ours answers, so both are brought to one form here.
 */
import { execFileSync, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import type { Socket } from 'node:net';
import path from 'node:path';
import { createInterface } from 'node:readline';
import type { TestContext } from 'node:test';
import { withDeadline } from '../../../src/base/async.ts';
import { COLO } from '../../helpers/colo.ts';
import { QmpTypist } from '../../helpers/qmp-typist.ts';
import type { TypedEvent } from '../../helpers/qmp-typist.ts';

export const STEP_MS = 60_000;

/** False, or why tests against QEMU cannot run. What it says is compared word by word, so the version matters. */
export const missingQemu: string | false = (() => {
  try {
    const version = execFileSync('qemu-system-x86_64', ['--version'], { encoding: 'utf8' });
    execFileSync('qemu-img', ['--version']);
    execFileSync('stdbuf', ['--version']);
    return version.includes('version 7.2') ? false : `QEMU 7.2 is not installed (${version.slice(0, 40)})`;
  } catch {
    return 'qemu-system-x86_64, qemu-img or stdbuf are not installed';
  }
})();

export type Whose = 'colo' | 'qemu';

const BARE = ['-machine', 'none', '-nodefaults', '-nographic', '-monitor', 'none', '-serial', 'none'];

export class Program {
  readonly whose: Whose;
  readonly child: ChildProcess;
  readonly qmp: QmpTypist;
  stderr = '';
  readonly #printed: string[] = [];
  #onPrinted: () => void = () => undefined;

  private constructor(whose: Whose, child: ChildProcess, socket: Socket) {
    this.whose = whose;
    this.child = child;
    this.qmp = new QmpTypist(socket, socket);
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (this.stderr += text));
    if (child.stdout) {
      createInterface({ input: child.stdout }).on('line', (line) => {
        // The time that a request took, and a breakpoint that was met, are on lines of their own.
        if (/ ops; |^blkdebug: /.test(line)) return;
        this.#printed.push(line);
        this.#onPrinted();
      });
    }
  }

  /** Starts it in `folder`; it is killed when the test ends. Words of `line` are separated by blanks. */
  static async start(
    t: Pick<TestContext, 'after'>,
    whose: Whose,
    folder: string,
    line: string,
  ): Promise<Program> {
    const socketPath = path.join(folder, `${whose}-${process.hrtime.bigint()}.qmp`);
    const server = createServer();
    server.listen(socketPath);
    await once(server, 'listening');
    const words = [...BARE, ...line.split(' ').filter((word) => word !== ''), '-qmp', `unix:${socketPath}`];
    const child =
      whose === 'colo'
        ? spawn(process.execPath, [COLO, 'vm', ...words], { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] })
        : spawn('stdbuf', ['-oL', 'qemu-system-x86_64', ...words], {
            cwd: folder,
            stdio: ['ignore', 'pipe', 'pipe'],
          });
    let early = '';
    child.stderr.on('data', (text: Buffer) => (early += text.toString()));
    t.after(() => child.kill('SIGKILL'));
    const [socket] = (await withDeadline(
      Promise.race([
        once(server, 'connection'),
        once(child, 'exit').then(() => Promise.reject(new Error(`${whose} ended before it spoke: ${early}`))),
      ]),
      STEP_MS,
      `${whose} to start`,
    )) as [Socket];
    server.close();
    socket.on('error', () => undefined);
    const program = new Program(whose, child, socket);
    await program.qmp.greeted(STEP_MS);
    await program.execute('qmp_capabilities');
    return program;
  }

  /** What `return` held. Rejects with `Class: description`. */
  execute(command: string, args?: object): Promise<unknown> {
    return this.qmp.type(JSON.stringify({ execute: command, ...(args ? { arguments: args } : {}) }), STEP_MS);
  }

  /** What a command comes to, as a text to compare: `return` as JSON, or `Class: description`. */
  outcome(command: string, args?: object): Promise<string> {
    return this.execute(command, args).then(
      (value) => JSON.stringify(value),
      (error: unknown) => (error as Error).message,
    );
  }

  async hmp(line: string): Promise<string> {
    const answer = (await this.execute('human-monitor-command', { 'command-line': line })) as string;
    // QEMU 8 and later begin a failure so; 7.2 does not.
    return answer
      .replace(/^Error: /, '')
      .trim()
      .replaceAll('\r\n', ' ');
  }

  /** A request that tells its outcome: `read …`, `write …`, with the time that it took left out. */
  async io(device: string, command: string): Promise<string> {
    const at = this.#printed.length;
    const answer = await this.hmp(`qemu-io ${device} "${command}"`);
    if (this.whose === 'colo' || !/^(read|write|discard)/.test(command)) return answer;
    await withDeadline(
      new Promise<void>((resolve) => {
        this.#onPrinted = () => {
          if (this.#printed.slice(at).some((line) => /^(read|wrote|discard) |failed: /.test(line))) resolve();
        };
        this.#onPrinted();
      }),
      STEP_MS,
      `${command}: nothing printed`,
    );
    return this.#printed.slice(at).join(' ');
  }

  events(...names: string[]): TypedEvent[] {
    return this.qmp.events
      .filter(({ event }) => names.includes(event))
      .map(({ event, data }) => ({ event, ...(data ? { data } : {}) }));
  }

  async kill(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const gone = once(this.child, 'exit');
    this.child.kill('SIGKILL');
    await gone;
  }

  /** Ends it well, so that its images are closed. */
  async quit(): Promise<void> {
    const gone = once(this.child, 'exit');
    await this.execute('quit');
    await withDeadline(gone, STEP_MS, `${this.whose} to end`);
  }
}
