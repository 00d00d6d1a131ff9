/**
 * The error classes that everything else derives from. An error names the thing, the cause and the way out.
 *
 * QMP knows few classes (GenericError, CommandNotFound, DeviceNotActive, DeviceNotFound, KVMMissingCap; QEMU's
 * qapi/error.json); each of ours says which one it is on that wire, so that nobody translates by text.
 */

/** QMP's error classes (QEMU qapi/error.json, QapiErrorClass). */
export type QmpErrorClass =
  'GenericError' | 'CommandNotFound' | 'DeviceNotActive' | 'DeviceNotFound' | 'KVMMissingCap';

/** Base of every expected failure. A plain `Error` that reaches a border is a bug of ours. */
export class ColoError extends Error {
  /** What it is called in a QMP error. */
  readonly qmpClass: QmpErrorClass = 'GenericError';

  constructor(message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** A named device, chardev, object or node is not there. */
export class DeviceNotFoundError extends ColoError {
  /** What it is called in a QMP error. */
  override readonly qmpClass = 'DeviceNotFound';
}

/** The thing exists but is not in a state in which it can be acted on (e.g. a block job that ended). */
export class DeviceNotActiveError extends ColoError {
  /** What it is called in a QMP error. */
  override readonly qmpClass = 'DeviceNotActive';
}

/** An unknown QMP command, or one sent before the capabilities were negotiated. */
export class CommandNotFoundError extends ColoError {
  /** What it is called in a QMP error. */
  override readonly qmpClass = 'CommandNotFound';
}

/** A parameter of a command line option or of a QMP command is missing, unknown or out of range. */
export class ParameterError extends ColoError {}

/** Bytes from a peer or a file that break their format. The connection or the file is given up, nothing else. */
export class ProtocolError extends ColoError {}

/** A wait on a peer ran into its deadline. */
export class TimeoutError extends ColoError {}

/** An operation was broken off because its owner is being closed. */
export class ClosedError extends ColoError {}

/** The errno names that cross our borders (NBD replies, guest disk status, QUORUM_REPORT_BAD's text). */
export type Errno =
  | 'EPERM'
  | 'EIO'
  | 'ENOMEM'
  | 'EINVAL'
  | 'ENOSPC'
  | 'EOVERFLOW'
  | 'ENOTSUP'
  | 'ESHUTDOWN'
  | 'EROFS'
  | 'ETIMEDOUT';

/** A block request failed. `errno` is what a guest, an NBD client or an event is told. */
export class IoError extends ColoError {
  /** Linux's name of what went wrong. */
  readonly errno: Errno;

  constructor(errno: Errno, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.errno = errno;
  }
}

/** A write that the other side of a pair has is missing on this side's own disk. */
export class OwnDiskError extends IoError {}

/** strerror(3)'s text of an errno, as QEMU's events carry it. */
export const ERRNO_TEXT: Readonly<Record<Errno, string>> = {
  EPERM: 'Operation not permitted',
  EIO: 'Input/output error',
  ENOMEM: 'Cannot allocate memory',
  EINVAL: 'Invalid argument',
  ENOSPC: 'No space left on device',
  EOVERFLOW: 'Value too large for defined data type',
  ENOTSUP: 'Operation not supported',
  ESHUTDOWN: 'Cannot send after transport endpoint shutdown',
  EROFS: 'Read-only file system',
  ETIMEDOUT: 'Connection timed out',
};

/** The errno of any error: an IoError's own, a Node system error's where we know it, EIO otherwise. */
export function errnoOf(error: unknown): Errno {
  if (error instanceof IoError) return error.errno;
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' && code in ERRNO_TEXT ? (code as Errno) : 'EIO';
}

/** An error's message, whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
