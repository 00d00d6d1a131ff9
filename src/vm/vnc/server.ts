/**
 * The address of the guest's screen: clients connect here, whichever process executes the guest. While that is always the
 * same one (a primary, a secondary that has taken over) every byte is passed through; a secondary's clients have a
 * session that outlives its processes (following-session.ts).
 *
 * VNC_CONNECTED and VNC_DISCONNECTED tell of our clients, not of our connections to QEMU.
 */
import net from 'node:net';
import { messageOf } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';
import type { SocketAddress } from '../../chardev/address.ts';
import { listenSocket } from '../../chardev/dial.ts';
import type { EngineDisplay } from '../../engine/engine.ts';
import { FollowingSession, passThrough } from './following-session.ts';

const log = loggerFor('vnc');

const MAX_CLIENTS = 32;

/** As in QEMU's answers and events. */
export interface VncEnd {
  readonly host: string;
  readonly service: string;
  readonly family: 'ipv4' | 'ipv6' | 'unix';
  readonly websocket: false;
}

export interface VncServerHost {
  readonly display: EngineDisplay;
  /** The process that executes the guest changes. */
  isFollowing(): boolean;
  emit(event: string, data: Record<string, unknown>): void;
}

export class VncServer {
  readonly #host: VncServerHost;
  readonly #listener: net.Server;
  readonly #clients = new Map<net.Socket, VncEnd>();
  /** Those that QEMU has let in. */
  readonly #initialized = new Set<net.Socket>();
  /** Where it listens; null: nowhere. */
  readonly server: VncEnd | null;

  private constructor(host: VncServerHost, listener: net.Server, server: VncEnd | null) {
    this.#host = host;
    this.#listener = listener;
    this.server = server;
    listener.on('connection', (socket) => this.#accept(socket));
    listener.on('error', (error) => log.warn({ err: error }, 'accepting a VNC client'));
  }

  /** Throws ColoError when the address cannot be had. */
  static async open(address: SocketAddress | null, host: VncServerHost): Promise<VncServer> {
    const listener = net.createServer({ pauseOnConnect: true });
    if (!address) return new VncServer(host, listener, null);
    await listenSocket(listener, address);
    const bound = listener.address();
    const end =
      typeof bound === 'string' || bound === null
        ? unixEnd(address.type === 'unix' ? address.path : '')
        : inetEnd(bound.address, bound.port);
    return new VncServer(host, listener, end);
  }

  get clients(): readonly VncEnd[] {
    return [...this.#clients.values()];
  }

  /** QEMU has let a connection of ours in. Which one it does not say; they come in order. */
  initialized(data: Readonly<Record<string, unknown>>): void {
    for (const [client, end] of this.#clients) {
      if (this.#initialized.has(client)) continue;
      this.#initialized.add(client);
      this.#tell('VNC_INITIALIZED', { ...(data['client'] as object | undefined), ...end });
      return;
    }
  }

  async close(): Promise<void> {
    for (const client of this.#clients.keys()) client.destroy();
    if (this.server) await new Promise<void>((resolve) => this.#listener.close(() => resolve()));
  }

  #accept(client: net.Socket): void {
    client.on('error', (error) => log.debug(error.message));
    if (this.#clients.size >= MAX_CLIENTS) {
      client.destroy();
      return;
    }
    client.setNoDelay(true);
    const { remoteAddress, remotePort } = client;
    const end = remoteAddress === undefined ? unixEnd('') : inetEnd(remoteAddress, remotePort ?? 0);
    this.#clients.set(client, end);
    this.#tell('VNC_CONNECTED', end);
    client.once('close', () => {
      this.#clients.delete(client);
      this.#initialized.delete(client);
      this.#tell('VNC_DISCONNECTED', end);
    });
    this.#serve(client).catch((error: unknown) => {
      log.debug(messageOf(error));
      client.destroy();
    });
  }

  async #serve(client: net.Socket): Promise<void> {
    const { display } = this.#host;
    if (this.#host.isFollowing()) {
      await new FollowingSession(
        client,
        () => display.connect(),
        () => this.#host.isFollowing(),
      ).start();
      return;
    }
    const server = await display.connect();
    if (client.destroyed) server.destroy();
    else passThrough(client, server);
  }

  #tell(event: string, client: VncEnd): void {
    this.#host.emit(event, { server: this.server ?? unixEnd(''), client });
  }
}

function unixEnd(path: string): VncEnd {
  return { host: path, service: '', family: 'unix', websocket: false };
}

function inetEnd(host: string, port: number): VncEnd {
  return { host, service: String(port), family: net.isIPv6(host) ? 'ipv6' : 'ipv4', websocket: false };
}
