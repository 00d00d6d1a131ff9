/**
 * Credentials by id: what `-object tls-creds-…` and object-add make, and what `tls-creds=ID` finds. Properties and
 * texts are QEMU's (asked of QEMU 7.2); what cannot be honoured is refused by name.
 */
import { join } from 'node:path';
import { ColoError, ParameterError } from '../errors.ts';
import { requireEndpoint, type TlsCredentials, type TlsEndpoint } from './credentials.ts';
import { PskCredentials } from './psk.ts';
import { X509Credentials } from './x509.ts';

export const PSK_FILE = 'keys.psk';

export function isTlsCredentialsType(type: string): boolean {
  return type === 'tls-creds-x509' || type === 'tls-creds-psk' || type === 'tls-creds-anon';
}

/** Makes credentials of an object's properties. Throws ParameterError. */
export function createTlsCredentials(
  type: string,
  properties: Readonly<Record<string, string>>,
): TlsCredentials {
  const take = new Map(Object.entries(properties));
  const text = (name: string): string | null => {
    const value = take.get(name) ?? null;
    take.delete(name);
    return value;
  };
  const flag = (name: string): boolean => {
    const value = text(name);
    if (value === null || ['on', 'yes', 'true', 'y'].includes(value)) return true;
    if (['off', 'no', 'false', 'n'].includes(value)) return false;
    throw new ParameterError(`Parameter '${name}' expects 'on' or 'off'`);
  };
  if (type === 'tls-creds-anon') {
    throw new ParameterError(
      'tls-creds-anon is not supported: it proves nothing; use tls-creds-x509 or -psk',
    );
  }
  const endpoint = endpointOf(text('endpoint') ?? 'client');
  const dir = text('dir');
  const verifyPeer = flag('verify-peer');
  if (text('priority') !== null) {
    throw new ParameterError('priority is not supported: it is a list in the words of another TLS library');
  }
  const isX509 = type === 'tls-creds-x509';
  const sanityCheck = isX509 && flag('sanity-check');
  if (isX509 && text('passwordid') !== null) {
    throw new ParameterError('passwordid is not supported; decrypt the key file');
  }
  const username = isX509 ? null : text('username');
  // Read-only in QEMU since 7.0, and given by nobody but old scripts.
  text('loaded');
  const [unknown] = take.keys();
  if (unknown !== undefined) throw new ParameterError(`Parameter '${unknown}' is unexpected`);
  if (dir === null) throw new ParameterError("Missing 'dir' property value");
  if (isX509) return new X509Credentials({ endpoint, dir, verifyPeer, sanityCheck });
  return new PskCredentials({ endpoint, dir, file: join(dir, PSK_FILE), username });
}

function endpointOf(value: string): TlsEndpoint {
  if (value === 'client' || value === 'server') return value;
  throw new ParameterError(`Parameter 'endpoint' does not accept value '${value}'`);
}

/** Finds credentials for one end of a connection. Throws ColoError with QEMU's texts. */
export type TlsLookup = (id: string, endpoint: TlsEndpoint) => TlsCredentials;

export class TlsCredentialsSet {
  readonly #byId = new Map<string, TlsCredentials>();
  /** Tells objects of another kind from ids that nobody has. */
  hasOtherObject: (id: string) => boolean = () => false;

  /** Throws ParameterError; ColoError when the id is in use. */
  add(id: string, type: string, properties: Readonly<Record<string, string>>): TlsCredentials {
    if (this.#byId.has(id)) {
      throw new ColoError(`attempt to add duplicate property '${id}' to object (type 'container')`);
    }
    const credentials = createTlsCredentials(type, properties);
    this.#byId.set(id, credentials);
    return credentials;
  }

  /** Connections that have them keep them. */
  delete(id: string): void {
    this.#byId.delete(id);
  }

  all(): ReadonlyMap<string, TlsCredentials> {
    return this.#byId;
  }

  readonly find: TlsLookup = (id, endpoint) => {
    const credentials = this.#byId.get(id);
    if (credentials) return requireEndpoint(credentials, endpoint);
    throw new ColoError(
      this.hasOtherObject(id)
        ? `Object with id '${id}' is not TLS credentials`
        : `No TLS credentials with id '${id}'`,
    );
  };
}
