/**
 * Certificates: `tls-creds-x509` with QEMU's file names in one folder: `ca-cert.pem`, `server-cert.pem` and
 * `server-key.pem` for a server; `ca-cert.pem` and, if the server asks for one, `client-cert.pem` and `client-key.pem`
 * for a client; `ca-crl.pem` for both. The CA is the only trust root there is: the system's are not used.
 *
 * A server with `verify-peer` (the default) lets only clients in whose certificate the CA signed. A client checks the
 * server's certificate and that it was made for the host it wanted to reach.
 */
import { join } from 'node:path';
import {
  checkServerIdentity,
  createSecureContext,
  type ConnectionOptions,
  type SecureContextOptions,
  type TlsOptions,
} from 'node:tls';
import { isIP } from 'node:net';
import { ParameterError } from '../errors.ts';
import { TLS_MIN_VERSION, type TlsCredentials, type TlsEndpoint } from './credentials.ts';
import { readCredentialFile, readCredentialFileIfThere } from './files.ts';
import { checkSanity } from './sanity.ts';

export interface X509Options {
  readonly endpoint: TlsEndpoint;
  readonly dir: string;
  readonly verifyPeer: boolean;
  readonly sanityCheck: boolean;
}

export class X509Credentials implements TlsCredentials {
  readonly type = 'tls-creds-x509';
  readonly endpoint: TlsEndpoint;
  readonly #options: X509Options;
  readonly #material: SecureContextOptions;

  /** Reads and checks the files. Throws ParameterError. */
  constructor(options: X509Options) {
    this.endpoint = options.endpoint;
    this.#options = options;
    this.#material = load(options);
  }

  properties(): Record<string, unknown> {
    const { endpoint, dir, verifyPeer, sanityCheck } = this.#options;
    const shown = { endpoint, dir, 'verify-peer': verifyPeer, priority: '', 'sanity-check': sanityCheck };
    return { ...shown, passwordid: '', loaded: true };
  }

  serverOptions(): TlsOptions {
    const { verifyPeer } = this.#options;
    return {
      ...this.#material,
      minVersion: TLS_MIN_VERSION,
      requestCert: verifyPeer,
      rejectUnauthorized: verifyPeer,
    };
  }

  clientOptions(hostname: string | null): ConnectionOptions {
    const { verifyPeer } = this.#options;
    if (verifyPeer && hostname === null) {
      throw new ParameterError('No hostname for certificate validation; give tls-hostname');
    }
    const name = hostname ?? '';
    return {
      ...this.#material,
      minVersion: TLS_MIN_VERSION,
      rejectUnauthorized: verifyPeer,
      checkServerIdentity: (_host, certificate) =>
        checkServerIdentity(name, certificate) &&
        new Error(`Certificate does not match the hostname ${name}`),
      // Server names on the wire are names, never addresses (RFC 6066).
      ...(name !== '' && isIP(name) === 0 && { servername: name }),
    };
  }
}

function load({ endpoint, dir, sanityCheck }: X509Options): SecureContextOptions {
  const path = (name: string): string => join(dir, name);
  const [certFile, keyFile, caFile] = [
    path(`${endpoint}-cert.pem`),
    path(`${endpoint}-key.pem`),
    path('ca-cert.pem'),
  ];
  const ca = readCredentialFile(caFile);
  const cert = endpoint === 'server' ? readCredentialFile(certFile) : readCredentialFileIfThere(certFile);
  const key = endpoint === 'server' ? readCredentialFile(keyFile) : readCredentialFileIfThere(keyFile);
  const crl = readCredentialFileIfThere(path('ca-crl.pem'));
  if (sanityCheck) checkSanity({ endpoint, ca, caFile, cert, certFile });
  const material: SecureContextOptions = {
    ca,
    ...(crl !== null && { crl }),
    ...(cert !== null && key !== null && { cert, key }),
  };
  try {
    createSecureContext(material);
  } catch (error) {
    throw new ParameterError(cannotLoad(error, caFile, cert === null ? null : certFile, keyFile));
  }
  return material;
}

/** Which file is to blame. The library's own text names no content of a key, but it is not passed on for one. */
function cannotLoad(error: unknown, caFile: string, certFile: string | null, keyFile: string): string {
  const { code, message } = error as { code?: string; message?: string };
  const text = `${code ?? ''} ${message ?? ''}`;
  if (certFile === null) return `Cannot load CA certificate '${caFile}'`;
  const what = `Cannot load certificate '${certFile}' & key '${keyFile}'`;
  if (/KEY_VALUES_MISMATCH|key values mismatch/i.test(text)) {
    return `${what}: The certificate and the given key do not match.`;
  }
  if (/password|passphrase|interrupted or cancelled|BAD_DECRYPT|bad decrypt/i.test(text)) {
    return `${what}: The key is encrypted; decrypt it, passwordid is not supported`;
  }
  return `${what}: not usable PEM files`;
}
