/**
 * Pre-shared keys: `tls-creds-psk` with a file `keys.psk` of lines `USER:HEXKEY` (the format of GnuTLS's psktool). A
 * server takes any user of the file, a client is one of them (`username`, default `qemu`).
 *
 * Ciphers: GnuTLS and OpenSSL agree on TLS 1.3 with SHA-256 suites (OpenSSL ties a key without a hash of its own to
 * SHA-256) and, below it, on the PSK suites with a Diffie-Hellman exchange. Nothing without PSK is offered in 1.2. In
 * 1.3 the suites say nothing about how the peer is known, so a client has no trust root besides: a server that shows a
 * certificate in place of the key is refused.
 */
import type { ConnectionOptions, TlsOptions } from 'node:tls';
import { ParameterError } from '../errors.ts';
import { TLS_MIN_VERSION, type TlsCredentials, type TlsEndpoint } from './credentials.ts';
import { readCredentialFile } from './files.ts';

const CIPHERS = [
  ...['TLS_AES_128_GCM_SHA256', 'TLS_CHACHA20_POLY1305_SHA256'],
  ...['ECDHE-PSK-CHACHA20-POLY1305', 'DHE-PSK-AES256-GCM-SHA384', 'DHE-PSK-AES128-GCM-SHA256'],
  ...['DHE-PSK-CHACHA20-POLY1305', 'ECDHE-PSK-AES256-CBC-SHA384', 'ECDHE-PSK-AES128-CBC-SHA256'],
].join(':');

/** OpenSSL's own bounds. */
const MAX_KEY_BYTES = 256;
const MAX_IDENTITY_BYTES = 128;
const DEFAULT_USERNAME = 'qemu';

export interface PskOptions {
  readonly endpoint: TlsEndpoint;
  /** The file of keys, or what `properties` shows as its folder. */
  readonly file: string;
  readonly dir: string | null;
  readonly username: string | null;
}

export class PskCredentials implements TlsCredentials {
  readonly type = 'tls-creds-psk';
  readonly endpoint: TlsEndpoint;
  readonly #dir: string | null;
  readonly #username: string | null;
  readonly #keys: ReadonlyMap<string, Uint8Array>;

  /** Reads the keys. Throws ParameterError; no text of the file is in its message. */
  constructor({ endpoint, file, dir, username }: PskOptions) {
    if (endpoint === 'server' && username !== null) {
      throw new ParameterError('username should not be set when endpoint=server');
    }
    this.endpoint = endpoint;
    this.#dir = dir;
    this.#username = username;
    const keys = parseKeys(readCredentialFile(file), file);
    if (endpoint === 'server') this.#keys = keys;
    else {
      const name = username ?? DEFAULT_USERNAME;
      const key = keys.get(name);
      if (!key) throw new ParameterError(`Username ${name} not found in PSK file ${file}`);
      this.#keys = new Map([[name, key]]);
    }
  }

  properties(): Record<string, unknown> {
    const shown = { endpoint: this.endpoint, dir: this.#dir ?? '', 'verify-peer': true, priority: '' };
    return { ...shown, username: this.#username ?? '', loaded: true };
  }

  serverOptions(): TlsOptions {
    return {
      ciphers: CIPHERS,
      minVersion: TLS_MIN_VERSION,
      honorCipherOrder: true,
      dhparam: 'auto',
      pskCallback: (_socket, identity) => this.#keys.get(identity) ?? null,
    };
  }

  clientOptions(): ConnectionOptions {
    const [[identity, psk]] = [...this.#keys] as [[string, Uint8Array]];
    return {
      ciphers: CIPHERS,
      minVersion: TLS_MIN_VERSION,
      ca: [],
      rejectUnauthorized: true,
      checkServerIdentity: (_host, certificate) =>
        // Without the key there would be a certificate; with it there is an empty object.
        Object.keys(certificate).length === 0
          ? undefined
          : new Error('The server did not prove that it has the pre-shared key'),
      pskCallback: () => ({ identity, psk }),
    };
  }
}

function parseKeys(text: string, file: string): Map<string, Uint8Array> {
  const keys = new Map<string, Uint8Array>();
  for (const [index, line] of text.split('\n').entries()) {
    const trimmed = line.trim();
    if (trimmed === '' || trimmed.startsWith('#')) continue;
    const where = `line ${index + 1} of the PSK file ${file}`;
    const colon = trimmed.lastIndexOf(':');
    const [user, hex] = [trimmed.slice(0, colon), trimmed.slice(colon + 1)];
    if (colon < 1 || hex === '' || hex.length % 2 !== 0 || !/^[0-9a-fA-F]+$/.test(hex)) {
      throw new ParameterError(`Malformed ${where}; USER:HEXKEY is expected`);
    }
    if (hex.length / 2 > MAX_KEY_BYTES || Buffer.byteLength(user) > MAX_IDENTITY_BYTES) {
      throw new ParameterError(`Name or key too long in ${where}`);
    }
    // The first of two lines counts, as for GnuTLS.
    if (!keys.has(user)) keys.set(user, Buffer.from(hex, 'hex'));
  }
  return keys;
}
