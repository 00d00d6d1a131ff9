/**
 * An NBD server: one listening address, exports that come and go, up to 100 clients (QMP's nbd-server-start, -add,
 * -remove, -stop). What a client may do is in server-session.ts; what an export is, in export.ts.
 *
 * The server owns its sockets, not the sources: whoever adds an export closes its source after `removeExport`, which
 * waits for the requests in flight. `close` does not wait for sources, so that a stuck disk cannot hold it.
 */
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { lstat, unlink } from 'node:fs/promises';
import { ColoError, ParameterError } from '../base/errors.ts';
import { loggerFor, type Logger } from '../base/logger.ts';
import { requireEndpoint, type TlsCredentials } from '../base/tls/credentials.ts';
import { textOfAddress, type NbdAddress } from './address.ts';
import { BufferPool } from './buffer-pool.ts';
import { NbdConnectError, systemErrorText } from './errors.ts';
import type { NbdExport, NbdExportOptions } from './export.ts';
import { NBD_DEFAULT_MAX_CONNECTIONS, NBD_HANDSHAKE_TIMEOUT_MS, NBD_MAX_STRING } from './limits.ts';
import { NbdServerSession } from './server-session.ts';

/** All optional. */
export interface NbdServerOptions {
  /** Clients at one time, default 100; 0 = no limit. 1 also means that exports do not offer CAN_MULTI_CONN. */
  readonly maxConnections?: number;
  /** For the handshake, TLS included, in ms: who takes longer is disconnected. Default 10 000. */
  readonly handshakeTimeoutMs?: number;
  /** Server credentials: every client has to begin TLS. Default null: none can. */
  readonly tls?: TlsCredentials | null;
}

/**
 * Serves exports at one address. Exports may come and go at any time; a client that breaks the protocol is disconnected,
 * and nobody else is. What its clients hold of memory is bounded.
 */
export class NbdServer {
  readonly #maxConnections: number;
  readonly #handshakeTimeoutMs: number;
  readonly #tls: TlsCredentials | null;
  readonly #log: Logger = loggerFor('nbd-server');
  readonly #pool = new BufferPool();
  readonly #exports = new Map<string, NbdExport>();
  readonly #sessions = new Set<NbdServerSession>();
  #listener: Server | null = null;
  #address: NbdAddress | null = null;
  #closing: Promise<void> | null = null;

  /** Throws ParameterError when the credentials are a client's. */
  constructor(options: NbdServerOptions = {}) {
    this.#maxConnections = options.maxConnections ?? NBD_DEFAULT_MAX_CONNECTIONS;
    this.#handshakeTimeoutMs = options.handshakeTimeoutMs ?? NBD_HANDSHAKE_TIMEOUT_MS;
    this.#tls = options.tls ? requireEndpoint(options.tls, 'server') : null;
  }

  /** Where it listens (with the real port); null before `listen`. */
  get address(): NbdAddress | null {
    return this.#address;
  }

  /** Clients that are connected, also those that have not chosen an export. */
  get clientCount(): number {
    return this.#sessions.size;
  }

  /** In the order in which they were added. */
  get exportNames(): string[] {
    return [...this.#exports.keys()];
  }

  /**
   * Starts to listen; port 0 takes any free one, which the result reports. An abandoned unix socket is replaced.
   * Throws NbdConnectError when the address cannot be had, ColoError when it listens already or is closed.
   */
  async listen(address: NbdAddress): Promise<NbdAddress> {
    if (this.#listener || this.#closing) throw new ColoError('NBD server already running');
    const listener = createServer({ allowHalfOpen: true, pauseOnConnect: true });
    this.#listener = listener;
    if ('path' in address) await removeAbandonedSocket(address.path);
    try {
      await new Promise<void>((resolve, reject) => {
        listener.once('error', reject);
        listener.listen('path' in address ? { path: address.path } : { ...address }, resolve);
      });
    } catch (cause) {
      this.#listener = null;
      const message = `Failed to listen on '${textOfAddress(address)}': ${systemErrorText(cause)}`;
      throw new NbdConnectError(message, { cause });
    }
    listener.on('error', (error) => this.#log.error(error, 'NBD listener'));
    listener.on('connection', (socket) => this.#accept(socket));
    const bound = listener.address();
    this.#address = 'path' in address ? address : { host: address.host, port: (bound as AddressInfo).port };
    return this.#address;
  }

  /** Throws ParameterError when the name is in use, or name or description are above 4096 bytes. */
  addExport(options: NbdExportOptions): void {
    const { name, source, writable, description = '', fastZeroes = false } = options;
    if (this.#exports.has(name)) throw new ParameterError(`NBD server already has export named '${name}'`);
    if (Buffer.byteLength(name) > NBD_MAX_STRING) throw new ParameterError('export name too long');
    if (Buffer.byteLength(description) > NBD_MAX_STRING) throw new ParameterError('description too long');
    this.#exports.set(name, { name, source, writable, description, fastZeroes });
  }

  /** How many clients use an export. */
  clientsOf(name: string): number {
    const found = this.#exports.get(name);
    if (!found) return 0;
    return [...this.#sessions].filter((session) => session.export === found).length;
  }

  /** Whether there is an export of that name. */
  hasExport(name: string): boolean {
    return this.#exports.has(name);
  }

  /**
   * Takes an export away: no new clients at once, the present ones get the replies they are owed and are closed.
   * Resolves when no request touches the source any more. False when there is no such export.
   */
  async removeExport(name: string): Promise<boolean> {
    const removed = this.#exports.get(name);
    if (!removed) return false;
    this.#exports.delete(name);
    const sessions = [...this.#sessions].filter((session) => session.export === removed);
    for (const session of sessions) session.stop();
    await Promise.all(sessions.map((session) => session.idle()));
    return true;
  }

  /** Stops listening and drops every client. Requests that sources still work on end unheard. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const listener = this.#listener;
    this.#exports.clear();
    const sessions = [...this.#sessions];
    for (const session of sessions) session.drop();
    await Promise.all(sessions.map((session) => session.closed));
    if (!listener?.listening) return;
    await new Promise<void>((resolve) => listener.close(() => resolve()));
  }

  #accept(socket: Socket): void {
    if (this.#closing || (this.#maxConnections > 0 && this.#sessions.size >= this.#maxConnections)) {
      this.#log.warn(`NBD connection refused: ${this.#sessions.size} clients are connected`);
      socket.on('error', () => undefined);
      socket.destroy();
      return;
    }
    const host = {
      multiConn: this.#maxConnections !== 1,
      requiresTls: this.#tls !== null,
      findExport: (name: string) => this.#exports.get(name) ?? null,
      listExports: () => [...this.#exports.values()],
    };
    const session = new NbdServerSession(socket, host, this.#tls, this.#pool, this.#log);
    this.#sessions.add(session);
    void session.run(this.#handshakeTimeoutMs).then(() => this.#sessions.delete(session));
  }
}

/** A socket file that nobody listens on would make the address unusable for ever; anything else is left alone. */
async function removeAbandonedSocket(path: string): Promise<void> {
  try {
    if ((await lstat(path)).isSocket()) await unlink(path);
  } catch (error) {
    // The listener's own error names what is wrong with the path, if it matters.
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') return;
  }
}
