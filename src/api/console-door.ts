/**
 * The console over the API: a GET with `Upgrade: colo-console` on the same port becomes the VM's first serial port, bytes
 * in both directions as they are. Either end's going ends the other. Refusals are ordinary answers of the API.
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
import { CONSOLE_PROTOCOL, CONSOLE_ROUTE } from './routes.ts';
import { read, vmName } from './schemas.ts';
import { API_VERSION } from './service.ts';
import { KEEP_ALIVE_MS } from './stream.ts';

/** Open at a time on one listener. */
export const MAX_CONSOLES = 64;

const PATH = new RegExp(`^${CONSOLE_ROUTE.path.replace(':vm', '([^/?]*)')}$`);

export class ConsoleDoor {
  readonly #services: ApiServices;
  readonly #names: readonly string[] | null;
  readonly #closing: AbortSignal;
  #open = 0;

  constructor(services: ApiServices, names: readonly string[] | null, closing: AbortSignal) {
    this.#services = services;
    this.#names = names;
    this.#closing = closing;
  }

  /** Never throws: what is wrong is told on the socket. */
  async enter(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    // Whoever asked may be gone at any moment.
    socket.on('error', () => socket.destroy());
    if (this.#open >= MAX_CONSOLES) {
      refuse(socket, new BusyError(`${MAX_CONSOLES} consoles are open: close one first`));
      return;
    }
    this.#open++;
    socket.once('close', () => this.#open--);
    try {
      const console = await this.#console(request);
      if (socket.destroyed || this.#closing.aborted) {
        console.destroy();
        socket.destroy();
        return;
      }
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ${CONSOLE_PROTOCOL}\r\n\r\n`,
      );
      if (head.length > 0) socket.unshift(head);
      join(socket, console, this.#closing);
    } catch (error) {
      const { status } = errorToWire(error);
      if (status === 500) loggerFor('api').error({ err: error }, 'a console could not be opened');
      refuse(socket, error);
    }
  }

  async #console(request: IncomingMessage): Promise<Duplex> {
    checkCaller(request.headers, this.#names);
    const name = PATH.exec(request.url ?? '')?.[1];
    if (name === undefined) throw new ParameterError(`${request.url ?? ''}: there is nothing to upgrade`);
    if (request.headers.upgrade?.toLowerCase() !== CONSOLE_PROTOCOL) {
      throw new ParameterError(`Upgrade: expected ${CONSOLE_PROTOCOL}`);
    }
    const { node, forwarded = node } = this.#services;
    const service = request.headers['colo-forwarded'] === undefined ? node : forwarded;
    return service.console(read(vmName, decodeURIComponent(name), 'the VM in the path'));
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
