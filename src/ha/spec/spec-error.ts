/** What is wrong with a file that a person wrote: everything that was found, each with its place. */
import { ColoError } from '../../base/errors.ts';

export interface Problem {
  /** From 1. */
  readonly line: number;
  readonly column: number;
  /** `disks[0].image`; empty: the file as a whole. */
  readonly path: string;
  readonly message: string;
}

export const MAX_PROBLEMS = 20;

/** The message has a line a problem: `FILE:LINE:COLUMN: KEY: what is wrong, and what would be right`. */
export class SpecFileError extends ColoError {
  readonly file: string;
  readonly problems: readonly Problem[];

  constructor(file: string, problems: readonly Problem[], options?: { cause?: unknown }) {
    const sorted = [...problems].sort((a, b) => a.line - b.line || a.column - b.column);
    const shown = sorted.slice(0, MAX_PROBLEMS).map(({ line, column, path, message }) => {
      return `${file}:${line}:${column}: ${path === '' ? '' : `${path}: `}${message}`;
    });
    const left = sorted.length - shown.length;
    super([...shown, ...(left > 0 ? [`${file}: and ${left} more`] : [])].join('\n'), options);
    this.file = file;
    this.problems = sorted;
  }
}
