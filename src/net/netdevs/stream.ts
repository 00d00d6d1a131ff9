/**
 * `-netdev stream` and `-netdev socket` (listen, connect, fd): a netdev's wire over one stream socket, framed by length
 * (../framing.ts, never with a vnet word). One peer at a time; a server takes the next one when a peer has gone, a
 * client with `reconnect` tries again. A frame that the peer does not take is lost, as on a wire. Facts:
 * docs/qemu-behaviour.md 1.1-1.3 (QEMU net/stream.c, net/socket.c).
 */
import net from 'node:net';
import { ClosedError, messageOf } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';
import { intoMemory, readIntoOwnMemory } from '../../base/own-memory-socket.ts';
import type { ReceivingMemory } from '../../base/own-memory-socket.ts';
import { RECEIVE_SLAB } from '../../base/packet-memory.ts';
import type { SocketAddress } from '../../chardev/address.ts';
import { BoundedSender } from '../../chardev/bounded-sender.ts';
import { connectSocket, listenSocket } from '../../chardev/dial.ts';
import { FrameDecoder, encodeHeader } from '../framing.ts';
import type { Netdev } from '../netdev.ts';
import { parseStreamOptions } from './stream-options.ts';
import type { NetdevOptionStrings, StreamConfig } from './stream-options.ts';

const CONNECT_DEADLINE_MS = 10_000;
const log = loggerFor('netdev');

export type EmitEvent = (event: string, data?: Record<string, unknown>) => void;

/** Carries a netdev's wire. */
export interface NetdevBackend {
  /** Idempotent; the netdev has no wire then. */
  close(): Promise<void>;
}

/** Throws ParameterError, or ChardevOpenError when the address cannot be served or reached. */
export async function openStreamBackend(
  netdev: Netdev,
  options: NetdevOptionStrings,
  emit: EmitEvent,
): Promise<StreamBackend> {
  const backend = new StreamBackend(netdev, parseStreamOptions(options), emit);
  try {
    await backend.open();
  } catch (cause) {
    await backend.close();
    throw cause;
  }
  return backend;
}

export class StreamBackend implements NetdevBackend {
  /** Frames that no peer was there for, or that it did not take. */
  lostFrames = 0;
  readonly #netdev: Netdev;
  readonly #config: StreamConfig;
  readonly #emit: EmitEvent;
  readonly #header = new Uint8Array(4);
  readonly #decoder: FrameDecoder;
  readonly #memory: ReceivingMemory = {
    buffer: RECEIVE_SLAB,
    received: (count) => {
      if (this.#socket) this.#decoder.push(RECEIVE_SLAB, count);
      return true;
    },
  };
  readonly #closing = new AbortController();
  #server: net.Server | null = null;
  #waiting: net.Socket[] = [];
  #socket: net.Socket | null = null;
  #sender: BoundedSender | null = null;
  #retryTimer: NodeJS.Timeout | null = null;
  #complained = false;

