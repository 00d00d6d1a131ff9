/**
 * TLS on socket chardevs (QEMU: `tls-creds=ID`; chardev/char-socket.c): a server shakes hands with each client before
 * anybody is told that it is there, a client before its connection counts as one. A client that is turned away, or that
 * says nothing, costs a server neither the client that it serves nor its place at the door.
 */
import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { messageOf } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import type { TlsCredentials } from '../base/tls/credentials.ts';
import { secureDialled } from '../base/tls/dialled.ts';
import { secureAsServer } from '../base/tls/upgrade.ts';
import { formatAddress } from './address.ts';
import type { SocketAddress } from './address.ts';
import { ChardevOpenError } from './dial.ts';

const log = loggerFor('chardev');

/** Clients of one server that have connected and not shaken hands. */
const HANDSHAKES_LIMIT = 16;
/** How long one of them may take. */
const HANDSHAKE_MS = 10_000;

/** A server's door: whoever comes out of it is known. */
export class TlsDoor {
  readonly #id: string;
  readonly #credentials: TlsCredentials;
  readonly #welcome: (socket: TLSSocket) => void;
  readonly #inside = new Set<Socket>();

  constructor(id: string, credentials: TlsCredentials, welcome: (socket: TLSSocket) => void) {
    this.#id = id;
    this.#credentials = credentials;
    this.#welcome = welcome;
  }

  /** `clear` has been accepted, and nothing was read from it. */
  enter(clear: Socket): void {
    if (this.#inside.size >= HANDSHAKES_LIMIT) {
      clear.destroy();
      return;
    }
    this.#inside.add(clear);
    secureAsServer(clear, this.#credentials, HANDSHAKE_MS).then(
      (socket) => {
        if (this.#inside.delete(clear)) this.#welcome(socket);
        else socket.destroy();
      },
      (error: unknown) => {
        if (!this.#inside.delete(clear)) return;
        log.warn({ chardev: this.#id }, `a client was turned away: ${messageOf(error)}`);
      },
    );
  }

  close(): void {
    const inside = [...this.#inside];
    this.#inside.clear();
    for (const clear of inside) clear.destroy();
  }
}

/** Throws ChardevOpenError with what is wrong, TimeoutError, ClosedError. `clear` is gone then. */
export async function secureClient(
  clear: Socket,
  credentials: TlsCredentials,
  address: SocketAddress,
  options: { readonly deadlineMs: number; readonly signal: AbortSignal },
): Promise<TLSSocket> {
  const hostname = address.type === 'inet' ? address.host || 'localhost' : null;
  try {
    return await secureDialled(clear, credentials, hostname, options);
  } catch (cause) {
    const name = formatAddress(address);
    throw new ChardevOpenError(`Failed to connect to '${name}': TLS handshake failed: ${messageOf(cause)}`, {
      cause,
    });
  }
}
