/**
 * A QMP monitor's endpoint: `-qmp unix:PATH,server=on,wait=off`, `-qmp tcp:H:P,…`, `-qmp stdio`. QEMU serves one client at
 * a time on a socket; this one serves many, each with its own negotiation, so that a person may look while a manager
 * is connected. Events go to every session that has negotiated.
 *
 * Owns sockets and sessions, nothing else: commands come in as the session options' `dispatch`.
 */
import { access, lstat, unlink } from 'node:fs/promises';
import net from 'node:net';
import path from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { Deferred, withDeadline } from '../base/async.ts';
import { ClosedError, ColoError } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import { stringifyJson } from './json-stream.ts';
import type { QmpSession, QmpSessionOptions } from './session.ts';
import { serveStreams } from './stream-transport.ts';
import { socketErrorText } from './socket-errors.ts';
import { timestampOf } from './types.ts';

const log = loggerFor('qmp-server');

/** Clients of one monitor at the same time; further ones are refused. */
const SESSIONS_LIMIT = 64;
const CONNECT_DEADLINE_MS = 10_000;

/** Where a monitor is: a unix socket, or TCP. */
export type QmpAddress =
  | {
      /** Of the unix socket; at most 107 bytes. */
      readonly path: string;
    }
  | {
      /** A name or a numeric address, IPv6 without brackets. */
      readonly host: string;
      /** 1 to 65535; 0 asks a listener for any free port. */
      readonly port: number;
    };

export class QmpServer {
  readonly #options: QmpSessionOptions;
  readonly #sessions = new Set<QmpSession>();
  readonly #servers: net.Server[] = [];
  #connected = new Deferred<void>();
  #emptied: (() => void)[] = [];
  #closing = false;

  constructor(options: QmpSessionOptions) {
    this.#options = options;
  }

  get sessionCount(): number {
    return this.#sessions.size;
  }

  /** Binds; port 0 takes a free one. Returns where it listens. May be called for several addresses. Throws ColoError. */
  async listen(address: QmpAddress): Promise<QmpAddress> {
    if ('path' in address) await removeStaleSocket(address.path);
    // Half open: what a client sent before it shut down its side is still answered.
    const server = net.createServer({ allowHalfOpen: true, noDelay: true }, (socket) => this.#accept(socket));
    await new Promise<void>((resolve, reject) => {
      const onError = (error: Error): void => {
        const text = socketErrorText(error);
        const taken = 'port' in address && (error as NodeJS.ErrnoException).code === 'EADDRINUSE';
        const what = taken ? 'Failed to find an available port' : 'Failed to bind socket';
        reject(
          new ColoError(`${what}${'path' in address ? ` to ${address.path}` : ''}: ${text}`, {
            cause: error,
          }),
        );
      };
      server.once('error', onError);
      server.listen(address, () => {
        server.off('error', onError);
        resolve();
      });
    });
    server.on('error', (error) => log.warn(`accepting a QMP client failed: ${error.message}`));
    this.#servers.push(server);
    const bound = server.address();
    return bound === null || typeof bound === 'string' ? address : { host: bound.address, port: bound.port };
  }

  /** `-qmp tcp:H:P` without `server`: this side connects, then serves. Throws ColoError. */
  async dial(address: QmpAddress): Promise<void> {
    const socket = net.connect({ ...address, allowHalfOpen: true, noDelay: true });
    const connected = new Promise<void>((resolve, reject) =>
      socket.once('connect', resolve).once('error', reject),
    );
    try {
      await withDeadline(connected, CONNECT_DEADLINE_MS, 'connecting');
    } catch (error) {
      socket.on('error', () => undefined).destroy();
      const name = 'path' in address ? address.path : `${address.host}:${address.port}`;
      throw new ColoError(`Failed to connect to '${name}': ${socketErrorText(error)}`, { cause: error });
    }
    this.#accept(socket);
  }

  /** Serves one client over a pair of streams, e.g. standard input and output. */
  serve(input: Readable, output: Writable): QmpSession {
    const session = serveStreams(input, output, this.#options, (ended) => this.#ended(ended));
    this.#sessions.add(session);
    this.#connected.resolve();
    return session;
  }

  /** Resolves when the first client has connected (`wait=on`). Throws ClosedError on `signal` or `close`. */
  async waitConnected(signal?: AbortSignal): Promise<void> {
    const gone = new Deferred<void>();
    const onAbort = (): void => gone.reject(new ClosedError('gave up waiting for a QMP client'));
    if (signal?.aborted) onAbort();
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      await Promise.race([this.#connected.promise, gone.promise]);
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /** Sends an event to every client that has negotiated. `data` is left out when it has no members. */
  broadcast(event: string, data: object = {}, timestamp = timestampOf()): void {
    if (this.#sessions.size === 0) return;
    const body = Object.keys(data).length > 0 ? { timestamp, event, data } : { timestamp, event };
    const text = `${stringifyJson(body)}\r\n`;
    for (const session of this.#sessions) session.sendEvent(text);
  }

  /** Stops listening, lets every client read what it is owed (for a second at most), and closes. Idempotent. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#connected.reject(new ClosedError('the QMP server was closed'));
    const servers = this.#servers.splice(0);
    const stopped = servers.map((server) => new Promise<void>((resolve) => server.close(() => resolve())));
    for (const session of [...this.#sessions]) session.close();
    if (this.#sessions.size > 0) await new Promise<void>((resolve) => this.#emptied.push(resolve));
    await Promise.all(stopped);
  }

  #accept(socket: net.Socket): void {
    if (this.#closing || this.#sessions.size >= SESSIONS_LIMIT) {
      socket.on('error', () => undefined).destroy();
      return;
    }
    this.serve(socket, socket);
  }

  #ended(session: QmpSession): void {
    this.#sessions.delete(session);
    if (this.#sessions.size > 0) return;
    for (const resolve of this.#emptied.splice(0)) resolve();
  }
}

/**
 * A socket that a dead process left would refuse us its name. Nothing but a socket is ever removed. A missing folder is
 * told here, because libuv calls it "permission denied" when binding.
 */
async function removeStaleSocket(file: string): Promise<void> {
  try {
    await access(path.dirname(file));
    if (!(await lstat(file)).isSocket())
      throw new ColoError(`Failed to unlink socket ${file}: it is not a socket`);
    await unlink(file);
  } catch (error) {
    if (error instanceof ColoError) throw error;
    const { code, path: missing } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' && missing === file) return;
    throw new ColoError(`Failed to bind socket to ${file}: ${socketErrorText(error)}`, { cause: error });
  }
}
