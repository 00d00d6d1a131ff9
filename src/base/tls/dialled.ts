/** The client's side of a TLS connection that begins with TLS: upgrade.ts's handshake with an end to its waiting. */
import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { ClosedError, TimeoutError } from '../errors.ts';
import type { TlsCredentials } from './credentials.ts';
import { secureAsClient } from './upgrade.ts';

/**
 * `clear` has just connected, and nothing was read from it; on failure it is gone. Throws TlsError, ParameterError
 * (a certificate is to be checked and there is no name), TimeoutError, ClosedError when `signal` is aborted.
 */
export async function secureDialled(
  clear: Socket,
  credentials: TlsCredentials,
  hostname: string | null,
  options: { readonly deadlineMs: number; readonly signal: AbortSignal },
): Promise<TLSSocket> {
  const { deadlineMs, signal } = options;
  let reason: Error | null = null;
  const end = (why: Error): void => {
    reason ??= why;
    clear.destroy();
  };
  const onAbort = (): void => end(new ClosedError('it was broken off', { cause: signal.reason }));
  const timer = setTimeout(() => end(new TimeoutError(`no answer within ${deadlineMs} ms`)), deadlineMs);
  clear.on('error', () => undefined);
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  try {
    return await secureAsClient(clear, credentials, hostname);
  } catch (error) {
    clear.destroy();
    // What destroyed it, not that it was destroyed.
    throw (reason as Error | null) ?? error;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
  }
}
