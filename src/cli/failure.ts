/**
 * An error for whoever typed the command: one line that says what failed and what to do next; with --verbose the causes and
 * where it came from below it; with --json an object on one line. Always on standard error.
 */
import { NodeUnreachableError } from '../api/errors.ts';
import { ClosedError, ColoError, messageOf, TimeoutError } from '../base/errors.ts';
import { NoSuchHostError, NoSuchVmError } from '../ha/errors.ts';
import { SpecFileError } from '../ha/spec/spec-error.ts';
import { printable } from './cluster/text.ts';
import { exitCodeOf } from './exit-codes.ts';
import { presentation, type Presentation } from './presentation.ts';

/** A cause that has itself as its cause, or a long chain, ends somewhere. */
const MAX_CAUSES = 10;

export interface FailureOptions {
  /** Behind the message, in place of what the error's class suggests: `; is the monitor there?`. */
  readonly hint?: string;
  /** Where the codes are not those of exit-codes.ts. */
  readonly exitCode?: number;
}

/** Tells it and sets the exit status. */
export function tellFailure(command: string, error: unknown, options: FailureOptions = {}): void {
  process.stderr.write(failureText({ ...presentation(), command }, error, options));
  process.exitCode = options.exitCode ?? exitCodeOf(error);
}

/** One line; with --json an object. Something works on, and whoever typed the command should know of what. */
export function tellWarning(command: string, message: string): void {
  process.stderr.write(
    presentation().isJson
      ? `${JSON.stringify({ warning: { command, message } })}\n`
      : `colo ${command}: warning: ${oneLine(message)}\n`,
  );
}

/** What `tellFailure` writes. */
export function failureText(how: Presentation, error: unknown, options: FailureOptions = {}): string {
  const hint = options.hint ?? hintFor(error);
  if (how.isJson) return `${JSON.stringify(failureObject(how, error, hint, options.exitCode))}\n`;
  const program = how.command === '' ? 'colo' : `colo ${how.command}`;
  // Of a file, a line for each mistake, as compilers write them.
  const lines =
    error instanceof SpecFileError
      ? messageOf(error).split('\n').map(printable)
      : [`${program}: ${oneLine(messageOf(error))}${hint}`];
  return [...lines, ...(how.isVerbose ? details(error) : [])].map((line) => `${line}\n`).join('');
}

/** Of `--json`; docs/cli.md has the members. */
function failureObject(
  { command, isVerbose }: Presentation,
  error: unknown,
  hint: string,
  exitCode: number = exitCodeOf(error),
): object {
  return {
    error: {
      command,
      exitCode,
      class: classOf(error),
      message: messageOf(error),
      ...(hint !== '' && { hint: hint.replace(/^; /, '') }),
      ...(error instanceof SpecFileError && { problems: error.problems }),
      ...(isVerbose && {
        causes: causesOf(error).map((cause) => ({ class: classOf(cause), message: messageOf(cause) })),
        stack: error instanceof Error ? (error.stack ?? null) : null,
      }),
    },
  };
}

/** A sentence behind a line break becomes a second one. */
export function oneLine(text: string): string {
  return printable(
    text.trim().replace(/([.!?:,;]?)\s*\n\s*(?=[A-Z])/g, (_, end: string) => `${end || '.'} `),
  );
}

/** What to do next, where the error cannot know it. */
function hintFor(error: unknown): string {
  if (error instanceof NoSuchVmError) return '; colo status lists them';
  if (error instanceof NoSuchHostError) return '; colo hosts lists them';
  if (error instanceof NodeUnreachableError) return '';
  if (error instanceof TimeoutError || error instanceof ClosedError) return '; see colo status';
  if (isFault(error)) return '; this is a fault of colo, please report what --verbose adds';
  return '';
}

/** Neither expected by us nor told by the system. */
function isFault(error: unknown): boolean {
  return !(error instanceof ColoError) && (error as { code?: unknown } | null)?.code === undefined;
}

function classOf(error: unknown): string {
  return error instanceof Error ? error.name : typeof error;
}

function causesOf(error: unknown): unknown[] {
  const causes: unknown[] = [];
  let at: unknown = error;
  while (at instanceof Error && at.cause !== undefined && causes.length < MAX_CAUSES) {
    at = at.cause;
    causes.push(at);
  }
  return causes;
}

function details(error: unknown): string[] {
  const causes = causesOf(error).map(
    (cause) => `  because of ${classOf(cause)}: ${oneLine(messageOf(cause))}`,
  );
  const stack = error instanceof Error ? (error.stack ?? '') : '';
  const frames = stack.split('\n').filter((line) => /^\s+at /.test(line));
  return [`  ${classOf(error)}, exit status ${exitCodeOf(error)}`, ...causes, ...frames.map(printable)];
}
