/**
 * Error classes of the NBD code, and the one mapping between errno names and the numbers on the wire.
 * Facts: proto.md "Error values"; QEMU 7.2 system_errno_to_nbd_errno, except that a time-out is told as EIO: a guest
 * retries EIO but takes EINVAL for its own mistake.
 */
import { getSystemErrorMap } from 'node:util';
import { ColoError, ERRNO_TEXT, errnoOf, messageOf, type Errno } from '../base/errors.ts';

/** The server said no (unknown export, TLS wanted…), or cannot be used by us. Not a fault of the connection. */
export class NbdNegotiationError extends ColoError {}

/** Host not found, connection refused, no socket there: the message says which address and why. */
export class NbdConnectError extends ColoError {}

/** The peer's stream ended. */
export class NbdEndOfStreamError extends ColoError {}

const NBD_EPERM = 1;
const NBD_EIO = 5;
const NBD_ENOMEM = 12;
export const NBD_EINVAL = 22;
const NBD_ENOSPC = 28;
const NBD_EOVERFLOW = 75;
export const NBD_ENOTSUP = 95;
const NBD_ESHUTDOWN = 108;

const TO_WIRE: Readonly<Record<Errno, number>> = {
  EPERM: NBD_EPERM,
  EROFS: NBD_EPERM,
  EIO: NBD_EIO,
  ETIMEDOUT: NBD_EIO,
  ENOMEM: NBD_ENOMEM,
  EINVAL: NBD_EINVAL,
  ENOSPC: NBD_ENOSPC,
  EOVERFLOW: NBD_EOVERFLOW,
  ENOTSUP: NBD_ENOTSUP,
  ESHUTDOWN: NBD_ESHUTDOWN,
};

const FROM_WIRE: ReadonlyMap<number, Errno> = new Map([
  [NBD_EPERM, 'EPERM'],
  [NBD_EIO, 'EIO'],
  [NBD_ENOMEM, 'ENOMEM'],
  [NBD_EINVAL, 'EINVAL'],
  [NBD_ENOSPC, 'ENOSPC'],
  [NBD_EOVERFLOW, 'EOVERFLOW'],
  [NBD_ENOTSUP, 'ENOTSUP'],
  [NBD_ESHUTDOWN, 'ESHUTDOWN'],
]);

/** The number that tells a client of `error`, whatever was thrown. Never 0. */
export function wireErrorOf(error: unknown): number {
  return TO_WIRE[errnoOf(error)];
}

/** The errno of a non-zero number from the wire; the specification says that unknown ones are EINVAL. */
export function errnoOfWire(code: number): Errno {
  return FROM_WIRE.get(code) ?? 'EINVAL';
}

/** strerror's text of a number from the wire. */
export function textOfWire(code: number): string {
  return ERRNO_TEXT[errnoOfWire(code)];
}

/** glibc's wording where libuv's differs by more than its first letter: QEMU's messages carry the former. */
const GLIBC_TEXT: Readonly<Record<string, string>> = {
  EHOSTUNREACH: 'No route to host',
  EADDRNOTAVAIL: 'Cannot assign requested address',
  EPIPE: 'Broken pipe',
};

/** "Connection refused" and the like for a Node system error; the error's message for anything else. */
export function systemErrorText(error: unknown): string {
  const { code, errno } = (error ?? {}) as { code?: unknown; errno?: unknown };
  const known = typeof code === 'string' ? GLIBC_TEXT[code] : undefined;
  if (known !== undefined) return known;
  const table = getSystemErrorMap();
  const byNumber = typeof errno === 'number' ? table.get(errno) : undefined;
  const entry = byNumber ?? [...table.values()].find(([name]) => name === code);
  const text = entry?.[1];
  return text === undefined ? messageOf(error) : text.charAt(0).toUpperCase() + text.slice(1);
}
