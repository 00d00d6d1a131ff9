/**
 * The lines of QEMU's human monitor that COLO's procedure needs, behind human-monitor-command. As in QEMU the answer
 * is always a text; a failure is a text that begins with `Error: ` (the QEMU 8 and later form).
 */
import { messageOf } from '../base/errors.ts';
import { parseOptions } from '../vm/command-line/keyval.ts';
import type { VirtualMachine } from '../vm/machine.ts';

type HmpLine = (vm: VirtualMachine, words: readonly string[]) => Promise<string> | string;

const LINES: ReadonlyMap<string, HmpLine> = new Map<string, HmpLine>([
  ['drive_add', driveAdd],
  [
    'drive_del',
    async (vm, [id = '']) => {
      await vm.disks.remove(id);
      return '';
    },
  ],
  [
    'stop',
    async (vm) => {
      await vm.stop();
      return '';
    },
  ],
  [
    'cont',
    async (vm) => {
      await vm.cont();
      return '';
    },
  ],
  [
    'info',
    (vm, [what]) => {
      if (what === 'status') return `VM status: ${vm.run.state}\r\n`;
      if (what === 'name') return `${vm.name ?? ''}\r\n`;
      return `unknown command: 'info ${what ?? ''}'\r\n`;
    },
  ],
]);

/** `drive_add [-n] BUS OPTIONS`. */
async function driveAdd(vm: VirtualMachine, words: readonly string[]): Promise<string> {
  const nodeOnly = words[0] === '-n';
  const [, text] = nodeOnly ? words.slice(1) : words;
  if (text === undefined) throw new Error('drive_add: string expected');
  await vm.disks.addFromOptions(parseOptions(text), nodeOnly);
  return nodeOnly ? '' : 'OK\r\n';
}

/** Runs one line. Never throws: what went wrong is in the text. */
export async function runHmp(vm: VirtualMachine, line: string): Promise<string> {
  const [name = '', ...words] = line.trim().split(/\s+/);
  const run = LINES.get(name);
  if (!run) return `unknown command: '${name}'\r\n`;
  try {
    return await run(vm, words);
  } catch (error) {
    return `Error: ${messageOf(error)}\r\n`;
  }
}
