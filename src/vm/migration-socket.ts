/**
 * The connection that a migration or a checkpoint channel goes over, outgoing and incoming, in clear or in TLS (QEMU:
 * the migration parameters tls-creds and tls-hostname; migration/tls.c, asked of QEMU 7.2 for the texts).
 */
import net from 'node:net';
import { Deferred, withDeadline } from '../base/async.ts';
import { ColoError, messageOf } from '../base/errors.ts';
import type { TlsCredentials } from '../base/tls/credentials.ts';
import { secureDialled } from '../base/tls/dialled.ts';
import { secureAsServer } from '../base/tls/upgrade.ts';
import { connectOptions, formatAddress } from './address.ts';
import type { MigrationAddress } from './address.ts';

const CONNECT_MS = 5_000;
/** Of either side, from the connection on. */
const HANDSHAKE_MS = 5_000;
/** Sources that have connected to one listener and not shaken hands. */
const HANDSHAKES_LIMIT = 4;

export interface OutgoingTls {
  readonly credentials: TlsCredentials;
  /** Whom the certificate must name; null: the host that is connected to. */
  readonly hostname: string | null;
}

/**
 * Throws ParameterError at once when a certificate is to be checked and there is no name to check it against, ColoError
 * with QEMU's text when the connection fails. The socket is gone then.
 */
export async function connectTo(
  address: MigrationAddress,
  tls: OutgoingTls | null,
  signal: AbortSignal,
): Promise<net.Socket> {
  const socket = net.connect(connectOptions(address));
  const connected = new Deferred<void>();
  socket.once('connect', () => connected.resolve());
  socket.on('error', connected.reject);
  const what = `Failed to connect to '${formatAddress(address)}'`;
  try {
    await withDeadline(connected.promise, CONNECT_MS, what, signal);
  } catch (cause) {
    socket.destroy();
    throw new ColoError(`${what}: ${connectFailure(cause)}`, { cause });
  }
  if (!tls) return socket;
  try {
    const options = { deadlineMs: HANDSHAKE_MS, signal };
    return await secureDialled(socket, tls.credentials, hostnameOf(tls, address), options);
  } catch (cause) {
    throw new ColoError(`${what}: TLS handshake failed: ${messageOf(cause)}`, { cause });
  }
}

/** Whom the certificate has to name, or null. */
export function hostnameOf(tls: OutgoingTls, address: MigrationAddress): string | null {
  return tls.hostname ?? (address.type === 'inet' ? address.host : null);
}

/** The part of a connect error that QEMU prints behind the address. */
function connectFailure(cause: unknown): string {
  const code = (cause as { code?: unknown } | null)?.code;
  if (code === 'ECONNREFUSED') return 'Connection refused';
  if (code === 'ENOENT') return 'No such file or directory';
  if (code === 'EHOSTUNREACH') return 'No route to host';
  return messageOf(cause);
}

/** Shakes hands with who comes to a listener. One that is silent keeps the next one out of nothing. */
export class IncomingTls {
  #underWay = 0;

  /** Null: turned away, and `complain` was told why. */
  async enter(
    clear: net.Socket,
    find: () => TlsCredentials,
    complain: (error: unknown) => void,
  ): Promise<net.Socket | null> {
    clear.on('error', () => undefined);
    if (this.#underWay >= HANDSHAKES_LIMIT) {
      clear.destroy();
      return null;
    }
    this.#underWay++;
    try {
      return await secureAsServer(clear, find(), HANDSHAKE_MS);
    } catch (error) {
      clear.destroy();
      complain(error);
      return null;
    } finally {
      this.#underWay--;
    }
  }
}
