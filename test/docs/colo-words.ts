/**
 * Whether a `colo` command line would be taken: by commander's own tree without running anything, and for `colo vm` by the
 * parser of QEMU's options. What stands for something else (CAPS, `<file>`, `…`, `$VARIABLE`) is held against nobody.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { CommanderError, type Command } from 'commander';
import { messageOf } from '../../src/base/errors.ts';
import { createProgram } from '../../src/cli/program.ts';
import { parseCommandLine } from '../../src/vm/command-line/parse.ts';
import { TOP } from './markdown.ts';

const program = await createProgram();
silence(program);

function silence(command: Command): void {
  command.exitOverride().configureOutput({ writeErr: () => undefined, writeOut: () => undefined });
  for (const below of command.commands) silence(below);
}

/** Whether a word stands for one that the reader puts in its place, or the shell. */
const isOpen = (word: string): boolean =>
  /[$`…*]|\.\.\.$|<[^>]+>|(^|[^\w])[A-Z][A-Z0-9_]+($|[^\w])/.test(word);

/** Why not; null when it would. `isWhole`: it is to be typed as it stands, so nothing may be missing. */
export function whyWrong(words: readonly string[], isWhole = true): string | null {
  if (words[0] === 'test') return whyNoTest(words.slice(1));
  const given = words.filter((word) => word !== '…' && word !== '...');
  const isCut = !isWhole || given.length < words.length;
  try {
    if (given[0] === 'vm') checkVm(given.slice(1), isCut);
    else check(program, given, isCut, 'colo');
    return null;
  } catch (error) {
    return messageOf(error);
  }
}

function check(command: Command, given: readonly string[], isCut: boolean, name: string): void {
  let operands: string[];
  let unknown: string[];
  try {
    ({ operands, unknown } = command.parseOptions([...given]));
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    // A value that stands for something else cannot be one that the option takes.
    if (error.code === 'commander.invalidArgument' && given.some(isOpen)) return;
    if (error.code === 'commander.optionMissingArgument' && isCut) return;
    throw new Error(`${name}: ${error.message}`, { cause: error });
  }
  if (command.commands.length > 0) {
    const [word, ...more] = operands;
    if (word === undefined) {
      const stray = unknown.find((option) => !['-h', '--help', '-V', '--version'].includes(option));
      if (stray !== undefined) throw new Error(`${name}: unknown option '${stray}'`);
      return;
    }
    const below = command.commands.find((one) => one.name() === word || one.aliases().includes(word));
    if (below) check(below, [...more, ...unknown], isCut, `${name} ${word}`);
    else if (!isOpen(word)) throw new Error(`${name}: no command '${word}'`);
    return;
  }
  const stray = unknown.find(
    (word) => word.startsWith('-') && word !== '-' && word !== '--help' && word !== '-h',
  );
  if (stray !== undefined) throw new Error(`${name}: unknown option '${stray}'`);
  checkArguments(command, operands, isCut, name);
}

function checkArguments(command: Command, operands: readonly string[], isCut: boolean, name: string): void {
  const slots = command.registeredArguments;
  for (const [at, slot] of slots.entries()) {
    const word = operands[at];
    if (word === undefined) {
      // Without any it is the command's name.
      if (slot.required && !isCut) throw new Error(`${name}: <${slot.name()}> is missing`);
    } else if (slot.argChoices && !isOpen(word) && !slot.argChoices.includes(word))
      throw new Error(`${name}: '${word}' is none of ${slot.argChoices.join(', ')}`);
  }
  const isVariadic = slots.at(-1)?.variadic === true;
  if (!isVariadic && operands.length > slots.length && !operands.some((word) => /[$…]/.test(word)))
    throw new Error(`${name}: too many arguments: ${operands.slice(slots.length).join(' ')}`);
}

/** With open words only the options' names are checked, each for itself. */
function checkVm(words: readonly string[], isCut: boolean): void {
  if (!isCut && !words.some(isOpen)) {
    parseCommandLine([...words]);
    return;
  }
  for (const word of words.filter((one) => /^--?[A-Za-z]/.test(one))) {
    try {
      parseCommandLine([word]);
    } catch (error) {
      if (messageOf(error).includes('invalid option'))
        throw new Error(`colo vm has no ${word}`, { cause: error });
    }
  }
}

/** The launcher's own: groups and files of scripts/test.js. */
function whyNoTest(words: readonly string[]): string | null {
  for (const word of words.filter((one) => !isOpen(one))) {
    const isThere =
      word === 'check' || existsSync(path.join(TOP, word.endsWith('.ts') ? word : `test/${word}`));
    if (!isThere) return `colo test: there is no ${word}`;
  }
  return null;
}
