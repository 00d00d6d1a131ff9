/**
 * The network between the demo's two hosts, as something that can be cut: the checkpoint channel and the disks' connections
 * of a pair pass here, in the demo's own process. Cut means what a pulled cable means: nothing arrives and nobody is told.
 * Bytes that are on their way wait in the kernel's buffers, as they would for a retransmission; new connections are not made.
 *
 * The packets' connections go direct. Either end of a checkpoint names them by their addresses (StreamMark in base/participant.ts), which
 * a relay changes: after each checkpoint the secondary's packets would be thrown away.
 *
 * A bound for bytes held here is not needed: a socket is read only while the other one takes them.
 */
import { once } from 'node:events';
import net from 'node:net';
import { freePorts } from './free-ports.ts';
import { HOSTS, pairLinks } from './pair.ts';
import type { PairLinks } from '../ha/pair-links.ts';

/** The sockets of one pair, as either side believes them to be. */
export interface Cables {
  readonly forPrimary: PairLinks;
  readonly forSecondary: PairLinks;
  readonly isCuttable: boolean;
  cut(): void;
  close(): void;
}

/** Nothing in between. */
export async function directCables(primaryHost: string): Promise<Cables> {
  const links = await pairLinks(primaryHost);
  return {
    ...{ forPrimary: links, forSecondary: links, isCuttable: false },
    ...{ cut: () => undefined, close: () => undefined },
  };
}

/** What a cut has to stop passes a relay. */
export async function relayedCables(primaryHost: string): Promise<Cables> {
  const real = await pairLinks(primaryHost);
  const relay = new LinkRelay();
  const { secondaryHost } = real;
  const [nbdPort = 0, migrationPort = 0] = await freePorts(2, HOSTS);
  try {
    await relay.listen(secondaryHost, nbdPort, real.nbdPort);
    await relay.listen(secondaryHost, migrationPort, real.migrationPort);
    return {
      // The secondary listens where it is, the primary connects to the relay.
      ...{ forPrimary: { ...real, nbdPort, migrationPort }, forSecondary: real },
      ...{ isCuttable: true, cut: () => relay.cut(), close: () => relay.close() },
    };
  } catch (error) {
    relay.close();
    throw error;
  }
}

export class LinkRelay {
  readonly #servers: net.Server[] = [];
  readonly #sockets = new Set<net.Socket>();
  #isCut = false;

  /** Connections to `port` go on to `targetPort` on the same host. */
  async listen(host: string, port: number, targetPort: number): Promise<void> {
    const server = net.createServer({ pauseOnConnect: true }, (from) => this.#pass(from, host, targetPort));
    this.#servers.push(server);
    server.listen(port, host);
    await once(server, 'listening');
  }

  /** For good: a new pair gets a new one. */
  cut(): void {
    this.#isCut = true;
    for (const socket of this.#sockets) socket.pause();
  }

  close(): void {
    for (const socket of this.#sockets) socket.destroy();
    for (const server of this.#servers) server.close();
  }

  #pass(from: net.Socket, host: string, port: number): void {
    this.#keep(from);
    if (this.#isCut) return;
    const to = net.connect(port, host);
    this.#keep(to);
    this.#pipe(from, to);
    this.#pipe(to, from);
    to.once('connect', () => {
      if (!this.#isCut) from.resume();
    });
  }

  #keep(socket: net.Socket): void {
    this.#sockets.add(socket);
    socket.setNoDelay(true);
    socket.on('error', () => undefined); // 'close' follows
    socket.on('close', () => this.#sockets.delete(socket));
  }

  #pipe(from: net.Socket, to: net.Socket): void {
    from.on('data', (bytes: Buffer) => {
      if (to.write(bytes)) return;
      from.pause();
      to.once('drain', () => {
        if (!this.#isCut) from.resume();
      });
    });
    // A process that dies is heard of, but not through a cable that is cut.
    from.on('end', () => {
      if (!this.#isCut) to.end();
    });
    from.on('close', () => {
      if (!this.#isCut) to.destroySoon();
    });
  }
}
