/** `colo img` in the test's own process: starting a program for each command would take half a second. */
import { Command, CommanderError } from 'commander';
import { registerImg } from '../../src/cli/img.ts';

export interface ImgResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs one command of `colo img` to its end, in this process. */
export async function ours(...args: string[]): Promise<ImgResult> {
  const result = { code: 0, stdout: '', stderr: '' };
  const program = new Command('colo');
  registerImg(program, {
    out: (text) => (result.stdout += text),
    err: (text) => (result.stderr += text),
    isTerminal: false,
    exit: (code) => (result.code = code),
  });
  for (const command of [program, ...program.commands, ...program.commands.flatMap((img) => img.commands)]) {
    command.exitOverride().configureOutput({
      writeOut: (text) => (result.stdout += text),
      writeErr: (text) => (result.stderr += text),
    });
  }
  try {
    await program.parseAsync(['img', ...args], { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    result.code = error.exitCode;
  }
  return result;
}
