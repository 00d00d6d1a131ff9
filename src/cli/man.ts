/**
 * `colo man`: one manual page of the whole program, made of the commands' own tree, plain or as man(7) source. What a
 * command means is said in its description and in docs/; here it is put in the order that a manual page has.
 */
import type { Command } from 'commander';
import { EXIT_CODES } from './exit-codes.ts';
import { GLOBAL_OPTIONS } from './usage.ts';
import { everyCommand, treeOf, type CommandNode, type OptionNode } from './tree.ts';

export function registerMan(program: Command): void {
  program
    .command('man')
    .description('the manual page: every command and option, with examples')
    .option('--roff', 'as source for man(1): colo man --roff > /usr/local/share/man/man1/colo.1')
    .option('--json', 'the tree of commands as JSON, for programs')
    .action(async ({ roff, json }: { roff?: boolean; json?: boolean }) => {
      const { createProgram, VERSION } = await import('./program.ts');
      const tree = treeOf(await createProgram());
      if (json) process.stdout.write(`${JSON.stringify({ version: VERSION, ...tree }, null, 2)}\n`);
      else process.stdout.write(roff ? roffPage(tree, VERSION) : plainPage(tree));
    });
}

interface Section {
  readonly title: string;
  /** A term and what is said of it; without a term: a paragraph. */
  readonly entries: readonly { readonly term?: string; readonly text: string }[];
}

function sectionsOf(tree: CommandNode): Section[] {
  const commands = everyCommand(tree).filter(({ path }) => path !== '');
  return [
    { title: 'NAME', entries: [{ text: `colo - ${tree.description}` }] },
    { title: 'SYNOPSIS', entries: [{ text: 'colo COMMAND [OPTIONS] [ARGUMENTS]' }] },
    ...commands.map((command) => ({
      title: `colo ${command.path}`.toUpperCase().replace(/^COLO/, 'COMMAND'),
      entries: [
        { text: synopsis(command) },
        { text: sentence(command.description) },
        ...command.arguments
          .filter(({ description }) => description !== '')
          .map(({ name, description }) => ({ term: name, text: sentence(description) })),
        ...command.options
          .filter((option) => option.long !== '--help' && !isToldOnce(command, option))
          .map((option) => ({ term: flags(option), text: sentence(describe(option)) })),
        ...command.examples.map((example) => ({ term: 'Example', text: example })),
      ],
    })),
    {
      title: 'COMMON OPTIONS',
      entries: [
        ...GLOBAL_OPTIONS.map(([term, text]) => ({ term, text: sentence(text) })),
        { text: 'Of every command that asks a node also:' },
        ...(commands.find(isAsking)?.options ?? [])
          .filter(({ long }) => COMMON.includes(long ?? ''))
          .map((option) => ({ term: flags(option), text: sentence(describe(option)) })),
      ],
    },
    {
      title: 'ENVIRONMENT',
      entries: [
        { term: 'COLO_NODE', text: 'The node that commands ask without --node: unix:PATH or HOST:PORT.' },
        { term: 'COLO_TLS', text: 'The folder of certificates that they use without --tls-certificates.' },
        { term: 'NO_COLOR', text: 'No colours, as --no-color.' },
        { term: 'FORCE_COLOR', text: 'Colours also without a terminal; 0: none.' },
        { term: 'COLO_LOG', text: 'trace, debug, info, warn or error: what is logged to standard error.' },
      ],
    },
    {
      title: 'EXIT STATUS',
      entries: [
        {
          text: 'Of all commands but vm, img and demo; docs/errors.md has theirs.',
        },
        ...EXIT_CODES.map(([code, meaning]) => ({ term: String(code), text: sentence(meaning) })),
      ],
    },
  ];
}

/** Said once. */
const COMMON = ['--node', '--tls-certificates', '--json'];

function isToldOnce(command: CommandNode, { long, description }: OptionNode): boolean {
  const isGlobal = GLOBAL_OPTIONS.some(([name, text]) => name === long && text === description);
  return isGlobal || (isAsking(command) && COMMON.includes(long ?? ''));
}

function isAsking({ options }: CommandNode): boolean {
  return options.some(({ long }) => long === '--node');
}

function synopsis({ path, arguments: args, options }: CommandNode): string {
  const words = args.map(({ name, isRequired, isVariadic }) => {
    const word = `${name.toUpperCase()}${isVariadic ? '...' : ''}`;
    return isRequired ? word : `[${word}]`;
  });
  return ['colo', path, ...(options.length > 0 ? ['[OPTIONS]'] : []), ...words].join(' ');
}

function flags({ short, long, value, isValueRequired }: OptionNode): string {
  const names = [short, long].filter((name) => name !== null).join(', ');
  if (value === null) return names;
  return `${names} ${isValueRequired ? value.toUpperCase() : `[${value.toUpperCase()}]`}`;
}

function describe({ description, choices }: OptionNode): string {
  return choices.length > 0 ? `${description}: ${choices.join(', ')}` : description;
}

function sentence(text: string): string {
  const first = text.slice(0, 1).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) || first === '' ? first : `${first}.`;
}

const WIDTH = 80;

export function plainPage(tree: CommandNode): string {
  const lines = sectionsOf(tree).flatMap(({ title, entries }) => [
    title,
    ...entries.flatMap(({ term, text }) =>
      term === undefined ? [...wrap(text, 7), ''] : [`       ${term}`, ...wrap(text, 14), ''],
    ),
  ]);
  return `${lines.join('\n')}\n`;
}

function wrap(text: string, indent: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && indent + line.length + 1 + word.length > WIDTH) {
      lines.push(line);
      line = '';
    }
    line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line].map((content) => ' '.repeat(indent) + content);
}

/** man(7). */
export function roffPage(tree: CommandNode, version: string): string {
  const lines = sectionsOf(tree).flatMap(({ title, entries }) => [
    `.SH "${escaped(title)}"`,
    ...entries.flatMap(({ term, text }) =>
      term === undefined ? ['.PP', escaped(text)] : ['.TP', `.B ${escaped(term)}`, escaped(text)],
    ),
  ]);
  return `.TH COLO 1 "" "colo ${version}" "User Commands"\n${lines.join('\n')}\n`;
}

/** Backslashes, hyphens that are typed, and a control character at the beginning of a line. */
function escaped(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll('"', '\\(dq')
    .replace(/^[.']/, '\\&$&');
}
