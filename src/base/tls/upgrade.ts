/**
 * Makes a connected socket secure, as server or as client, after whatever was said in clear on it. The clear socket
 * must be paused or idle, with nothing read from it that was not understood: what arrives from now on is TLS.
 *
 * The clear socket belongs to the secure one afterwards: closing that closes both. On failure both are closed.
 * Renegotiation, session tickets and versions below 1.2 are not to be had.
 */
import { constants } from 'node:crypto';
import type { Socket } from 'node:net';
import { connect, createServer, type TLSSocket } from 'node:tls';
import { ColoError, messageOf } from '../errors.ts';
import type { TlsCredentials } from './credentials.ts';

/** The TLS handshake failed: one side does not trust the other, or the bytes were not TLS. */
export class TlsError extends ColoError {}

const SECURE_OPTIONS =
  constants.SSL_OP_NO_RENEGOTIATION | constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_COMPRESSION;

/**
 * Waits for the client's handshake; `timeoutMs` ends it. Throws TlsError. A server of its own for each connection:
 * Node checks certificates in its server only, and hands sockets over without saying which one it began with.
 */
export function secureAsServer(
  clear: Socket,
  credentials: TlsCredentials,
  timeoutMs: number,
): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const server = createServer({
      ...credentials.serverOptions(),
      secureOptions: SECURE_OPTIONS,
      handshakeTimeout: timeoutMs,
      allowHalfOpen: true,
    });
    const fail = (error: unknown): void => {
      clear.destroy();
      reject(new TlsError(`TLS handshake failed: ${reasonOf(error)}`, { cause: error }));
    };
    server.once('secureConnection', (socket) => {
      clear.off('close', onClose);
      socket.disableRenegotiation();
      resolve(socket);
    });
    server.once('tlsClientError', (error, socket) => {
      socket.on('error', () => undefined);
      socket.destroy();
      // A certificate that is refused ends the connection without an error; the reason is left on the socket.
      const { authorizationError: code } = socket as { authorizationError?: unknown };
      fail(typeof code === 'string' ? Object.assign(new Error(code), { code }) : error);
    });
    // If the library closed it, the reason comes after this event.
    const onClose = (): unknown => setImmediate(() => fail(new Error('the connection was closed')));
    clear.once('close', onClose);
    server.emit('connection', clear);
  });
}

/** Shakes hands and checks who is there. `hostname`: whom the certificate must name. Throws TlsError, ParameterError. */
export function secureAsClient(
  clear: Socket,
  credentials: TlsCredentials,
  hostname: string | null,
): Promise<TLSSocket> {
  const options = credentials.clientOptions(hostname);
  return new Promise((resolve, reject) => {
    const socket = connect({ ...options, secureOptions: SECURE_OPTIONS, socket: clear });
    const fail = (error: unknown): void => {
      socket.on('error', () => undefined);
      socket.destroy();
      clear.destroy();
      reject(new TlsError(reasonOf(error), { cause: error }));
    };
    const onClose = (): void => fail(new Error('the connection was closed during the TLS handshake'));
    socket.once('error', fail);
    socket.once('close', onClose);
    socket.once('secureConnect', () => {
      socket.off('error', fail);
      socket.off('close', onClose);
      resolve(socket);
    });
  });
}

/** QEMU's words for what is wrong with a certificate, by OpenSSL's codes. */
const REASONS: Readonly<Record<string, string>> = {
  DEPTH_ZERO_SELF_SIGNED_CERT: "The certificate hasn't got a known issuer",
  SELF_SIGNED_CERT_IN_CHAIN: "The certificate hasn't got a known issuer",
  UNABLE_TO_GET_ISSUER_CERT: "The certificate hasn't got a known issuer",
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "The certificate hasn't got a known issuer",
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: "The certificate hasn't got a known issuer",
  CERT_SIGNATURE_FAILURE: 'The certificate is not trusted',
  INVALID_PURPOSE: 'The certificate is not trusted: it was made for another purpose',
  CERT_HAS_EXPIRED: 'The certificate has expired',
  CERT_NOT_YET_VALID: 'The certificate is not yet activated',
  CERT_REVOKED: 'The certificate has been revoked',
  UNABLE_TO_GET_CRL: 'The list of revoked certificates is not its issuer’s',
  ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE: 'No certificate was found.',
  ERR_SSL_WRONG_VERSION_NUMBER: 'the other side does not speak TLS',
  ERR_TLS_HANDSHAKE_TIMEOUT: 'no answer in time',
  ECONNRESET: 'the connection was closed',
};

/** Why a handshake failed, in a few words: OpenSSL's messages carry source lines and numbers. */
export function reasonOf(error: unknown): string {
  const { code, reason } = (error ?? {}) as { code?: unknown; reason?: unknown };
  const known = typeof code === 'string' ? REASONS[code] : undefined;
  if (known !== undefined) return known;
  if (typeof reason === 'string' && reason !== '') return reason;
  return messageOf(error);
}
