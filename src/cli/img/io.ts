/**
 * Where a command of `colo img` writes and how it ends, so that tests run commands in their own process. Failures are
 * told in qemu-img's manner: one line on standard error, and an exit code.
 */
import { messageOf } from '../../base/errors.ts';
import { failureText } from '../failure.ts';
import { presentation } from '../presentation.ts';

export interface ImgIo {
  /** Standard output. */
  out(text: string): void;
  /** Standard error. */
  err(text: string): void;
  /** Standard error is a terminal: progress is a bar. */
  readonly isTerminal: boolean;
  exit(code: number): void;
}

export const processIo: ImgIo = {
  out: (text) => void process.stdout.write(text),
  err: (text) => void process.stderr.write(text),
  isTerminal: process.stderr.isTTY,
  exit: (code) => {
    process.exitCode = code;
  },
};

/** Runs a command: its number is the exit code; an error is one line and `failureCode`. */
export async function finish(io: ImgIo, run: () => Promise<number>, failureCode = 1): Promise<void> {
  try {
    io.exit(await run());
  } catch (error) {
    tell(io, error, failureCode);
    io.exit(failureCode);
  }
}

function tell(io: ImgIo, error: unknown, exitCode: number): void {
  const { isJson, isVerbose, command } = presentation();
  if (isJson || isVerbose)
    io.err(failureText({ ...presentation(), command: isJson ? command : 'img' }, error, { exitCode }));
  else report(io, messageOf(error));
}

/** One line on standard error, as qemu-img begins them. QEMU's hints on further lines are joined to it. */
export function report(io: ImgIo, message: string): void {
  io.err(`colo img: ${message.trimEnd().replaceAll(/\n\s*/g, '. ')}\n`);
}

export function warn(io: ImgIo, message: string): void {
  if (presentation().isJson)
    io.err(`${JSON.stringify({ warning: { command: presentation().command, message } })}\n`);
  else report(io, `warning: ${message}`);
}

/** Tells an error and gives its exit code: its own if it has one. */
export function finishWith(io: ImgIo, error: unknown, failureCode: number): number {
  const own = (error as { exitCode?: unknown } | null)?.exitCode;
  const exitCode = typeof own === 'number' ? own : failureCode;
  tell(io, error, exitCode);
  return exitCode;
}
