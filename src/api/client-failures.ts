/**
 * What goes wrong between a client and a daemon, said so that a person knows what to do. The codes are those of Node's
 * system errors and of undici (its docs, api/Errors.md).
 */
import { ClosedError, ColoError, messageOf, TimeoutError } from '../base/errors.ts';
import { NodeUnreachableError } from './errors.ts';

/** These come from connect(2) alone: not a byte was sent. */
const NOT_SENT = new Set([
  'ECONNREFUSED',
  'ENOENT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'UND_ERR_CONNECT_TIMEOUT',
]);
/** Of these, the ones that a daemon which is just being restarted gives. */
const RESTARTING = new Set(['ECONNREFUSED', 'ENOENT']);

/** The call may be sent again, and soon. */
export function hasSentNothing(error: unknown): boolean {
  return RESTARTING.has(codeOf(error));
}

/** A ColoError for whatever a call failed with. */
export function translateFailure(error: unknown, where: string, signal: AbortSignal | undefined): ColoError {
  if (error instanceof ColoError) return error;
  if (signal?.aborted) return new ClosedError(`${where}: the call was given up`, { cause: signal.reason });
  const code = codeOf(error);
  const cause = { cause: error };
  if (NOT_SENT.has(code)) {
    const why = code === 'UND_ERR_CONNECT_TIMEOUT' ? 'no connection in time' : plain(code);
    return new NodeUnreachableError(
      `no node answers at ${where} (${why}): is 'colo node' running there?`,
      cause,
    );
  }
  if (code === 'EACCES' || code === 'EPERM') {
    return new NodeUnreachableError(
      `${where}: permission denied: only the user that runs 'colo node' may talk to it (sudo?)`,
      cause,
    );
  }
  if (code === 'UND_ERR_HEADERS_TIMEOUT' || code === 'UND_ERR_BODY_TIMEOUT') {
    return new TimeoutError(
      `${where}: the node does not answer any more; whether it did it is not known`,
      cause,
    );
  }
  if (/^(ERR_TLS|ERR_SSL|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO|EPROTO|ERR_OSSL)/.test(code)) {
    return new NodeUnreachableError(`${where}: TLS: ${messageOf(error)}`, cause);
  }
  return new ClosedError(
    `${where}: the connection broke before the answer (${messageOf(error)}); whether it was done is not known`,
    cause,
  );
}

function codeOf(error: unknown): string {
  const { code, cause } = (error ?? {}) as { code?: unknown; cause?: unknown };
  if (typeof code === 'string') return code;
  if (error instanceof AggregateError && error.errors.length > 0) return codeOf(error.errors[0]);
  return cause === undefined || cause === error ? '' : codeOf(cause);
}

function plain(code: string): string {
  const texts: Readonly<Record<string, string>> = {
    ECONNREFUSED: 'connection refused',
    ENOENT: 'no such socket',
    EHOSTUNREACH: 'no route to host',
    ENETUNREACH: 'network unreachable',
  };
  return texts[code] ?? code;
}
