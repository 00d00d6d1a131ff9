/**
 * What `colo`'s commands end with: one table for most, and the codes of the commands that have words of their own (qemu-img's,
 * the demo's). docs/cli.md and docs/errors.md tell them; a test compares.
 */
import { NodeUnreachableError } from '../api/errors.ts';
import { ClosedError, ParameterError, TimeoutError } from '../base/errors.ts';
import { BusyError, NoSuchHostError, NoSuchVmError } from '../ha/errors.ts';
import { SpecFileError } from '../ha/spec/spec-error.ts';

export const EXIT_CODES = [
  [0, 'done'],
  [1, 'it could not be done, or the check found an error'],
  [2, 'the command line or the file is wrong; nothing was touched'],
  [3, 'no such VM or host'],
  [4, 'not now: something else is under way, or the state of the VM does not allow it'],
  [5, 'no node answers'],
  [6, 'the connection broke or nothing was heard any more: not known whether it was done'],
] as const;
export type ExitCode = (typeof EXIT_CODES)[number][0];

/** Commands whose codes mean something else. `colo img`'s are qemu-img's, also for a wrong command line. */
export const OWN_EXIT_CODES: Readonly<Record<string, readonly number[]>> = {
  'colo vm': [0, 1],
  'colo img': [0, 1],
  'colo img check': [0, 1, 2, 3, 63],
  'colo img compare': [0, 1, 2, 3, 4],
  'colo demo': [0, 1, 2, 130],
};

export function exitCodeOf(error: unknown): ExitCode {
  if (error instanceof ParameterError || error instanceof SpecFileError) return 2;
  if (error instanceof NoSuchVmError || error instanceof NoSuchHostError) return 3;
  if (error instanceof BusyError) return 4;
  if (error instanceof NodeUnreachableError) return 5;
  if (error instanceof TimeoutError || error instanceof ClosedError) return 6;
  return 1;
}
