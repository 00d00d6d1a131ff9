/**
 * The lines of QEMU's human monitor that COLO's procedure needs, behind human-monitor-command, and a few that people
 * type by habit. As in QEMU the answer is always a text; a command's failure is a text that begins with `Error: ` (the
 * QEMU 8 and later form), a line that is no command has a text of its own (monitor/hmp.c).
 */
import { ColoError, DeviceNotFoundError, messageOf } from '../base/errors.ts';
import { parseOptions } from '../vm/command-line/keyval.ts';
import type { VirtualMachine } from '../vm/machine.ts';
import { reportOf, reportText } from './commands/compare.ts';
import { forwardLine } from './hmp-forwarding.ts';
import { runQemuIo } from './qemu-io.ts';
import { versionOf } from './version.ts';

/** One argument of a line. QEMU says `expected` when it is missing. */
interface Parameter {
  readonly expected: string;
  readonly optional?: boolean;
}

interface HmpLine {
  /** Letters of options that may stand before the arguments. */
  readonly flags?: string;
  readonly parameters: readonly Parameter[];
  readonly help: string;
  run(vm: VirtualMachine, words: readonly string[], flags: ReadonlySet<string>): Promise<string> | string;
}

const string: Parameter = { expected: 'string' };
const optionalString: Parameter = { expected: 'string', optional: true };

const LINES: ReadonlyMap<string, HmpLine> = new Map<string, HmpLine>([
  [
    'drive_add',
    {
      flags: 'n',
      parameters: [string, string],
      help: '[-n] bus options -- add a drive, with -n a block node; the bus means nothing',
      run: async (vm, [, text = ''], flags) => {
        const nodeOnly = flags.has('n');
        await vm.disks.addFromOptions(parseOptions(text), nodeOnly);
        return nodeOnly ? '' : 'OK\r\n';
      },
    },
  ],
  [
    'drive_del',
    {
      parameters: [{ expected: 'block device name' }],
      help: 'device -- remove a drive or a block node',
      run: (vm, [id = '']) => done(vm.disks.remove(id)),
    },
  ],
  [
    'qemu-io',
    {
      flags: 'd',
      parameters: [{ expected: 'block device name' }, string],
      help: '[-d] device "command" -- read, write, flush or discard as the qemu-io program would',
      run: (vm, [device = '', text = ''], flags) => {
        if (flags.has('d')) throw new DeviceNotFoundError(`Device '${device}' not found`);
        return runQemuIo(vm, device, text);
      },
    },
  ],
  ['stop', { parameters: [], help: '-- stop the guest', run: (vm) => done(vm.stop()) }],
  ['cont', { parameters: [], help: '-- let the guest run', run: (vm) => done(vm.cont()) }],
  [
    'quit',
    {
      parameters: [],
      help: '-- end the VM',
      run: (vm) => {
        vm.quit();
        return '';
      },
    },
  ],
  ['system_reset', { parameters: [], help: '-- reset the guest', run: (vm) => done(vm.reset()) }],
  [
    'system_powerdown',
    { parameters: [], help: '-- press the power button', run: (vm) => done(vm.powerdown()) },
  ],
  [
    'x_colo_lost_heartbeat',
    { parameters: [], help: '-- go on alone', run: (vm) => done(vm.migration.lostHeartbeat()) },
  ],
  [
    'announce_self',
    {
      parameters: [optionalString, optionalString],
      help: '[interfaces] [id] -- say where the NICs are, as after a migration',
      run: (vm, [interfaces, id = '']) => {
        vm.announcer.start(vm.migration.announceTimes, id, interfaces?.split(',') ?? null);
        return '';
      },
    },
  ],
  [
    'info',
    {
      parameters: [optionalString],
      help: '[subcommand] -- show what is known',
      run: (vm, [what]) => info(vm, what),
    },
  ],
  [
    'help',
    {
      parameters: [optionalString],
      help: '[command] -- show these lines',
      run: (vm, [name]) => help(vm, name),
    },
  ],
]);

const ALIASES: Readonly<Record<string, string>> = { s: 'stop', c: 'cont', q: 'quit', '?': 'help' };

