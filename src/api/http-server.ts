/**
 * The daemon's API over HTTP: the routes of routes.ts on a unix socket (people of this host, mode 0600) or on TCP (other
 * hosts, people with `--node HOST:PORT`). One ApiServer a listener. On TCP with TLS only clients with a certificate of
 * the CA get in; without TLS whoever reaches the port does, so that is told in the log when it is not loopback.
 *
 * Every body is bounded and checked by a schema; whatever comes in ends its own connection at most. A call may take
 * minutes: until its answer is there the client hears `102 Processing` (RFC 2518, 10.1) every few seconds, and the call's
 * signal aborts when the client has gone. What the calls do is the service's business.
 */
import { once } from 'node:events';
import { unlink } from 'node:fs/promises';
import http from 'node:http';
import https from 'node:https';
import type { AddressInfo } from 'node:net';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { messageOf, ParameterError } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import { hostAndPort, isLoopback } from './address.ts';
import { UpgradeDoor } from './upgrade-door.ts';
import { errorToWire, ForbiddenError } from './errors.ts';
import { checkCaller } from './guard.ts';
import { NODE_ROUTES, PEER_ROUTES, type AnswerRoute, type Incoming, type StreamRoute } from './routes.ts';
import { API_VERSION, type NodeService, type PeerService } from './service.ts';
import { KEEP_ALIVE_MS, writeLines } from './stream.ts';
import type { TlsMaterial } from './tls.ts';
import { TLS_MIN_VERSION } from '../base/tls/credentials.ts';
import { listenPrivately } from './unix-socket.ts';

/** Of a request's body. */
export const MAX_BODY_BYTES = 1024 * 1024;
/** Clients of one listener at a time. */
export const MAX_CONNECTIONS = 512;
/** For a request to arrive whole. */
export const REQUEST_ARRIVAL_MS = 30_000;
/** For what is under way when the server is closed. */
export const CLOSE_GRACE_MS = 1_000;

export interface ApiServices {
  readonly node: NodeService;
  /** Asked instead of `node` by a call that another host has sent on: it is not sent on again. Default: `node`. */
  readonly forwarded?: NodeService;
  /** Served on TCP only. */
  readonly peer?: PeerService;
}

export type ApiListen =
  | { readonly path: string }
  | {
      readonly host: string;
      readonly port: number;
      readonly tls?: TlsMaterial;
      /** Names under which clients may ask besides addresses and localhost. */
      readonly names?: readonly string[];
    };

export class ApiServer {
  /** `unix:PATH` or `HOST:PORT`, the real port. */
  readonly address: string;
  readonly #app: FastifyInstance;
  readonly #server: http.Server;
  readonly #closing: AbortController;
  readonly #path: string | null;
  #closed: Promise<void> | null = null;

  private constructor(
    app: FastifyInstance,
    server: http.Server,
    closing: AbortController,
    address: string,
    path: string | null,
  ) {
    this.#app = app;
    this.#server = server;
    this.#closing = closing;
    this.address = address;
    this.#path = path;
  }

  /** Throws ParameterError when the address cannot be had, BusyError when another daemon has it. */
  static async listen(listen: ApiListen, services: ApiServices): Promise<ApiServer> {
    const log = loggerFor('api');
    const closing = new AbortController();
    const { app, server } = createApp(listen, services, closing.signal);
    await app.ready();
    if ('path' in listen) {
      await listenPrivately(server, listen.path);
      log.info({ path: listen.path }, 'API listens');
      return new ApiServer(app, server, closing, `unix:${listen.path}`, listen.path);
    }
    const { host, port, tls } = listen;
    try {
      server.listen({ host, port });
      await once(server, 'listening');
    } catch (cause) {
      throw new ParameterError(`${hostAndPort(host, port)}: the API cannot listen: ${messageOf(cause)}`, {
        cause,
      });
    }
    const address = hostAndPort(host, (server.address() as AddressInfo).port);
    log.info({ address, tls: tls !== undefined }, 'API listens');
    if (!tls && !isLoopback(host)) {
      log.warn(
        { address },
        'API without TLS: whoever reaches this address can stop and move every VM; set tls',
      );
    }
    return new ApiServer(app, server, closing, address, null);
  }