  constructor(netdev: Netdev, config: StreamConfig, emit: EmitEvent) {
    this.#netdev = netdev;
    this.#config = config;
    this.#emit = emit;
    this.#decoder = new FrameDecoder({
      onFrame: (bytes, from, to) => netdev.receiveFromWire(bytes.subarray(from, to)),
      onError: (error) => {
        log.error(`netdev '${netdev.id}': ${error.message}; the connection is closed`);
        this.#socket?.destroy();
      },
    });
    netdev.wire = (frame) => this.#send(frame);
  }

  get connected(): boolean {
    return this.#socket !== null;
  }

  /** Where a server listens, with its real port; null otherwise. */
  get listening(): SocketAddress | null {
    const bound = this.#server?.address();
    if (bound === null || bound === undefined) return null;
    if (typeof bound === 'string') return { type: 'unix', path: bound };
    return { type: 'inet', host: bound.address, port: String(bound.port) };
  }

  async open(): Promise<void> {
    const { address, server, reconnectMs } = this.#config;
    if (address.type === 'fd') {
      this.#establish(new net.Socket({ fd: address.fd, ...intoMemory(this.#memory) }));
    } else if (server) {
      const listener = net.createServer({ pauseOnConnect: true, noDelay: true });
      listener.on('connection', (socket) => this.#accept(socket));
      await listenSocket(listener, address);
      listener.on('error', (error) =>
        log.warn(`netdev '${this.#netdev.id}': accept failed: ${error.message}`),
      );
      this.#server = listener;
    } else if (reconnectMs > 0) {
      this.#dialInBackground(address);
    } else {
      await this.#dial(address);
    }
  }

  async close(): Promise<void> {
    if (!this.#closing.signal.aborted) this.#netdev.wire = null;
    this.#closing.abort();
    if (this.#retryTimer) clearTimeout(this.#retryTimer);
    this.#retryTimer = null;
    for (const socket of this.#waiting.splice(0)) socket.destroy();
    const socket = this.#socket;
    const server = this.#server;
    this.#server = null;
    const socketClosed = socket && new Promise<void>((resolve) => socket.once('close', () => resolve()));
    socket?.destroy();
    await Promise.all([
      socketClosed,
      server && new Promise<void>((resolve) => server.close(() => resolve())),
    ]);
  }

  #send(frame: Uint8Array): void {
    if (frame.length === 0) return;
    const header = encodeHeader(this.#header, frame.length, null);
    if (!this.#sender?.send(header, frame)) this.lostFrames++;
  }

  /** One is served, one may wait (a peer that reconnects before its old connection is known to be dead). */
  #accept(socket: net.Socket): void {
    socket.on('error', (error) => log.debug(`netdev '${this.#netdev.id}': ${error.message}`));
    if (this.#closing.signal.aborted) {
      socket.destroy();
      return;
    }
    if (this.#socket === null) {
      this.#establish(readIntoOwnMemory(socket, this.#memory));
      return;
    }
    for (const older of this.#waiting.splice(0)) older.destroy();
    this.#waiting.push(socket);
    socket.once('close', () => {
      this.#waiting = this.#waiting.filter((other) => other !== socket);
    });
  }

  async #dial(address: SocketAddress): Promise<void> {
    const signal = this.#closing.signal;
    const socket = await connectSocket(address, {
      noDelay: true,
      deadlineMs: CONNECT_DEADLINE_MS,
      signal,
      memory: this.#memory,
    });
    if (signal.aborted) {
      socket.destroy();
      throw new ClosedError(`netdev '${this.#netdev.id}' was closed`);
    }
    this.#complained = false;
    this.#establish(socket);
  }

  #dialInBackground(address: SocketAddress): void {
    this.#dial(address).catch((error: unknown) => {
      if (this.#closing.signal.aborted) return;
      if (!this.#complained) log.warn(`netdev '${this.#netdev.id}': ${messageOf(error)}`);
      this.#complained = true;
      this.#dialLater();
    });
  }

  #dialLater(): void {
    const { address, server, reconnectMs } = this.#config;
    if (server || reconnectMs === 0 || address.type === 'fd' || this.#closing.signal.aborted) return;
    this.#retryTimer = setTimeout(() => {
      this.#retryTimer = null;
      this.#dialInBackground(address);
    }, reconnectMs);
  }

  #establish(socket: net.Socket): void {
    this.#decoder.reset();
    this.#socket = socket;
    this.#sender = new BoundedSender(socket);
    socket.on('error', (error) => log.debug(`netdev '${this.#netdev.id}': ${error.message}`));
    socket.on('end', () => socket.destroy());
    socket.on('close', () => this.#drop(socket));
    if (this.#config.hasEvents) {
      this.#emit('NETDEV_STREAM_CONNECTED', {
        'netdev-id': this.#netdev.id,
        addr: this.#peerAddress(socket),
      });
    }
    socket.resume();
  }

  #drop(socket: net.Socket): void {
    if (this.#socket !== socket) return;
    this.#socket = null;
    this.#sender = null;
    if (this.#config.hasEvents) this.#emit('NETDEV_STREAM_DISCONNECTED', { 'netdev-id': this.#netdev.id });
    const next = this.#waiting.shift();
    if (next && !this.#closing.signal.aborted) this.#establish(readIntoOwnMemory(next, this.#memory));
    else this.#dialLater();
  }

  /** QAPI SocketAddress of the other end. */
  #peerAddress(socket: net.Socket): Record<string, unknown> {
    const { address } = this.#config;
    if (address.type === 'unix') return { type: 'unix', path: address.path };
    if (address.type === 'fd') return { type: 'fd', str: String(address.fd) };
    return {
      type: 'inet',
      host: socket.remoteAddress ?? '',
      port: String(socket.remotePort ?? 0),
      ipv6: socket.remoteFamily === 'IPv6',
      ipv4: socket.remoteFamily === 'IPv4',
    };
  }
}
