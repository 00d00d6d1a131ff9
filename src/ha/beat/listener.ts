/** The port on which a daemon is dialled by others' heartbeats. Hands over sockets that are connected, and secure if they are to be. */
import net from 'node:net';
import type { Socket } from 'node:net';
import { ColoError } from '../../base/errors.ts';
import { secureAsServer } from '../../base/tls/upgrade.ts';
import { systemErrorText } from '../../chardev/system-errors.ts';
import type { TlsFiles } from '../spec/node-config.ts';
import { hostCredentials } from './host-tls.ts';

/** Connections that others have made, all together. */
export const MAX_BEAT_CONNECTIONS = 1024;
/** Until a stranger has shaken hands. */
export const HANDSHAKE_MS = 2_000;

export interface ListenerHooks {
  readonly onSocket: (socket: Socket) => void;
  readonly onRefused: (error: unknown) => void;
}

export class BeatListener {
  readonly #server: net.Server;
  readonly #shaking = new Set<Socket>();

  private constructor(server: net.Server) {
    this.#server = server;
  }

  /** Throws ColoError when the address cannot be had. */
  static async listen(
    at: { readonly address: string; readonly port: number; readonly tls: TlsFiles | null },
    hooks: ListenerHooks,
  ): Promise<BeatListener> {
    // Read once now, so that a missing file is told at the start.
    if (at.tls) hostCredentials(at.tls, 'server', []);
    const server = net.createServer({ noDelay: true });
    const listener = new BeatListener(server);
    server.maxConnections = MAX_BEAT_CONNECTIONS;
    server.on('connection', (socket) => {
      socket.on('error', () => undefined);
      const { tls } = at;
      if (tls === null) hooks.onSocket(socket);
      else listener.#secure(socket, tls, hooks).catch((error: unknown) => hooks.onRefused(error));
    });
    await new Promise<void>((resolve, reject) => {
      server.once('error', (cause) =>
        reject(
          new ColoError(
            `heartbeat: cannot listen on ${at.address}:${at.port}: ${systemErrorText(cause)}; heartbeat.address and heartbeat.port of the node's configuration say where`,
            { cause },
          ),
        ),
      );
      server.listen({ host: at.address, port: at.port }, resolve);
    });
    server.on('error', hooks.onRefused);
    return listener;
  }

  get port(): number {
    const address = this.#server.address();
    return typeof address === 'object' && address !== null ? address.port : 0;
  }

  /** No more connections; those that were handed over are others'. */
  close(): void {
    this.#server.close();
    for (const socket of this.#shaking) socket.destroy();
  }

  async #secure(socket: Socket, tls: TlsFiles, hooks: ListenerHooks): Promise<void> {
    this.#shaking.add(socket);
    try {
      hooks.onSocket(await secureAsServer(socket, hostCredentials(tls, 'server', []), HANDSHAKE_MS));
    } finally {
      this.#shaking.delete(socket);
    }
  }
}