  /** Certificates were renewed: new connections get the new ones. */
  setTls(material: TlsMaterial): void {
    if (this.#server instanceof https.Server) this.#server.setSecureContext(material);
  }

  /** Streams and calls under way are told to end; what does not within CLOSE_GRACE_MS is cut. */
  async close(): Promise<void> {
    this.#closed ??= this.#close();
    await this.#closed;
  }

  async #close(): Promise<void> {
    if (this.#path !== null) await unlink(this.#path).catch(() => undefined); // somebody else has removed it
    const ended = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#closing.abort(new Error('the daemon is being stopped'));
    this.#server.closeIdleConnections();
    const cut = setTimeout(() => this.#server.closeAllConnections(), CLOSE_GRACE_MS);
    await ended;
    clearTimeout(cut);
    await this.#app.close();
  }
}

function createApp(
  listen: ApiListen,
  services: ApiServices,
  closing: AbortSignal,
): { app: FastifyInstance; server: http.Server } {
  let server!: http.Server;
  const app = fastify({
    bodyLimit: MAX_BODY_BYTES,
    exposeHeadRoutes: false,
    frameworkErrors: (error, request, reply) => void sendError(reply, fromFastify(error, request)),
    routerOptions: { maxParamLength: 300 },
    serverFactory: (handler) => (server = createServer(listen, handler)),
  });
  // A form of a web page could send these without asking first.
  app.removeContentTypeParser('text/plain');
  app.addHook('onRequest', (request, _reply, done) => {
    checkCaller(request.headers, 'path' in listen ? null : (listen.names ?? []).concat(listen.host));
    done();
  });
  app.setErrorHandler((error, request, reply) => sendError(reply, fromFastify(error, request)));
  app.setNotFoundHandler((request, reply) =>
    sendError(
      reply,
      request.url.startsWith('/peer/') && 'path' in listen
        ? new ForbiddenError(`${request.url}: other hosts' calls come in by TCP only`)
        : new ParameterError(`${request.method} ${request.url}: no such route`),
      404,
    ),
  );
  const nodeFor = ({ headers }: FastifyRequest): NodeService =>
    headers['colo-forwarded'] === undefined ? services.node : (services.forwarded ?? services.node);
  for (const route of NODE_ROUTES) {
    if (route.kind === 'answer') addAnswer(app, route, nodeFor, closing);
    else addStream(app, route, nodeFor, closing);
  }
  if (!('path' in listen) && services.peer) {
    const { peer } = services;
    for (const route of PEER_ROUTES) addAnswer(app, route, () => peer, closing);
  }
  const door = new UpgradeDoor(
    services,
    'path' in listen ? null : (listen.names ?? []).concat(listen.host),
    closing,
  );
  server.on('upgrade', (request, socket, head) => void door.enter(request, socket, head));
  return { app, server };
}

function createServer(listen: ApiListen, handler: http.RequestListener): http.Server {
  const options: http.ServerOptions = {
    requestTimeout: REQUEST_ARRIVAL_MS,
    headersTimeout: REQUEST_ARRIVAL_MS,
    keepAlive: true,
    keepAliveInitialDelay: KEEP_ALIVE_MS,
  };
  const server =
    'tls' in listen
      ? https.createServer(
          {
            ...options,
            ...listen.tls,
            minVersion: TLS_MIN_VERSION,
            requestCert: true,
            rejectUnauthorized: true,
          },
          handler,
        )
      : http.createServer(options, handler);
  server.maxConnections = MAX_CONNECTIONS;
  server.on('tlsClientError', (error: Error) =>
    loggerFor('api').info({ reason: error.message }, 'turned away: no certificate of our CA'),
  );
  return server;
}

function addAnswer<Service>(
  app: FastifyInstance,
  route: AnswerRoute<Service>,
  serviceFor: (request: FastifyRequest) => Service,
  closing: AbortSignal,
): void {
  app.route({
    method: route.method,
    url: route.path,
    handler: async (request, reply) => {
      const caller = watchCaller(reply, closing);
      const processing = setInterval(() => {
        if (!reply.raw.headersSent && !reply.raw.destroyed) reply.raw.writeProcessing();
      }, KEEP_ALIVE_MS);
      // A service that works on is not waited for.
      caller.signal.addEventListener('abort', () => clearInterval(processing), { once: true });
      try {
        const result = await route.run(serviceFor(request), incomingOf(request, caller.signal));
        return await reply.send({ version: API_VERSION, result: result ?? null });
      } finally {
        clearInterval(processing);
        caller.release();
      }
    },
  });
}

function addStream(
  app: FastifyInstance,
  route: StreamRoute,
  serviceFor: (request: FastifyRequest) => NodeService,
  closing: AbortSignal,
): void {
  app.route({
    method: route.method,
    url: route.path,
    handler: async (request, reply) => {
      const caller = watchCaller(reply, closing);
      try {
        const items = await started(route.run(serviceFor(request), incomingOf(request, caller.signal)));
        reply.hijack();
        await writeLines(reply.raw, items, caller.signal).catch((error: unknown) => logFault(request, error));
      } finally {
        caller.release();
      }
    },
  });
}

/** What of a stream's failures comes at once (there is no such VM) gets a status of its own. */
const FIRST_ITEM_MS = 50;

async function started(items: AsyncIterable<unknown>): Promise<AsyncIterable<unknown>> {
  const iterator = items[Symbol.asyncIterator]();
  const first = iterator.next();
  first.catch(() => undefined); // told below, or by whoever reads on
  let timer: NodeJS.Timeout | undefined;
  const patience = new Promise<void>((resolve) => (timer = setTimeout(resolve, FIRST_ITEM_MS)));
  try {
    await Promise.race([first, patience]);
  } finally {
    clearTimeout(timer);
  }
  let isFirst = true;
  return {
    [Symbol.asyncIterator]: () => ({
      next: () => {
        if (!isFirst) return iterator.next();
        isFirst = false;
        return first;
      },
      return: async () => (await iterator.return?.()) ?? { done: true, value: undefined },
    }),
  };
}

/** A signal that aborts when the client is gone or the server is being closed. */
function watchCaller(
  reply: FastifyReply,
  closing: AbortSignal,
): { signal: AbortSignal; release: () => void } {
  const caller = new AbortController();
  const onClose = (): void => {
    if (!reply.raw.writableFinished) caller.abort(new Error('the client has gone away'));
  };
  const onClosing = (): void => caller.abort(closing.reason);
  reply.raw.once('close', onClose);
  if (closing.aborted) onClosing();
  closing.addEventListener('abort', onClosing, { once: true });
  return {
    signal: caller.signal,
    release: () => {
      reply.raw.off('close', onClose);
      closing.removeEventListener('abort', onClosing);
    },
  };
}

function incomingOf(request: FastifyRequest, signal: AbortSignal): Incoming {
  return {
    params: request.params as Record<string, string>,
    query: request.query,
    body: request.body,
    signal,
  };
}

/** Fastify's own refusals (malformed JSON, too large, a foreign content type) are the caller's mistakes. */
function fromFastify(error: unknown, request: FastifyRequest): unknown {
  const { code, statusCode } = error as { code?: unknown; statusCode?: number };
  if (statusCode !== undefined && statusCode < 500 && typeof code === 'string') {
    return Object.assign(new ParameterError(`the request: ${messageOf(error)}`), { statusCode });
  }
  logFault(request, error);
  return error;
}

function logFault(request: FastifyRequest, error: unknown): void {
  const { status } = errorToWire(error);
  const what = { method: request.method, url: request.url };
  if (status === 500) loggerFor('api').error({ ...what, err: error }, 'a call failed that should not');
  else loggerFor('api').debug({ ...what, status, reason: messageOf(error) }, 'refused');
}

async function sendError(reply: FastifyReply, error: unknown, status?: number): Promise<void> {
  const wire = errorToWire(error);
  const own = (error as { statusCode?: number }).statusCode;
  await reply.code(status ?? own ?? wire.status).send({ version: API_VERSION, error: wire.error });
}
