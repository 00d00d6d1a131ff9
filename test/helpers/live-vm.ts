/** A VM on a stock QEMU (TCG, firmware only) in this process, from a command line, with its events written down. */
import { execFileSync } from 'node:child_process';
import type { TestContext } from 'node:test';
import { Deferred, withDeadline } from '../../src/base/async.ts';
import { commands } from '../../src/monitor/commands/index.ts';
import { parseCommandLine } from '../../src/vm/command-line/parse.ts';
import type { VmEvent } from '../../src/vm/events.ts';
import { VirtualMachine } from '../../src/vm/machine.ts';

const STEP_MS = 60_000;

/** Why the tests on it are skipped, or false. */
export const noQemu = ((): string | false => {
  try {
    execFileSync('qemu-system-x86_64', ['--version']);
    return false;
  } catch {
    return 'qemu-system-x86_64 is not installed (Debian: qemu-system-x86)';
  }
})();

export class QemuVm {
  readonly vm: VirtualMachine;
  readonly events: VmEvent[] = [];
  readonly #waiting = new Set<() => void>();

  constructor(vm: VirtualMachine) {
    this.vm = vm;
    vm.events.subscribe((event) => {
      this.events.push(event);
      for (const look of this.#waiting) look();
    });
  }

  execute(name: string, args?: unknown): Promise<unknown> {
    return commands.execute(this.vm, name, args);
  }

  hmp(line: string): Promise<string> {
    return this.execute('human-monitor-command', { 'command-line': line }) as Promise<string>;
  }

  /** `Class: description` of a command that has to fail. */
  async failure(name: string, args?: unknown): Promise<string> {
    try {
      await this.execute(name, args);
    } catch (error) {
      const { qmpClass = 'bug' } = error as { qmpClass?: string };
      return `${qmpClass}: ${(error as Error).message}`;
    }
    throw new Error(`${name} ${JSON.stringify(args)} did not fail`);
  }

  /** The first event of that name, that has come or comes. */
  async event(name: string, accepts: (event: VmEvent) => boolean = () => true): Promise<VmEvent> {
    const found = new Deferred<VmEvent>();
    const look = (): void => {
      const event = this.events.find((each) => each.event === name && accepts(each));
      if (event) found.resolve(event);
    };
    this.#waiting.add(look);
    look();
    try {
      return await withDeadline(found.promise, STEP_MS, `event ${name}`);
    } finally {
      this.#waiting.delete(look);
    }
  }

  async status(): Promise<string> {
    return ((await this.execute('query-status')) as { status: string }).status;
  }
}

/** Words are separated by blanks. The VM is closed when the test ends. */
export async function qemuVm(t: Pick<TestContext, 'after'>, line = ''): Promise<QemuVm> {
  const words = line.split(' ').filter((word) => word !== '');
  const config = parseCommandLine([
    '-accel',
    'tcg',
    '-m',
    '16',
    '-nodefaults',
    ...(words.includes('-serial') ? [] : ['-serial', 'null']),
    ...words,
  ]);
  const vm = await VirtualMachine.create(config, {
    firmware: () => Promise.reject(new Error('QEMU has its own')),
    warn: () => undefined,
  });
  t.after(() => vm.close());
  return new QemuVm(vm);
}

/** What the guest says on its first serial port. */
export class Console {
  text = '';
  readonly #waiting = new Set<() => void>();

  constructor({ vm }: QemuVm) {
    const [serial] = vm.engine?.serials ?? [];
    if (!serial) throw new Error('no serial port');
    serial.onData = (bytes) => {
      this.text += Buffer.from(bytes).toString('latin1');
      for (const look of this.#waiting) look();
    };
  }

  async until(text: string): Promise<void> {
    const found = new Deferred<void>();
    const look = (): void => {
      if (this.text.includes(text)) found.resolve();
    };
    this.#waiting.add(look);
    look();
    try {
      await withDeadline(found.promise, STEP_MS, `the guest says ${text}`);
    } finally {
      this.#waiting.delete(look);
    }
  }
}
