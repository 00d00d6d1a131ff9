/** `colo vm`: one VM from QEMU's command line until it ends. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { unlink, writeFile } from 'node:fs/promises';
import { withDeadline } from '../base/async.ts';
import { ColoError, messageOf } from '../base/errors.ts';
import { systemErrorText } from '../chardev/system-errors.ts';
import { ensureSeabios } from '../guest/host-tools.ts';
import { startMonitors } from '../monitor/monitors.ts';
import { QEMU_VERSION } from '../monitor/version.ts';
import { parseCommandLine } from '../vm/command-line/parse.ts';
import { questionIn } from '../vm/command-line/question.ts';
import { VirtualMachine } from '../vm/machine.ts';
import { guardProcess } from './guard-process.ts';

const HELP = `usage: PROGRAM [QEMU options]

A VM with QEMU's command line and QMP. -accel kvm, -accel tcg and -enable-kvm run it on a stock QEMU, 7.2 or newer
(--qemu PATH names another than qemu-system-x86_64); without them it runs on the embedded v86 engine. Disks, packets,
chardevs, -incoming and monitors are this program's; what is QEMU's goes on to it, -device help included.
docs/command-line.md lists every option.
`;

/** The longest that an ending VM may take, all its parts together. */
const CLOSE_MS = 30_000;
/** setInterval's longest period. */
const FOREVER_MS = 0x7fffffff;
const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;

/** Returns the exit status. An error at start-up is one line on standard error, as QEMU's. */
export async function runVm(program: string, args: readonly string[]): Promise<number> {
  if (args.some((arg) => arg === '-h' || arg === '-help' || arg === '--help')) {
    process.stdout.write(HELP.replace('PROGRAM', program));
    return 0;
  }
  if (args.some((arg) => arg === '-version' || arg === '--version')) {
    const { major, minor, micro } = QEMU_VERSION.qemu;
    process.stdout.write(`${program} (COLO), understands QEMU ${major}.${minor}.${micro}\n`);
    return 0;
  }
  const question = questionIn(args);
  if (question) return ask(program, question);
  guardProcess();
  // A VM without a guest and without a client has nothing that Node would wait for.
  const alive = setInterval(() => undefined, FOREVER_MS);
  try {
    return await new VmProcess(program).run(args);
  } finally {
    clearInterval(alive);
  }
}

/** QEMU answers on our standard output. */
async function ask(program: string, question: { binary: string; args: string[] }): Promise<number> {
  const qemu = spawn(question.binary, question.args, { stdio: ['ignore', 'inherit', 'inherit'] });
  try {
    const [status] = (await once(qemu, 'close')) as [number | null];
    return status ?? 1;
  } catch (error) {
    process.stderr.write(`${program}: --qemu ${question.binary}: ${systemErrorText(error)}\n`);
    return 1;
  }
}

class VmProcess {
  readonly #program: string;
  readonly #starting = new AbortController();
  /** Told once nothing can be refused any more, so that a failed start is one line. */
  #warnings: string[] | null = [];
  #vm: VirtualMachine | null = null;

  constructor(program: string) {
    this.#program = program;
  }

  async run(args: readonly string[]): Promise<number> {
    // Once each: a second signal ends a process that does not come to its end.
    for (const signal of SIGNALS) process.once(signal, () => this.#signalled());
    let pidfile: string | null = null;
    let monitors: { close(): Promise<void> } | null = null;
    let status = 1;
    try {
      const config = parseCommandLine(args);
      for (const warning of config.warnings) this.#warn(warning);
      if (config.pidfile !== null) {
        await writePidfile(config.pidfile);
        pidfile = config.pidfile;
      }
      const { signal } = this.#starting;
      const waiting = (text: string): void => this.#waiting(text);
      const vm = await VirtualMachine.create(config, {
        firmware: ensureSeabios,
        warn: (text) => this.#warn(text),
        waiting,
        signal,
      });
      this.#vm = vm;
      monitors = await startMonitors(vm, { signal, waiting });
      signal.throwIfAborted();
      await vm.start();
      this.#tellWarnings();
      status = await vm.ended;
    } catch (error) {
      const isWanted = this.#starting.signal.aborted;
      this.#say(isWanted ? 'terminating on a signal before the VM was started' : messageOf(error));
    }
    const isClosed = await this.#close(monitors);
    if (pidfile !== null) await unlink(pidfile).catch(() => undefined); // somebody else has removed it
    // What did not close would keep the process.
    if (!isClosed) process.exit(1);
    return status;
  }

  /** False when that took too long; it is told then. */
  async #close(monitors: { close(): Promise<void> } | null): Promise<boolean> {
    const closing = async (): Promise<void> => {
      await monitors?.close();
      await this.#vm?.close();
    };
    try {
      await withDeadline(closing(), CLOSE_MS, 'closing the VM');
      return true;
    } catch (error) {
      this.#say(messageOf(error));
      return false;
    }
  }

  #signalled(): void {
    this.#starting.abort();
    this.#vm?.quit('host-signal');
  }

  #warn(text: string): void {
    if (this.#warnings) this.#warnings.push(text);
    else this.#say(`warning: ${text}`);
  }

  #waiting(text: string): void {
    this.#tellWarnings();
    this.#say(text);
  }

  #tellWarnings(): void {
    const warnings = this.#warnings ?? [];
    this.#warnings = null;
    for (const warning of warnings) this.#warn(warning);
  }

  /** One line, whatever the text: a hint behind a line break becomes a second sentence. */
  #say(text: string): void {
    process.stderr.write(`${this.#program}: ${text.trim().replace(/\s*\n\s*/g, '. ')}\n`);
  }
}

async function writePidfile(file: string): Promise<void> {
  try {
    await writeFile(file, `${process.pid}\n`);
  } catch (cause) {
    throw new ColoError(`cannot create PID file: Could not create '${file}': ${systemErrorText(cause)}`, {
      cause,
    });
  }
}