const INFO: ReadonlyMap<string, (vm: VirtualMachine) => string> = new Map([
  ['status', (vm: VirtualMachine) => `VM status: ${statusText(vm)}\r\n`],
  ['name', (vm: VirtualMachine) => (vm.name === null ? '' : `${vm.name}\r\n`)],
  [
    'version',
    (vm: VirtualMachine) => {
      const { qemu, package: name } = versionOf(vm);
      return `${qemu.major}.${qemu.minor}.${qemu.micro}${name}\r\n`;
    },
  ],
  [
    'chardev',
    (vm: VirtualMachine) =>
      vm.chardevs
        .all()
        .map(({ id, filename }) => `${id}: filename=${filename}\r\n`)
        .join(''),
  ],
  [
    'colo-compare',
    (vm: VirtualMachine) =>
      vm.objects
        .comparers()
        .map((compare) => reportText(reportOf(compare)))
        .join(''),
  ],
]);

/** Runs one line. Never throws: what went wrong is in the text. */
export async function runHmp(vm: VirtualMachine, line: string, cpuIndex?: number): Promise<string> {
  const [given = '', ...words] = splitWords(line);
  if (given === '') return '';
  const name = Object.hasOwn(ALIASES, given) ? (ALIASES[given] ?? given) : given;
  const found = LINES.get(name);
  if (!found || (name === 'info' && !INFO.has(words[0] ?? ''))) {
    const answer = await forwardLine(vm, line, [name, ...words], cpuIndex);
    if (answer !== null) return answer;
  }
  if (!found) return `unknown command: '${given}'\r\n`;
  const flags = new Set<string>();
  while (words[0] !== undefined && /^-[a-z]$/.test(words[0]) && found.flags !== undefined) {
    const letter = words.shift()!.slice(1);
    if (!found.flags.includes(letter)) return usage(name, `unsupported option -${letter}`);
    flags.add(letter);
  }
  const missing = found.parameters.find(
    (parameter, at) => words[at] === undefined && parameter.optional !== true,
  );
  if (missing) return usage(name, `${missing.expected} expected`);
  if (words.length > found.parameters.length) return usage(name, 'extraneous characters at the end of line');
  try {
    return await found.run(vm, words, flags);
  } catch (error) {
    return `Error: ${messageOf(error)}\r\n`;
  }
}

/** Words are separated by blanks; a quoted one holds them, and a backslash keeps the next character as it is. */
function splitWords(line: string): string[] {
  return [...line.matchAll(/"((?:[^"\\]|\\.)*)"|(\S+)/g)].map(([, quoted, plain]) =>
    quoted === undefined ? (plain ?? '') : quoted.replaceAll(/\\(.)/g, '$1'),
  );
}

function usage(name: string, text: string): string {
  return `${name}: ${text}\r\nTry "help ${name}" for more information\r\n`;
}

async function done(work: Promise<void>): Promise<string> {
  await work;
  return '';
}

function info(vm: VirtualMachine, what: string | undefined): string {
  if (what === undefined) return [...INFO.keys()].map((name) => `info ${name}\r\n`).join('');
  const show = INFO.get(what);
  return show ? show(vm) : `unknown command: 'info ${what}'\r\n`;
}

/** QEMU's form: `running`, or `paused` with the reason in parentheses. */
function statusText(vm: VirtualMachine): string {
  const { state, isRunning } = vm.run;
  if (isRunning) return 'running';
  return state === 'paused' ? 'paused' : `paused (${state})`;
}

/** Ours, then those of the engine, which has some of the same names: what is said of ours holds. */
async function help(vm: VirtualMachine, name: string | undefined): Promise<string> {
  const shown = [...LINES].filter(([line]) => name === undefined || line === name);
  const ours = shown.map(([line, { help: text }]) => `${line} ${text}\r\n`).join('');
  if (name !== undefined && ours !== '') return ours;
  const line = name === undefined ? 'help' : `help ${name}`;
  const others = await forwardLine(vm, line, ['help']);
  if (others === null && ours === '') throw new ColoError(`unknown command: '${name ?? ''}'`);
  return ours + (others ?? '');
}
