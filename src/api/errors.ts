/**
 * Errors on the API's wire: `{version, error: {class, message}}` with a status code, turned back into the same class at
 * the client. A class that this side does not know (a newer peer's) becomes a plain ColoError with the same text.
 */
import {
  ClosedError,
  ColoError,
  CommandNotFoundError,
  DeviceNotActiveError,
  DeviceNotFoundError,
  messageOf,
  ParameterError,
  ProtocolError,
  TimeoutError,
} from '../base/errors.ts';
import { BusyError, NoSuchHostError, NoSuchVmError } from '../ha/errors.ts';

/** A host's daemon cannot be reached. Nothing was asked of it. */
export class NodeUnreachableError extends ColoError {}

/** Who asks is not let in: a foreign Host or Origin, a path that is not for this listener. */
export class ForbiddenError extends ColoError {}

/** The daemon failed for a reason that it did not foresee: a fault of ours, its log has the stack. */
export class RemoteFaultError extends ColoError {}

/** Longer ones are cut: a message is for a line on a terminal. */
export const MAX_ERROR_TEXT = 4096;

export interface WireError {
  readonly class: string;
  readonly message: string;
}

interface Kind {
  readonly status: number;
  readonly make: (message: string) => ColoError;
}

/** NoSuch…Error make their text of a name; here the text is there already. */
function withText(error: ColoError, message: string): ColoError {
  error.message = message;
  return error;
}

const KINDS: Readonly<Record<string, Kind>> = {
  ParameterError: { status: 400, make: (text) => new ParameterError(text) },
  ProtocolError: { status: 400, make: (text) => new ProtocolError(text) },
  ForbiddenError: { status: 403, make: (text) => new ForbiddenError(text) },
  NoSuchVmError: { status: 404, make: (text) => withText(new NoSuchVmError(''), text) },
  NoSuchHostError: { status: 404, make: (text) => withText(new NoSuchHostError(''), text) },
  DeviceNotFoundError: { status: 404, make: (text) => new DeviceNotFoundError(text) },
  CommandNotFoundError: { status: 404, make: (text) => new CommandNotFoundError(text) },
  BusyError: { status: 409, make: (text) => new BusyError(text) },
  DeviceNotActiveError: { status: 409, make: (text) => new DeviceNotActiveError(text) },
  RemoteFaultError: { status: 500, make: (text) => new RemoteFaultError(text) },
  NodeUnreachableError: { status: 502, make: (text) => new NodeUnreachableError(text) },
  ClosedError: { status: 503, make: (text) => new ClosedError(text) },
  TimeoutError: { status: 504, make: (text) => new TimeoutError(text) },
};

/** Of a ColoError without a kind of its own: the daemon understood and could not. */
const OTHER_STATUS = 422;

/** Every class that crosses the wire as itself. */
export const WIRE_ERROR_CLASSES: readonly string[] = Object.keys(KINDS);

/** What is told of an error. One that is not a ColoError is a fault: its text is told, its stack is the caller's to log. */
export function errorToWire(error: unknown): { readonly status: number; readonly error: WireError } {
  const message = messageOf(error).slice(0, MAX_ERROR_TEXT);
  if (!(error instanceof ColoError)) return { status: 500, error: { class: 'RemoteFaultError', message } };
  const status = Object.hasOwn(KINDS, error.name) ? KINDS[error.name]!.status : OTHER_STATUS;
  return { status, error: { class: error.name, message } };
}

/** The error that `errorToWire` was given. */
export function errorFromWire(error: WireError): ColoError {
  const kind = Object.hasOwn(KINDS, error.class) ? KINDS[error.class] : undefined;
  return kind?.make(error.message) ?? new ColoError(error.message);
}
