/**
 * TLS credentials as QEMU has them: `tls-creds-x509` and `tls-creds-psk` (qapi/qom.json TlsCreds…Properties; which
 * files are needed and the texts: asked of QEMU 7.2). Their files are read when the object is made and not again.
 *
 * What is secret stays in private fields: it appears in no property, message, or dump of the object. How a socket is
 * made secure with them is upgrade.ts's.
 */
import type { ConnectionOptions, TlsOptions } from 'node:tls';
import { ParameterError } from '../errors.ts';

/** Which end of a connection credentials are for. */
export type TlsEndpoint = 'client' | 'server';
/** With certificates, or with pre-shared keys. */
export type TlsCredentialsType = 'tls-creds-x509' | 'tls-creds-psk';

/** Credentials whose files have been read. Made by `createTlsCredentials`. */
export interface TlsCredentials {
  /** QEMU's name of the kind. */
  readonly type: TlsCredentialsType;
  /** The end that they were made for. */
  readonly endpoint: TlsEndpoint;
  /** What qom-get may show: nothing secret. */
  properties(): Record<string, unknown>;
  /** For a server; Node's tls.Server does the checks that these ask for. */
  serverOptions(): TlsOptions;
  /**
   * For a client that wants to reach `hostname`. Throws ParameterError when a certificate is to be checked and there
   * is no name to check it against.
   */
  clientOptions(hostname: string | null): ConnectionOptions;
}

/** Neither peer may fall below it, whatever the defaults of the library are. */
export const TLS_MIN_VERSION = 'TLSv1.2';

/** Where QEMU is asked for credentials by name: it must be there and made for this end of the connection. */
export function requireEndpoint(credentials: TlsCredentials, endpoint: TlsEndpoint): TlsCredentials {
  if (credentials.endpoint !== endpoint) {
    throw new ParameterError(`Expected TLS credentials for a ${endpoint} endpoint`);
  }
  return credentials;
}
