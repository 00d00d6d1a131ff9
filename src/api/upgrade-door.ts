/**
 * Consoles and screens over the API: a GET with `Upgrade: colo-console` (colo-screen) on the same port becomes a copy's
 * first serial port (its VNC server), bytes in both directions as they are. Either end's going ends the other. Refusals
 * are ordinary answers of the API.
 */
import { STATUS_CODES, type IncomingMessage } from 'node:http';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { ParameterError } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import { BusyError } from '../ha/errors.ts';
import { errorToWire } from './errors.ts';
import { checkCaller } from './guard.ts';
import type { ApiServices } from './http-server.ts';
import { NOTHING_TO_UPGRADE, UPGRADE_ROUTES, type UpgradeRoute } from './routes.ts';
import { queries, read, vmName } from './schemas.ts';
import { API_VERSION } from './service.ts';
import { KEEP_ALIVE_MS } from './stream.ts';

/** Consoles and screens open at a time on one listener. */
export const MAX_CONSOLES = 64;

const PATHS = UPGRADE_ROUTES.map((route) => ({
  route,
  path: new RegExp(`^${route.path.replace(':vm', '([^/?]*)')}$`),
}));

export class UpgradeDoor {
  readonly #services: ApiServices;
  readonly #names: readonly string[] | null;
  readonly #closing: AbortSignal;
  #count = 0;

  constructor(services: ApiServices, names: readonly string[] | null, closing: AbortSignal) {
    this.#services = services;
    this.#names = names;
    this.#closing = closing;
  }

  /** Never throws: what is wrong is told on the socket. */
  async enter(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    // Whoever asked may be gone at any moment.
    socket.on('error', () => socket.destroy());
    if (this.#count >= MAX_CONSOLES) {
      refuse(socket, new BusyError(`${MAX_CONSOLES} consoles and screens are open: close one first`));
      return;
    }
    this.#count++;
    socket.once('close', () => this.#count--);
    try {
      const { stream, protocol } = await this.#open(request);
      if (socket.destroyed || this.#closing.aborted) {
        stream.destroy();
        socket.destroy();
        return;
      }
      socket.write(`HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ${protocol}\r\n\r\n`);
      if (head.length > 0) socket.unshift(head);
      join(socket, stream, this.#closing);
    } catch (error) {
      const { status } = errorToWire(error);
      if (status === 500) loggerFor('api').error({ err: error }, 'a console or screen could not be opened');
      refuse(socket, error);
    }
  }

  async #open(request: IncomingMessage): Promise<{ readonly stream: Duplex; readonly protocol: string }> {
    checkCaller(request.headers, this.#names);
    const { route, name, query } = wantedOf(request.url ?? '');
    const { protocol } = route;
    if (request.headers.upgrade?.toLowerCase() !== protocol) {
      throw new ParameterError(`Upgrade: expected ${protocol}`);
    }
    const { node, forwarded = node } = this.#services;
    const service = request.headers['colo-forwarded'] === undefined ? node : forwarded;
    const vm = read(vmName, name, 'the VM in the path');
    const { copy } = read(queries.copy, query, 'the query');
    return { stream: await route.run(service, vm, copy), protocol };
  }
}

function wantedOf(url: string): {
  readonly route: UpgradeRoute;
  readonly name: string;
  readonly query: Readonly<Record<string, string>>;
} {
  const [path = '', query = ''] = url.split('?', 2);
  for (const { route, path: pattern } of PATHS) {
    const name = pattern.exec(path)?.[1];
    if (name === undefined) continue;
    return { route, name: decode(name), query: Object.fromEntries(new URLSearchParams(query)) };
  }
  throw new ParameterError(`${url}: ${NOTHING_TO_UPGRADE}`);
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // no name of a VM
  }
}

/** Bytes both ways, each direction at the pace of its reader, until either ends. */
function join(socket: Duplex, console: Duplex, closing: AbortSignal): void {
  if (socket instanceof Socket) socket.setTimeout(0).setNoDelay(true).setKeepAlive(true, KEEP_ALIVE_MS);
  const onClosing = (): void => {
    socket.destroy();
    console.destroy();
  };
  closing.addEventListener('abort', onClosing, { once: true });
  socket.once('close', () => {
    closing.removeEventListener('abort', onClosing);
    console.destroy();
  });
  console.on('error', () => console.destroy());
  // What the guest wrote last still goes out.
  console.once('close', () => socket.end());
  console.once('end', () => socket.end());
  socket.once('end', () => console.end());
  socket.pipe(console, { end: false });
  console.pipe(socket, { end: false });
}

function refuse(socket: Duplex, error: unknown): void {
  const { status, error: wire } = errorToWire(error);
  const body = JSON.stringify({ version: API_VERSION, error: wire });
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? 'Error'}\r\nConnection: close\r\n` +
      `Content-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}
