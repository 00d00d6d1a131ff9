/**
 * The TLS options of the `nbd` driver: `tls-creds=ID` as QEMU has it, or what an nbds URI brings (`tls-certificates`,
 * `tls-psk-file`, `tls-username`, `tls-verify-peer`; not options of QEMU's), and `tls-hostname` for both.
 */
import { ColoError, ParameterError } from '../../base/errors.ts';
import type { TlsCredentials } from '../../base/tls/credentials.ts';
import { PskCredentials } from '../../base/tls/psk.ts';
import { X509Credentials } from '../../base/tls/x509.ts';
import type { NbdAddress } from '../../nbd/address.ts';
import type { ClientTls } from '../../nbd/client-connection.ts';
import type { OptionReader } from '../options.ts';
import type { OpenContext } from '../registry.ts';

/** Null: in clear. Throws ParameterError, ColoError. */
export function takeTls(options: OptionReader, address: NbdAddress, context: OpenContext): ClientTls | null {
  const credentials = takeCredentials(options, context);
  const hostname = options.string('tls-hostname') ?? ('host' in address ? address.host : null);
  if (!credentials) return null;
  // Whether there is a name to check must not wait until the server has been reached.
  credentials.clientOptions(hostname);
  return { credentials, hostname };
}

function takeCredentials(options: OptionReader, context: OpenContext): TlsCredentials | null {
  const id = options.string('tls-creds');
  const dir = options.string('tls-certificates');
  const file = options.string('tls-psk-file');
  const username = options.string('tls-username') ?? null;
  const verifyPeer = options.boolean('tls-verify-peer');
  if ([id, dir, file].filter((given) => given !== undefined).length > 1) {
    throw new ParameterError('Only one of tls-creds, tls-certificates and tls-psk-file may be given');
  }
  if (username !== null && file === undefined) throw new ParameterError('tls-username needs tls-psk-file');
  if (verifyPeer !== undefined && dir === undefined) {
    throw new ParameterError('tls-verify-peer needs tls-certificates');
  }
  if (id !== undefined) {
    if (!context.tlsCredentials) throw new ColoError(`No TLS credentials with id '${id}'`);
    return context.tlsCredentials(id, 'client');
  }
  if (dir !== undefined) {
    return new X509Credentials({
      endpoint: 'client',
      dir,
      verifyPeer: verifyPeer ?? true,
      sanityCheck: true,
    });
  }
  return file === undefined ? null : new PskCredentials({ endpoint: 'client', dir: null, file, username });
}
