/**
 * The dashboard's server: the page's files, `/healthz`, and WebSockets for what the page shows (`/v1/live`) and for
 * consoles and screens (`/v1/console`, `/v1/screen`); protocol.ts has what is said there, door.ts who may. It knows no VM:
 * everything is asked of a DashboardSource. docs/dashboard.md is for people.
 *
 * A WebSocket that is refused is opened and closed at once, since a browser tells its page the code of a close frame and
 * nothing of an HTTP answer. Nothing that is said on it before is read.
 */
import { once } from 'node:events';
import http, { type IncomingMessage, type ServerResponse } from 'node:http';
import https from 'node:https';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { WebSocketServer, type WebSocket } from 'ws';
import { messageOf, ParameterError } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import { TLS_MIN_VERSION } from '../base/tls/credentials.ts';
import { hostAndPort } from '../api/address.ts';
import { ForbiddenError } from '../api/errors.ts';
import type { TlsMaterial } from '../api/tls.ts';
import { Actions } from './actions.ts';
import { Door, SUBPROTOCOL } from './door.ts';
import { Feed } from './feed.ts';
import { answerText, StaticFiles } from './files.ts';
import { parseClientMessage, parseScreenQuery } from './messages.ts';
import { pipe } from './pipe.ts';
import { DASHBOARD_VERSION } from './protocol.ts';
import { toldOf } from './questions.ts';
import type { DashboardSource } from './source.ts';
import { encode } from './wire.ts';
import { CLOSE, closeReason, Watcher } from './watcher.ts';

/** Connections of one listener. */
export const MAX_CONNECTIONS = 512;
/** Pages that watch at a time. */
export const MAX_WATCHERS = 64;
/** Consoles and screens that are open at a time. */
export const MAX_PIPES = 64;
/** For a request to arrive whole. */
export const REQUEST_ARRIVAL_MS = 10_000;
/** One message of a page: a wish. */
export const MAX_WISH_BYTES = 4 * 1024;
/** One message of a console or screen: what somebody types or pastes. */
export const MAX_TYPED_BYTES = 64 * 1024;
/** A browser that answers no ping until the next one is gone. */
export const PING_MS = 30_000;

/** Beside the program, as it is built; from source, where the build puts it. */
const BUNDLE = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? '../../dist/web' : '../web', import.meta.url),
);

export interface DashboardListen {
  readonly host: string;
  readonly port: number;
  /** What everybody has to show. Null: who runs this process needs none, and nobody from other machines gets in. */
  readonly token?: string | null;
  /** Without one: what others than that user show, to be kept over restarts; default: a new one. */
  readonly spareToken?: string;
  /** Under which browsers may ask, besides addresses and localhost. */
  readonly names?: readonly string[];
  readonly tls?: TlsMaterial;
  /** The page's folder. */
  readonly files?: string;
  /** False: nobody may act or type. */
  readonly mayAct?: boolean;
}

export class DashboardServer {
  readonly url: string;
  readonly #server: http.Server;
  readonly #source: DashboardSource;
  readonly #door: Door;
  readonly #files: StaticFiles;
  readonly #mayAct: boolean;
  readonly #feed: Feed;
  readonly #closing = new AbortController();
  readonly #actions: Actions;
  readonly #log = loggerFor('dashboard');
  readonly #live = webSockets(MAX_WISH_BYTES);
  readonly #typed = webSockets(MAX_TYPED_BYTES);
  /** Every open WebSocket; true: it has been heard since the last ping. */
  readonly #sockets = new Map<WebSocket, boolean>();
  readonly #pings: NodeJS.Timeout;
  #watchers = 0;
  #pipes = 0;

