/**
 * The socket chardev: one peer at a time over TCP or a unix socket, as a server or as a client that may reconnect
 * (QEMU chardev/char-socket.c for the behaviour; docs/qemu-behaviour.md 1.3 and 7.2).
 *
 * - A server serves one client. Others that connect meanwhile are held unread, as if they were still in the kernel's
 *   backlog, and are served in turn; beyond a few they are refused.
 * - A peer that ends its sending half has left (as in QEMU): the connection is given up.
 * - While nobody is attached, or the user stopped reading, bytes stay in the kernel, up to one chunk that was under way.
 *   A peer that leaves meanwhile is noticed at the next read or write.
 * - TCP_NODELAY is on unless switched off: a packet held by Nagle's algorithm delays a guest. QEMU's default is off.
 *
 * - With TLS credentials (tls.ts) bytes are counted and bounded in clear. A frontend is given them as they come out of the
 *   library, a turn of the event loop never more than a slab and a record of them.
 *
 * It does not frame (net/framing.ts) and does not decide when start-up waits for a peer (vm/ calls `waitConnected`).
 */
import net from 'node:net';
import { Deferred } from '../base/async.ts';
import { ClosedError, messageOf } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import { pauseAtOnce, readIntoOwnMemory } from '../base/own-memory-socket.ts';
import type { ReceivingMemory } from '../base/own-memory-socket.ts';
import { RECEIVE_SLAB } from '../base/packet-memory.ts';
import type { TlsCredentials } from '../base/tls/credentials.ts';
import { reasonOf } from '../base/tls/upgrade.ts';
import { connectionName, formatAddress, formatHostPort, normaliseHost } from './address.ts';
import type { SocketAddress } from './address.ts';
import { BoundedSender } from './bounded-sender.ts';
import type { Chardev, ChardevFrontend } from './chardev.ts';
import { connectSocket, listenSocket } from './dial.ts';
import { FrontendPort } from './frontend-port.ts';
import { TlsDoor, secureClient } from './tls.ts';

const log = loggerFor('chardev');

/** Clients of a server that wait while another one is served. Linux's backlog is of this order in QEMU too. */
const WAITING_CLIENTS_LIMIT = 4;

const CONNECT_DEADLINE_MS = 10_000;

export interface SocketChardevConfig {
  readonly backend: 'socket';
  readonly id: string;
  readonly address: SocketAddress;
  readonly server: boolean;
  /** Start-up should wait for the first client of this server. Carried for the VM; nothing here waits. */
  readonly wait: boolean;
  readonly nodelay: boolean;
  /** Pause before a client tries again, in ms; 0 means that it connects once, in `open`. */
  readonly reconnectMs: number;
  /** Id of the TLS credentials; absent: in clear. */
  readonly tlsCreds?: string;
  /** How long one attempt to connect may take, in ms (default 10 000). */
  readonly connectDeadlineMs?: number;
}

/** One established connection. */
interface Link {
  readonly socket: net.Socket;
  readonly sender: BoundedSender;
  readonly names: Chardev['connection'];
  readonly filename: string;
  bytesIn: number;
  /** Of them, in this turn of the event loop; counted over TLS only. */
  turnBytes: number;
}

