/**
 * Runs one host program with an argument vector and gives its standard output.
 *
 * It never goes through a shell and does not interpret output: a non-zero exit is a GuestBuildError that carries the
 * last lines the program wrote to stderr.
 */
import { execFile } from 'node:child_process';
import { GuestBuildError } from './errors.ts';

/** How to run a program: extra environment on top of ours, and the directory to run it in. */
export interface RunOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly signal?: AbortSignal;
}

const MAX_OUTPUT = 64 * 1024 * 1024;
const ERROR_LINES = 6;

/** Runs `program` and resolves with its stdout as text. */
export async function run(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<string> {
  // The C locale keeps every message and number format the same on all hosts; some are parsed.
  const env = { ...process.env, LC_ALL: 'C', ...options.env };
  const { cwd, signal } = options;
  return await new Promise((resolve, reject) => {
    const child = execFile(
      program,
      [...args],
      { env, maxBuffer: MAX_OUTPUT, ...(cwd === undefined ? {} : { cwd }), ...(signal ? { signal } : {}) },
      (error, stdout, stderr) => {
        if (error === null) {
          resolve(stdout);
          return;
        }
        const tail = stderr.trim().split('\n').slice(-ERROR_LINES).join('\n  ');
        const what =
          error.code === 'ENOENT' ? 'is not installed' : `failed (${String(error.code ?? error.signal)})`;
        reject(
          new GuestBuildError(`${program} ${what}${tail === '' ? '' : `:\n  ${tail}`}`, { cause: error }),
        );
      },
    );
    child.stdin?.end();
  });
}
