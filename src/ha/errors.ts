/** What a host's daemon refuses, by kind; the API carries the class to the other end and exit codes are made of it. */
import { ColoError } from '../base/errors.ts';

/** Nobody in the cluster knows a VM of that name. */
export class NoSuchVmError extends ColoError {
  constructor(name: string, options?: { cause?: unknown }) {
    super(`there is no VM '${name}'`, options);
  }
}

/** Nobody in the cluster knows a host of that name. */
export class NoSuchHostError extends ColoError {
  constructor(name: string, options?: { cause?: unknown }) {
    super(`there is no host '${name}'`, options);
  }
}

/** Not now: something else is under way with the VM or the host, or its state does not allow it. The text says what. */
export class BusyError extends ColoError {}
