/**
 * TLS between daemons: each has one certificate, which it shows as server and as client, and the CA that signed all of
 * them (NodeConfig.tls). A certificate has to name the host, or the address that it is reached by. Read anew for each
 * connection, so that certificates can be replaced while the daemon runs.
 */
import type { Socket } from 'node:net';
import { checkServerIdentity, TLSSocket, type PeerCertificate } from 'node:tls';
import type { TlsCredentials } from '../../base/tls/credentials.ts';
import { TLS_MIN_VERSION, type TlsEndpoint } from '../../base/tls/credentials.ts';
import { readCredentialFile } from '../../base/tls/files.ts';
import type { TlsFiles } from '../spec/node-config.ts';

/** `names`: a client's: whom the server may be, by any of them. Throws ParameterError when a file cannot be read. */
export function hostCredentials(
  files: TlsFiles,
  endpoint: TlsEndpoint,
  names: readonly string[],
): TlsCredentials {
  const material = {
    ca: readCredentialFile(files.ca),
    cert: readCredentialFile(files.cert),
    key: readCredentialFile(files.key),
    minVersion: TLS_MIN_VERSION,
    rejectUnauthorized: true,
  } as const;
  return {
    type: 'tls-creds-x509',
    endpoint,
    properties: () => ({ endpoint }),
    serverOptions: () => ({ ...material, requestCert: true }),
    clientOptions: () => ({
      ...material,
      checkServerIdentity: (_host, certificate) =>
        isOneOf(names, certificate)
          ? undefined
          : new Error(`Certificate does not match ${names.join(' or ')}`),
    }),
  };
}

/** Whether whoever is at the other end may call itself `host`. In clear there is nothing to tell by. */
export function mayBe(host: string, socket: Socket): boolean {
  if (!(socket instanceof TLSSocket)) return true;
  const certificate = socket.getPeerCertificate();
  return isOneOf([host, socket.remoteAddress ?? ''], certificate);
}

function isOneOf(names: readonly string[], certificate: PeerCertificate): boolean {
  return names.some((name) => name !== '' && checkServerIdentity(name, certificate) === undefined);
}
