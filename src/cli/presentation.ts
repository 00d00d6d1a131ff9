/**
 * How the command that runs shows things: as JSON, with all that is known of an error, in colours. Set once, before its
 * action; a process has one command.
 */
import type { Command } from 'commander';

export interface Presentation {
  /** `img create`; empty: not known yet. */
  readonly command: string;
  readonly isJson: boolean;
  readonly isVerbose: boolean;
  /** False: --no-color. */
  readonly mayColour: boolean;
}

let current: Presentation = { command: '', isJson: false, isVerbose: false, mayColour: true };

export function presentation(): Presentation {
  return current;
}

/** From what has been parsed. `--output json` is qemu-img's spelling of `--json`. */
export function presentAs(command: Command): void {
  const { json, output, verbose, color } = command.optsWithGlobals<Readonly<Record<string, unknown>>>();
  current = {
    command: pathOf(command),
    isJson: json === true || output === 'json',
    isVerbose: verbose === true,
    mayColour: color !== false,
  };
}

/** Of a command line that is not understood; only what can be told for sure. */
export function presentWrongLine(command: Command, args: readonly string[]): void {
  current = {
    command: pathOf(command),
    isJson: args.includes('--json'),
    isVerbose: args.includes('--verbose'),
    mayColour: !args.includes('--no-color'),
  };
}

/** `img create`: without the program's own name. */
export function pathOf(command: Command): string {
  const names: string[] = [];
  for (let at = command; at.parent; at = at.parent) names.unshift(at.name());
  return names.join(' ');
}
