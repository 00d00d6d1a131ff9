/**
 * The human monitor's `qemu-io DEVICE "command"`: single requests to a block device or node, without a guest. The
 * commands are a subset of the qemu-io program's (QEMU qemu-io-cmds.c; what they say was compared with QEMU 7.2): read,
 * write, flush, discard, their aio_ forms, length, and the breakpoints of a blkdebug node.
 *
 * Not as in QEMU: what a command says is in the answer (QEMU prints it on its standard output, so that a QMP client
 * never sees it), and without the line about the time it took. What an aio_ command says comes with the answer of the
 * next command after it has ended.
 */
import { ColoError, ERRNO_TEXT, errnoOf, messageOf } from '../base/errors.ts';
import { eventNamed } from '../block/drivers/blkdebug.ts';
import { Blkdebug } from '../block/filters/blkdebug.ts';
import type { BlockNode } from '../block/node.ts';
import type { VirtualMachine } from '../vm/machine.ts';

const MAX_REQUEST_BYTES = 32 * 1024 * 1024;
const MAX_BACKGROUND = 16;
/** What is written without -P, and what memory a read starts from. */
const DEFAULT_PATTERN = 0xcd;
const UNITS: Readonly<Record<string, number>> = { k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

/** Commands that run in the background of one VM, and what they said since somebody asked. */
interface Background {
  readonly running: Set<Promise<void>>;
  said: string;
}
const backgrounds = new WeakMap<VirtualMachine, Background>();

interface Command {
  /** Options without and with a value. */
  readonly switches?: string;
  readonly values?: string;
  readonly parameters: number;
  readonly usage: string;
  run(
    node: BlockNode,
    words: readonly string[],
    options: ReadonlyMap<string, string>,
  ): Promise<string> | string;
}

const IO: ReadonlyMap<string, Command> = new Map<string, Command>([
  [
    'read',
    {
      switches: 'q',
      values: 'Psl',
      parameters: 2,
      usage: '[-q] [-P pattern [-s off] [-l len]] off len',
      run: read,
    },
  ],
  [
    'write',
    { switches: 'qfzu', values: 'P', parameters: 2, usage: '[-fqzu] [-P pattern] off len', run: write },
  ],
  ['discard', { switches: 'q', parameters: 2, usage: '[-q] off len', run: discard }],
  ['flush', { parameters: 0, usage: '', run: flush }],
  ['length', { parameters: 0, usage: '', run: (node) => `${node.lengthBytes}\n` }],
  ['break', { parameters: 2, usage: 'event tag', run: breakAt }],
  ['remove_break', { parameters: 1, usage: 'tag', run: (node, [tag = '']) => removeBreak(node, tag) }],
  ['resume', { parameters: 1, usage: 'tag', run: (node, [tag = '']) => resume(node, tag) }],
  ['wait_break', { parameters: 1, usage: 'tag', run: waitBreak }],
]);

/** Runs one command. What it says is the answer. Throws ColoError when there is no such device. */
export async function runQemuIo(vm: VirtualMachine, device: string, text: string): Promise<string> {
  const node = vm.graph.find(device);
  if (!node) throw new ColoError(`Cannot find device='' nor node-name='${device}'`);
  let background = backgrounds.get(vm);
  if (!background) backgrounds.set(vm, (background = { running: new Set(), said: '' }));
  const [name = '', ...words] = text.trim().split(/\s+/);
  let said: string;
  if (name === 'aio_flush') {
    await Promise.all(background.running);
    said = '';
  } else {
    const isBackground = name.startsWith('aio_');
    const command = IO.get(isBackground ? name.slice(4) : name);
    if (!command || (isBackground && !/^aio_(read|write)$/.test(name)))
      said = `command "${name}" not found\n`;
    else if (!isBackground) said = await attempt(command, name, node, words);
    else if (background.running.size >= MAX_BACKGROUND)
      said = `More than ${MAX_BACKGROUND} requests in flight\n`;
    else {
      keep(background, attempt(command, name, node, words));
      said = '';
    }
  }
  const before = background.said;
  background.said = '';
  return crlf(before + said);
}

function keep(background: Background, work: Promise<string>): void {
  const ended = work.then((text) => {
    background.said += text;
    background.running.delete(ended);
  });
  background.running.add(ended);
}

/** Never rejects: a failure is what the command says. */
async function attempt(
  command: Command,
  name: string,
  node: BlockNode,
  words: readonly string[],
): Promise<string> {
  try {
    const [options, rest] = readOptions(command, words);
    if (rest.length !== command.parameters) throw new UsageError();
    return await command.run(node, rest, options);
  } catch (error) {
    if (error instanceof UsageError) return `${name} ${command.usage}\n`;
    return `${messageOf(error)}\n`;
  }
}

class UsageError extends ColoError {
  constructor() {
    super('usage');
  }
}

function readOptions(command: Command, words: readonly string[]): [Map<string, string>, string[]] {
  const options = new Map<string, string>();
  const rest = [...words];
  while (rest[0]?.startsWith('-')) {
    const letters = (rest.shift() ?? '').slice(1);
    for (const letter of letters) {
      if (command.switches?.includes(letter)) options.set(letter, '');
      else if (command.values?.includes(letter) && rest.length > 0) options.set(letter, rest.shift() ?? '');
      else throw new UsageError();
    }
  }
  return [options, rest];
}

// --- the commands ---

async function read(
  node: BlockNode,
  words: readonly string[],
  options: ReadonlyMap<string, string>,
): Promise<string> {
  const [offset, length] = range(words);
  const bytes = Buffer.alloc(length, DEFAULT_PATTERN);
  await io('read', () => node.read(offset, bytes));
  const read = report('read', offset, length, options);
  const pattern = patternOf(options);
  if (pattern === null) return read;
  const from = sizeOf(options.get('s') ?? '0');
  const count = options.has('l') ? sizeOf(options.get('l') ?? '') : length - from;
  if (from + count > length) throw new ColoError('pattern verification range exceeds end of read data');
  if (bytes.subarray(from, from + count).every((byte) => byte === pattern)) return read;
  return `Pattern verification failed at offset ${offset + from}, ${count} bytes
${read}`;
}

async function write(
  node: BlockNode,
  words: readonly string[],
  options: ReadonlyMap<string, string>,
): Promise<string> {
  const [offset, length] = range(words, options.has('z'));
  const flags = { fua: options.has('f') };
  if (options.has('z')) {
    if (options.has('P')) return '-z and -P cannot be specified at the same time\n';
    await io('write', () => node.writeZeroes(offset, length, { ...flags, unmap: options.has('u') }));
  } else if (options.has('u')) return '-u requires -z to be specified\n';
  else {
    const bytes = Buffer.alloc(length, patternOf(options) ?? DEFAULT_PATTERN);
    await io('write', () => node.write(offset, bytes, flags));
  }
  return report('wrote', offset, length, options);
}

async function discard(
  node: BlockNode,
  words: readonly string[],
  options: ReadonlyMap<string, string>,
): Promise<string> {
  const [offset, length] = range(words, true);
  await io('discard', () => node.discard(offset, length));
  return report('discard', offset, length, options);
}

async function flush(node: BlockNode): Promise<string> {
  await io('flush', () => node.flush());
  return '';
}

function breakAt(node: BlockNode, [event = '', tag = '']: readonly string[]): string {
  try {
    debugged(node)?.breakAt(eventNamed(event), tag);
  } catch {
    return 'Could not set breakpoint: No such file or directory\n';
  }
  return debugged(node) ? '' : 'Could not set breakpoint: Operation not supported\n';
}

function removeBreak(node: BlockNode, tag: string): string {
  if (debugged(node)?.removeBreak(tag)) return '';
  return `Could not remove breakpoint ${tag}: No such file or directory\n`;
}

function resume(node: BlockNode, tag: string): string {
  return debugged(node)?.resume(tag) ? '' : 'Could not resume request: No such file or directory\n';
}

async function waitBreak(node: BlockNode, [tag = '']: readonly string[]): Promise<string> {
  const met = (await debugged(node)?.waitBreak(tag)) ?? false;
  return met ? '' : `Could not wait for breakpoint ${tag}: No such file or directory\n`;
}

// --- inside ---

/** The blkdebug node at `node` or below it on the way to its file, as QEMU looks for it. */
function debugged(node: BlockNode): Blkdebug | null {
  for (let at: BlockNode | undefined = node; at; at = at.driver.children().get('file')) {
    if (at.driver instanceof Blkdebug) return at.driver;
  }
  return null;
}

async function io(what: string, act: () => Promise<void>): Promise<void> {
  try {
    await act();
  } catch (error) {
    throw new ColoError(`${what} failed: ${ERRNO_TEXT[errnoOf(error)]}`, { cause: error });
  }
}

function report(verb: string, offset: number, length: number, options: ReadonlyMap<string, string>): string {
  return options.has('q') ? '' : `${verb} ${length}/${length} bytes at offset ${offset}\n`;
}

function range([offset = '', length = '']: readonly string[], isDataless = false): [number, number] {
  const bytes = sizeOf(length);
  if (!isDataless && bytes > MAX_REQUEST_BYTES) {
    throw new ColoError(`length cannot exceed ${MAX_REQUEST_BYTES}, given ${length}`);
  }
  return [sizeOf(offset), bytes];
}

function patternOf(options: ReadonlyMap<string, string>): number | null {
  const text = options.get('P');
  if (text === undefined) return null;
  const pattern = /^(0x[0-9a-fA-F]+|\d+)$/.test(text) ? Number(text) : NaN;
  if (!(pattern <= 255)) throw new ColoError(`${text} is not a valid pattern byte`);
  return pattern;
}

function sizeOf(text: string): number {
  const [, digits = '', unit = ''] = /^(0x[0-9a-fA-F]+|\d+)([kmgt]?)$/i.exec(text) ?? [];
  const bytes = digits === '' ? NaN : Number(digits) * (UNITS[unit.toLowerCase()] ?? 1);
  if (!Number.isSafeInteger(bytes)) throw new ColoError(`non-numeric offset or length argument -- ${text}`);
  return bytes;
}

function crlf(text: string): string {
  return text.replaceAll('\n', '\r\n');
}