export class SocketChardev implements Chardev {
  readonly config: SocketChardevConfig;
  readonly #port: FrontendPort;
  readonly #closing = new AbortController();
  readonly #memory: ReceivingMemory = {
    buffer: RECEIVE_SLAB,
    received: (count) => this.#received(count),
  };
  readonly #waitingClients: net.Socket[] = [];
  readonly #credentials: TlsCredentials | null;
  readonly #door: TlsDoor | null;
  /** What was complained of last about TLS, until bytes come. */
  #tlsComplaint: string | null = null;
  #server: net.Server | null = null;
  #link: Link | null = null;
  /** The latest connection, for its counters. */
  #latest: Link | null = null;
  #retryTimer: NodeJS.Timeout | null = null;
  #complained = false;
  #waiters: Deferred<void>[] = [];

  /** `credentials`: those that `tlsCreds` names, made for this end. */
  constructor(config: SocketChardevConfig, credentials: TlsCredentials | null = null) {
    this.config = config;
    this.#credentials = credentials;
    this.#door =
      credentials && config.server
        ? new TlsDoor(config.id, credentials, (socket) => this.#admit(socket))
        : null;
    this.#port = new FrontendPort({
      id: config.id,
      isConnected: () => this.connected,
      readingChanged: () => this.#applyReading(),
      frontendFailed: () => this.#frontendFailed(),
    });
  }

  get id(): string {
    return this.config.id;
  }

  get connected(): boolean {
    return this.#link !== null;
  }

  get connection(): Chardev['connection'] {
    return this.#link?.names ?? null;
  }

  get bytesOut(): number {
    return this.#latest?.sender.bytesSent ?? 0;
  }

  get bytesIn(): number {
    return this.#latest?.bytesIn ?? 0;
  }

  get user(): string | null {
    return this.#port.user;
  }

  /** Where a server listens, with the port that it was given for port 0; null for clients and before `open`. */
  get listening(): SocketAddress | null {
    const bound = this.#server?.address();
    if (bound === null || bound === undefined) return null;
    if (typeof bound === 'string') return { type: 'unix', path: bound };
    return { type: 'inet', host: bound.address, port: String(bound.port) };
  }

  /** What `query-chardev` calls its filename, e.g. `disconnected:tcp:127.0.0.1:9003,server=on`. */
  get filename(): string {
    const { address, server } = this.config;
    if (this.#link) return this.#link.filename;
    const shown = formatAddress(this.listening ?? address);
    return `disconnected:${address.type === 'unix' ? 'unix' : 'tcp'}:${shown}${server ? ',server=on' : ''}`;
  }

  /**
   * A server binds; a client connects, or with `reconnectMs` starts trying. Called once.
   * Throws ChardevOpenError, TimeoutError, or ClosedError when closed meanwhile.
   */
  async open(): Promise<void> {
    const { address, server, reconnectMs, nodelay } = this.config;
    if (server) {
      const listener = net.createServer({ pauseOnConnect: true, noDelay: nodelay });
      listener.on('connection', (socket) => this.#accept(socket));
      await listenSocket(listener, address);
      if (this.#closing.signal.aborted) {
        listener.close();
        throw new ClosedError(`chardev '${this.id}' was closed`);
      }
      // Out of descriptors, for one: the clients wait in the backlog and are accepted later.
      listener.on('error', (error) =>
        log.warn({ chardev: this.id, err: error }, 'accepting a client failed'),
      );
      this.#server = listener;
    } else if (reconnectMs > 0) {
      this.#dialInBackground();
    } else {
      await this.#dial();
    }
  }

  /** Resolves when a peer is connected. Throws ClosedError when the chardev is closed or `signal` is aborted first. */
  async waitConnected(signal?: AbortSignal): Promise<void> {
    const gone = (): ClosedError => new ClosedError(`chardev '${this.id}': gave up waiting for a connection`);
    if (this.#link) return;
    if (this.#closing.signal.aborted || signal?.aborted) throw gone();
    const waiter = new Deferred<void>();
    const onAbort = (): void => waiter.reject(gone());
    signal?.addEventListener('abort', onAbort, { once: true });
    this.#waiters.push(waiter);
    try {
      await waiter.promise;
    } finally {
      signal?.removeEventListener('abort', onAbort);
      this.#waiters = this.#waiters.filter((other) => other !== waiter);
    }
  }

  attach(frontend: ChardevFrontend, user: string): void {
    this.#port.attach(frontend, user);
  }

  detach(frontend: ChardevFrontend): void {
    this.#port.detach(frontend);
  }

  write(bytes: Uint8Array): boolean {
    return this.#link?.sender.send(bytes) ?? false;
  }

  writePair(head: Uint8Array, body: Uint8Array, from?: number, to?: number): boolean {
    return this.#link?.sender.send(head, body, from, to) ?? false;
  }

  setReading(on: boolean): void {
    this.#port.setReading(on);
  }

  /** Idempotent. What the kernel has not taken yet is dropped. */
  async close(): Promise<void> {
    this.#closing.abort();
    if (this.#retryTimer) clearTimeout(this.#retryTimer);
    this.#retryTimer = null;
    for (const waiter of this.#waiters) waiter.reject(new ClosedError(`chardev '${this.id}' was closed`));
    const server = this.#server;
    this.#server = null;
    const serverClosed = server && new Promise<void>((resolve) => server.close(() => resolve()));
    this.#door?.close();
    for (const socket of this.#waitingClients.splice(0)) socket.destroy();
    const socket = this.#link?.socket;
    const socketClosed = socket && new Promise<void>((resolve) => socket.once('close', () => resolve()));
    if (this.#link) this.#drop(this.#link);
    await Promise.all([serverClosed, socketClosed]);
  }

  readonly #onError = (error: Error): void => {
    log.debug({ chardev: this.id }, `connection failed: ${error.message}`);
    // In TLS 1.3 a server's refusal comes after the client's handshake: here is where its reason is told.
    const { code } = error as { code?: unknown };
    if (typeof code !== 'string' || !code.startsWith('ERR_SSL_')) return;
    const complaint = reasonOf(error);
    if (complaint !== this.#tlsComplaint) log.warn({ chardev: this.id }, `TLS failed: ${complaint}`);
    this.#tlsComplaint = complaint;
  };

  /** Bytes of the current connection have come into the slab: only that one is ever read. */
  #received(count: number): boolean {
    const link = this.#link;
    if (link === null) return true;
    link.bytesIn += count;
    this.#port.data(RECEIVE_SLAB, count);
    if (count < RECEIVE_SLAB.length) return true;
    // There is more. libuv would read on up to 32 times, and of two inputs that are compared one would run ahead.
    setImmediate(this.#readOn);
    return false;
  }

  /** All others have had their turn. */
  readonly #readOn = (): void => this.#applyReading();

  /** The same for what has come out of TLS. */
  #receivedSecure(link: Link, chunk: Buffer): void {
    if (this.#link !== link) return;
    this.#tlsComplaint = null;
    link.bytesIn += chunk.length;
    link.turnBytes += chunk.length;
    this.#port.data(chunk);
    if (link.turnBytes < RECEIVE_SLAB.length) return;
    link.turnBytes = 0;
    link.socket.pause();
    setImmediate(this.#readOn);
  }

  #accept(socket: net.Socket): void {
    // It may fail while it waits, too; 'close' follows.
    socket.on('error', this.#onError);
    if (this.#closing.signal.aborted) socket.destroy();
    else if (this.#door) this.#door.enter(socket);
    else this.#admit(socket);
  }

  #admit(socket: net.Socket): void {
    if (this.#door) socket.on('error', this.#onError);
    if (this.#closing.signal.aborted || this.#waitingClients.length >= WAITING_CLIENTS_LIMIT) {
      socket.destroy();
      return;
    }
    this.#waitingClients.push(socket);
    socket.once('close', () => {
      const at = this.#waitingClients.indexOf(socket);
      if (at >= 0) this.#waitingClients.splice(at, 1);
    });
    this.#serveNext();
  }

  #serveNext(): void {
    if (this.#link) return;
    const accepted = this.#waitingClients.shift();
    if (!accepted) return;
    if (this.#door) {
      this.#establish(accepted);
      return;
    }
    const socket = readIntoOwnMemory(accepted, this.#memory, true);
    socket.on('error', this.#onError);
    this.#establish(socket);
  }

  async #dial(): Promise<void> {
    const { address, nodelay, connectDeadlineMs = CONNECT_DEADLINE_MS } = this.config;
    const signal = this.#closing.signal;
    const options = { noDelay: nodelay, deadlineMs: connectDeadlineMs, signal };
    const socket = this.#credentials
      ? await secureClient(await connectSocket(address, options), this.#credentials, address, options)
      : await connectSocket(address, { ...options, memory: this.#memory });
    socket.on('error', this.#onError);
    if (signal.aborted) {
      socket.destroy();
      throw new ClosedError(`chardev '${this.id}' was closed`);
    }
    this.#complained = false;
    this.#establish(socket);
  }

  #dialInBackground(): void {
    this.#dial().catch((error: unknown) => {
      if (this.#closing.signal.aborted) return;
      // Once per outage: the attempts that follow fail for the same reason every second.
      if (!this.#complained) log.warn({ chardev: this.id }, `Unable to connect: ${messageOf(error)}`);
      this.#complained = true;
      this.#dialLater();
    });
  }

  #dialLater(): void {
    if (this.#closing.signal.aborted || this.config.reconnectMs <= 0) return;
    this.#retryTimer = setTimeout(() => {
      this.#retryTimer = null;
      this.#dialInBackground();
    }, this.config.reconnectMs);
  }

  #establish(socket: net.Socket): void {
    pauseAtOnce(socket);
    const link: Link = {
      socket,
      sender: new BoundedSender(socket),
      names: namesOf(socket),
      filename: filenameOf(socket, this.config),
      bytesIn: 0,
      turnBytes: 0,
    };
    if (this.#credentials) socket.on('data', (chunk: Buffer) => this.#receivedSecure(link, chunk));
    socket.on('end', () => this.#drop(link));
    socket.on('close', () => this.#drop(link));
    this.#link = link;
    this.#latest = link;
    for (const waiter of this.#waiters) waiter.resolve();
    this.#port.opened();
  }

  #drop(link: Link): void {
    if (this.#link !== link) return;
    this.#link = null;
    link.sender.flush();
    link.socket.destroy();
    this.#port.closed();
    if (this.config.server) this.#serveNext();
    else this.#dialLater();
  }

  #applyReading(): void {
    const socket = this.#link?.socket;
    if (!socket) return;
    if (this.#port.wantsData) socket.resume();
    else socket.pause();
  }

  #frontendFailed(): void {
    const link = this.#link;
    // Not from inside the frontend's own call: the next client's onOpen would come in the middle of it.
    if (link) queueMicrotask(() => this.#drop(link));
  }
}

function namesOf(socket: net.Socket): Chardev['connection'] {
  const { localAddress, localPort, remoteAddress, remotePort } = socket;
  if (!localAddress || localPort === undefined || !remoteAddress || remotePort === undefined) return null;
  const local = { host: localAddress, port: localPort };
  const remote = { host: remoteAddress, port: remotePort };
  return { outgoing: connectionName(local, remote), incoming: connectionName(remote, local) };
}

function filenameOf(socket: net.Socket, config: SocketChardevConfig): string {
  const mode = config.server ? ',server=on' : '';
  if (config.address.type === 'unix') return `unix:${config.address.path}${mode}`;
  const end = (host = '', port = 0): string => formatHostPort(normaliseHost(host), port);
  const local = end(socket.localAddress, socket.localPort);
  return `tcp:${local}${mode} <-> ${end(socket.remoteAddress, socket.remotePort)}`;
}