  private constructor(
    server: http.Server,
    url: string,
    door: Door,
    files: StaticFiles,
    source: DashboardSource,
    mayAct: boolean,
  ) {
    this.#server = server;
    this.url = url;
    this.#door = door;
    this.#files = files;
    this.#source = source;
    this.#mayAct = mayAct;
    this.#feed = new Feed(source);
    this.#actions = new Actions(source, this.#closing.signal);
    this.#pings = setInterval(() => this.#ping(), PING_MS);
    server.on('request', (request, response) => this.#answer(request, response));
    server.on('upgrade', (request, socket, head) => void this.#enter(request, socket, head));
  }

  /** Throws ParameterError: the address cannot be had, or a token is missing or none. */
  static async listen(options: DashboardListen, source: DashboardSource): Promise<DashboardServer> {
    const { host, port, tls, token = null, spareToken, names = [], files = BUNDLE, mayAct = true } = options;
    const door = new Door({ host, names, token, ...(spareToken === undefined ? {} : { spareToken }) });
    const bundle = await StaticFiles.read(files);
    const limits = { headersTimeout: REQUEST_ARRIVAL_MS, requestTimeout: REQUEST_ARRIVAL_MS };
    const server = tls
      ? https.createServer({ ...limits, cert: tls.cert, key: tls.key, minVersion: TLS_MIN_VERSION })
      : http.createServer(limits);
    server.maxConnections = MAX_CONNECTIONS;
    server.listen({ host, port });
    try {
      await once(server, 'listening');
    } catch (cause) {
      throw new ParameterError(`dashboard: ${hostAndPort(host, port)}: ${messageOf(cause)}`, { cause });
    }
    const at = hostAndPort(host, (server.address() as AddressInfo).port);
    const url = `${tls ? 'https' : 'http'}://${at}/`;
    return new DashboardServer(server, url, door, bundle, source, mayAct);
  }

  /** What opens it for those who need one: for a person's eyes only. */
  get token(): string {
    return this.#door.token;
  }

  /** With the token where a browser keeps it to itself: no browser sends what is behind '#'. */
  get pageUrl(): string {
    return `${this.url}#token=${this.token}`;
  }

  /** Whether the user that runs this process needs the token, too. */
  get isTokenRequired(): boolean {
    return this.#door.isTokenRequired;
  }

  async close(): Promise<void> {
    clearInterval(this.#pings);
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#closing.abort();
    this.#feed.close();
    for (const socket of this.#sockets.keys()) {
      socket.close(CLOSE.going, 'the dashboard is being closed');
      socket.terminate();
    }
    this.#server.closeAllConnections();
    await closed;
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    try {
      this.#door.checkHost(request);
    } catch (error) {
      answerText(response, 403, `${messageOf(error)}\n`);
      return;
    }
    const name = pathOf(request);
    if (request.method !== 'GET' && request.method !== 'HEAD') answerText(response, 405, 'GET only\n');
    else if (name === '/healthz') answerText(response, 200, 'ok\n');
    else this.#files.answer(request, response, name);
  }

  /** Never throws: what is wrong is told on the socket. */
  async #enter(request: IncomingMessage, connection: Duplex, head: Buffer): Promise<void> {
    connection.on('error', () => connection.destroy());
    const name = pathOf(request);
    const isLive = name === '/v1/live';
    if (!isLive && name !== '/v1/console' && name !== '/v1/screen') {
      connection.end('HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n');
      return;
    }
    const refusal = await this.#door
      .refusalOf(request)
      .catch((error: unknown) => ({ code: 4403, reason: messageOf(error) }));
    if (connection.destroyed || this.#closing.signal.aborted) {
      connection.destroy();
      return;
    }
    (isLive ? this.#live : this.#typed).handleUpgrade(request, connection, head, (socket) => {
      socket.on('error', (error) => this.#log.debug({ reason: error.message }, 'a WebSocket failed'));
      const full = isLive ? this.#watchers >= MAX_WATCHERS : this.#pipes >= MAX_PIPES;
      if (refusal) this.#refuse(socket, refusal.code, refusal.reason);
      else if (full) {
        this.#refuse(socket, 4403, isLive ? 'too many pages watch already' : 'too many consoles are open');
      } else {
        this.#sockets.set(socket, true);
        socket.on('pong', () => this.#sockets.set(socket, true));
        socket.once('close', () => this.#sockets.delete(socket));
        if (isLive) this.#watch(socket);
        else void this.#connect(socket, name, request);
      }
    });
  }

  #refuse(socket: WebSocket, code: number, reason: string): void {
    this.#log.debug({ code, reason }, 'a page was refused');
    socket.close(code, closeReason(reason));
    // Its own close frame would be waited for; it gets a moment to take this one.
    setTimeout(() => socket.terminate(), 1_000).unref();
  }

  #watch(socket: WebSocket): void {
    this.#watchers++;
    const watcher = new Watcher(socket);
    const { kind, software, host } = this.#source;
    watcher.tell(
      encode({ type: 'hello', version: DASHBOARD_VERSION, kind, software, host, mayAct: this.#mayAct }),
    );
    this.#feed.add(watcher);
    socket.on('message', (data, isBinary) => {
      if (isBinary) watcher.close(CLOSE.badMessage, 'a message is text');
      else if (!watcher.mayTalk(performance.now())) watcher.close(CLOSE.badMessage, 'too many messages');
      else void this.#hear(watcher, (data as Buffer).toString());
    });
    socket.once('close', () => {
      this.#watchers--;
      this.#feed.remove(watcher);
    });
  }

  async #hear(watcher: Watcher, text: string): Promise<void> {
    let message;
    try {
      message = parseClientMessage(text);
    } catch (error) {
      watcher.close(CLOSE.badMessage, messageOf(error));
      return;
    }
    if (message.type === 'watch') {
      this.#feed.watch(watcher, message.vm);
      return;
    }
    const outcome = this.#mayAct
      ? await this.#actions.run(message)
      : { error: 'this dashboard is for watching only', text: '' };
    watcher.tell(encode({ type: 'answer', id: message.id, ...outcome }));
  }

  async #connect(socket: WebSocket, name: string, request: IncomingMessage): Promise<void> {
    this.#pipes++;
    socket.once('close', () => this.#pipes--);
    // What is typed before the port is there waits in the kernel.
    socket.pause();
    try {
      const isConsole = name === '/v1/console';
      const { vm, copy } = parseScreenQuery(new URL(request.url ?? '', 'http://here').searchParams);
      if (!isConsole && !this.#mayAct) {
        throw new ForbiddenError('this dashboard is for watching only: a screen would take keys');
      }
      const port = await (isConsole ? this.#source.console(vm, copy) : this.#source.screen(vm, copy));
      if (socket.readyState !== socket.OPEN) {
        port.on('error', () => undefined).destroy();
        return;
      }
      // A screen's bytes begin with a conversation; its server drops a secondary's keys itself (docs/qmp.md).
      pipe(socket, port, { isReadOnly: isConsole && (copy === 'secondary' || !this.#mayAct) });
      socket.resume();
    } catch (error) {
      socket.resume();
      socket.close(CLOSE.failed, closeReason(toldOf(error)));
    }
  }

  #ping(): void {
    for (const [socket, isHeard] of this.#sockets) {
      if (!isHeard) socket.terminate();
      else {
        this.#sockets.set(socket, false);
        socket.ping();
      }
    }
  }
}

function webSockets(maxPayload: number): WebSocketServer {
  return new WebSocketServer({
    noServer: true,
    clientTracking: false,
    // Pictures are small and often: what packing them would cost is more than what it would save.
    perMessageDeflate: false,
    maxPayload,
    // The token, which is among those that were offered, is not sent back.
    handleProtocols: (offered) => offered.has(SUBPROTOCOL) && SUBPROTOCOL,
  });
}

function pathOf(request: IncomingMessage): string {
  return (request.url ?? '').split('?')[0] ?? '';
}
