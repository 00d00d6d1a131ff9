/** A VM whose guest a stock QEMU executes, in this process; and what a QEMU by itself says of the same options. */
import { spawnSync } from 'node:child_process';
import type { TestContext } from 'node:test';
import { commands } from '../../src/monitor/commands/index.ts';
import { parseCommandLine } from '../../src/vm/command-line/parse.ts';
import { VirtualMachine } from '../../src/vm/machine.ts';

export const QEMU = 'qemu-system-x86_64';
const version = spawnSync(QEMU, ['--version'], { encoding: 'utf8' }).stdout as string | null;
export const skipQemu = version ? false : `${QEMU} is not installed`;
/** For what one version says or does. */
export const skipQemu72 = version?.includes('version 7.2') === true ? false : 'QEMU 7.2 is not installed';

export interface QemuVm {
  readonly vm: VirtualMachine;
  readonly warnings: readonly string[];
  readonly events: { readonly event: string; readonly data?: Record<string, unknown> }[];
  readonly execute: (name: string, args?: unknown) => Promise<unknown>;
}

/** It stands still until it is told to run. Closed when the test ends. */
export async function qemuVm(t: Pick<TestContext, 'after'>, words: readonly string[]): Promise<QemuVm> {
  const config = parseCommandLine(['-accel', 'tcg', '-S', '-m', '32', ...words]);
  const warnings: string[] = [];
  const vm = await VirtualMachine.create(config, {
    firmware: () => Promise.reject(new Error('QEMU has a firmware')),
    warn: (text) => warnings.push(text),
  });
  t.after(() => vm.close());
  await vm.start();
  const events: QemuVm['events'] = [];
  vm.events.subscribe((event) => events.push(event));
  return { vm, warnings, events, execute: (name, args) => commands.execute(vm, name, args) };
}

/** The replies to commands, or what QEMU said when it would not start. */
export function askQemu(words: readonly string[], asked: readonly string[]): unknown[] | string {
  const lines = ['qmp_capabilities', ...asked, 'quit'].map((execute) => JSON.stringify({ execute }));
  const { stdout, stderr } = spawnSync(
    QEMU,
    ['-accel', 'tcg', '-S', '-m', '32', '-display', 'none', '-qmp', 'stdio', ...words],
    { input: `${lines.join('\n')}\n`, encoding: 'utf8', timeout: 60_000 },
  );
  const replies = stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Record<string, unknown>)
    .filter((reply) => 'return' in reply);
  const answers = replies.slice(1, -1).map((reply) => reply['return']);
  return replies.length > 0 ? answers : (stderr.trim().split('\n').at(-1) ?? '');
}
