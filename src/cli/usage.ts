/**
 * What every command of the program has: --verbose, --no-color, and mistakes of the command line told in one line with the
 * way to its help. `vm` takes QEMU's options and has none of it.
 */
import type { Command } from 'commander';
import { ParameterError } from '../base/errors.ts';
import { failureText } from './failure.ts';
import { pathOf, presentAs, presentation, presentWrongLine } from './presentation.ts';

export const VERBOSE = ['--verbose', 'with an error: its causes, and where it came from'] as const;
export const NO_COLOR = [
  '--no-color',
  'no colours (also: NO_COLOR; FORCE_COLOR wants them without a terminal)',
] as const;

/** Given to every command, and told once where they would be told often. */
export const GLOBAL_OPTIONS = [VERBOSE, NO_COLOR];

/** Call it when all commands are there. */
export function commonToAll(program: Command): void {
  program.hook('preAction', (_program, command) => presentAs(command));
  for (const command of everyBelow(program)) {
    if (command.name() === 'vm') continue;
    if (command.commands.length === 0 || command === program) addCommonOptions(command);
    const usageStatus = pathOf(command).startsWith('img ') ? null : 2;
    command
      .configureOutput({
        outputError: (text, write) => {
          presentWrongLine(command, process.argv.slice(2));
          write(usageText(command, text, usageStatus ?? 1));
        },
      })
      .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : (usageStatus ?? error.exitCode)));
  }
}

function addCommonOptions(command: Command): void {
  // `colo qmp` has one that shows what is sent, too.
  if (!command.options.some(({ long }) => long === VERBOSE[0])) command.option(...VERBOSE);
  command.option(...NO_COLOR);
}

function everyBelow(command: Command): Command[] {
  return [command, ...command.commands.flatMap(everyBelow)];
}

/** Commander's `error: unknown option '--x'\n(Did you mean --y?)`. */
function usageText(command: Command, text: string, exitCode: number): string {
  const path = pathOf(command);
  const [what = '', ...more] = text.trim().split('\n');
  const meant = /\(Did you mean (.*)\?\)/.exec(more.join(' '))?.[1];
  const error = new ParameterError(what.replace(/^error: /, '').replace(/\.$/, ''));
  const help = `see ${['colo', path, '--help'].filter(Boolean).join(' ')}`;
  const hint = meant === undefined ? `; ${help}` : `; did you mean ${meant}? (${help})`;
  return failureText({ ...presentation(), command: path, isVerbose: false }, error, { hint, exitCode });
}
