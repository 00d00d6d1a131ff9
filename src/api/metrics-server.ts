/**
 * `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever restarts or routes: plain HTTP, GET only, no secrets in
 * it. Alive (healthz) means that the daemon answers; ready means that it can look after VMs, else 503 with the reasons.
 */
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { messageOf, ParameterError } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import { hostAndPort } from './address.ts';
import type { NodeMetrics } from './metrics.ts';
import type { Health } from './service.ts';

/** Scrapers at a time. */
export const MAX_SCRAPERS = 32;
/** For a request to arrive, and for a connection without one. */
export const SCRAPE_ARRIVAL_MS = 10_000;

export const METRICS_ROUTES = ['/metrics', '/healthz', '/readyz'] as const;

export class MetricsServer {
  readonly address: string;
  readonly #server: http.Server;

  private constructor(server: http.Server, address: string) {
    this.#server = server;
    this.address = address;
  }

  /** Throws ParameterError when the address cannot be had. */
  static async listen(
    at: { readonly address: string; readonly port: number },
    metrics: NodeMetrics,
    health: () => Promise<Health>,
  ): Promise<MetricsServer> {
    const server = http.createServer(
      { requestTimeout: SCRAPE_ARRIVAL_MS, headersTimeout: SCRAPE_ARRIVAL_MS },
      (request, response) => void answer(request, response, metrics, health),
    );
    server.maxConnections = MAX_SCRAPERS;
    server.listen({ host: at.address, port: at.port });
    try {
      await once(server, 'listening');
    } catch (cause) {
      throw new ParameterError(`metrics: ${hostAndPort(at.address, at.port)}: ${messageOf(cause)}`, {
        cause,
      });
    }
    return new MetricsServer(server, hostAndPort(at.address, (server.address() as AddressInfo).port));
  }

  async close(): Promise<void> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }
}

async function answer(
  request: http.IncomingMessage,
  response: http.ServerResponse,
  metrics: NodeMetrics,
  health: () => Promise<Health>,
): Promise<void> {
  const send = (status: number, text: string, type = 'text/plain; charset=utf-8'): void => {
    response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store' }).end(text);
  };
  try {
    const path = request.url?.split('?')[0];
    if (request.method !== 'GET' && request.method !== 'HEAD') send(405, 'GET only\n');
    else if (path === '/metrics') send(200, await metrics.text(), metrics.registry.contentType);
    else if (path === '/healthz') send(200, 'ok\n');
    else if (path === '/readyz') {
      const { isHealthy, troubles } = await health();
      send(isHealthy ? 200 : 503, isHealthy ? 'ok\n' : `${troubles.join('\n')}\n`);
    } else send(404, `${METRICS_ROUTES.join(' ')}\n`);
  } catch (error) {
    loggerFor('metrics').warn({ url: request.url, reason: messageOf(error) }, 'could not be told');
    send(500, `${messageOf(error)}\n`);
  }
}
