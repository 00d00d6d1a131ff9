/**
 * Where a switch's stream ports come from: listening sockets (each accepted connection is a port) and connections made
 * to a listening peer (`-netdev stream,server=on`), which are made again whenever they end.
 */
import { unlink } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { formatLinkAddress, type LinkAddress } from './address.ts';
import { attachStream } from './stream-port.ts';
import type { EthernetSwitch } from './switch.ts';
import { ColoError, messageOf } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';

/** Pause before a connection that failed or ended is tried again. */
const RECONNECT_MS = 1000;

const log = loggerFor('switch-link');

export interface Link {
  /** As asked for; a listener's port 0 is replaced by the port it got. */
  readonly address: string;
  /** Closes it and the ports that came from it. */
  close(): Promise<void>;
}

/** Listens at `address`. Throws ColoError when it cannot. */
export async function listenAt(ethernet: EthernetSwitch, address: LinkAddress): Promise<Link> {
  const sockets = new Set<Socket>();
  const server = createServer();
  let serial = 0;
  let label = formatLinkAddress(address);
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    attachStream(ethernet, socket, `${label}#${++serial}`, () => undefined);
  });
  try {
    await listen(server, address);
  } catch (error) {
    if (address.kind !== 'unix' || (error as NodeJS.ErrnoException).code !== 'EADDRINUSE') {
      throw new ColoError(`cannot listen at ${label}: ${messageOf(error)}`, { cause: error });
    }
    await replaceStaleSocket(address.path, label);
    await listen(server, address);
  }
  const bound = server.address();
  if (address.kind === 'tcp' && typeof bound === 'object' && bound) {
    label = formatLinkAddress({ ...address, port: bound.port });
  }
  // Accepting may fail later (no more descriptors); the switch goes on with the ports it has.
  server.on('error', (error) => log.error({ address: label, error: error.message }, 'listening failed'));
  return {
    address: label,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const socket of sockets) socket.destroy();
      }),
  };
}

/** Connects to `address`, and again whenever the connection fails or ends, until closed. */
export function connectTo(ethernet: EthernetSwitch, address: LinkAddress): Link {
  const label = formatLinkAddress(address);
  let socket: Socket | null = null;
  let timer: NodeJS.Timeout | null = null;
  let isClosed = false;
  /** The same failure once a second is news once. */
  let lastFailure = '';

  const retry = (): void => {
    socket = null;
    if (!isClosed) timer = setTimeout(dial, RECONNECT_MS);
  };
  const dial = (): void => {
    timer = null;
    const dialled = connect(address.kind === 'unix' ? { path: address.path } : address);
    socket = dialled;
    const onFailure = (error: Error): void => {
      if (error.message !== lastFailure)
        log.warn({ address: label }, `cannot connect: ${error.message}; trying on`);
      lastFailure = error.message;
      retry();
    };
    dialled.once('error', onFailure);
    dialled.once('connect', () => {
      dialled.off('error', onFailure);
      lastFailure = '';
      if (!attachStream(ethernet, dialled, label, retry)) retry();
    });
  };
  dial();
  return {
    address: label,
    close: () =>
      new Promise((resolve) => {
        isClosed = true;
        if (timer) clearTimeout(timer);
        if (!socket || socket.destroyed) {
          resolve();
          return;
        }
        socket.once('close', () => resolve());
        socket.destroy();
      }),
  };
}

function listen(server: Server, address: LinkAddress): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(
      address.kind === 'unix' ? { path: address.path } : { host: address.host, port: address.port },
      () => {
        server.off('error', reject);
        resolve();
      },
    );
  });
}

/** A socket file that nobody listens on was left by a process that was killed: remove it. Throws when it is in use. */
async function replaceStaleSocket(path: string, label: string): Promise<void> {
  const isInUse = await new Promise<boolean>((resolve, reject) => {
    const probe = connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED') resolve(false);
      else reject(new ColoError(`cannot listen at ${label}: ${error.message}`, { cause: error }));
    });
  });
  if (isInUse) throw new ColoError(`cannot listen at ${label}: another process is listening there`);
  await unlink(path);
}
