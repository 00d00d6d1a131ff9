/**
 * A VNC client of a secondary, whose guest is executed by another process after each checkpoint. The client keeps its
 * connection: with each new process the handshake is done again from here, the client's pixel format and encodings are
 * repeated, and it is sent the whole screen. Therefore messages go on whole or not at all, and encodings with a stream
 * of their own (zlib, tight, ZRLE) are taken out: a new server could not go on with them.
 *
 * While its machine is a secondary the client only looks: what it types would reach one of two copies, and be gone with
 * the next checkpoint. From the takeover on its keys and its pointer are the guest's.
 *
 * Only without authentication. A server that wants some is passed through as it is, and its client is disconnected by the
 * next checkpoint.
 */
import type net from 'node:net';
import { withDeadline } from '../../base/async.ts';
import { ClosedError, ProtocolError, messageOf } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';
import { greetClient, greetServer } from './handshake.ts';
import {
  ENCODING,
  clientMessages,
  fullRequest,
  hasEncoding,
  isInput,
  resizeMessage,
  serverMessages,
  statelessEncodings,
} from './rfb.ts';
import type { Picture, ServerMessage } from './rfb.ts';

const log = loggerFor('vnc');

const HANDSHAKE_DEADLINE_MS = 30_000;
/** Unsent bytes to a client above which its server is not read. */
const UNSENT_PAUSE_BYTES = 4 * 1024 * 1024;

/** What a new server says of itself and the client knows. */
const KNOWN: ReadonlySet<number> = new Set([
  ENCODING.desktopSize,
  ENCODING.extendedDesktopSize,
  ENCODING.desktopName,
  ENCODING.extendedKey,
  ENCODING.pointerType,
]);

export class FollowingSession {
  readonly #client: net.Socket;
  readonly #connect: () => Promise<net.Socket>;
  readonly #isReadOnly: () => boolean;
  #server: net.Socket | null = null;
  readonly #picture: Picture = { width: 0, height: 0, bytesPerPixel: 4 };
  /** The client's last messages of these kinds. */
  #pixelFormat: Buffer = Buffer.alloc(20);
  #encodings: Buffer | null = null;
  /** The client waits for an update. */
  #isOwed = false;
  /** The process has changed, and the client has not been sent a picture of the new one. */
  #isStale = false;

  constructor(client: net.Socket, connect: () => Promise<net.Socket>, isReadOnly: () => boolean) {
    this.#client = client;
    this.#connect = connect;
    this.#isReadOnly = isReadOnly;
  }

  /** Ends when the client is served. The client is destroyed when that cannot be. Throws ColoError. */
  async start(): Promise<void> {
    const server = await this.#connect();
    const init = await withDeadline(greetServer(server), HANDSHAKE_DEADLINE_MS, 'VNC: the server');
    if (!init) {
      server.destroy();
      passThrough(this.#client, await this.#connect());
      return;
    }
    this.#setPicture(init);
    init.copy(this.#pixelFormat, 4, 4, 20);
    this.#serve(server);
    await withDeadline(greetClient(this.#client, init), HANDSHAKE_DEADLINE_MS, 'VNC: the client');
    const cutter = clientMessages((message) => this.#fromClient(message));
    this.#client.on('data', (chunk: Buffer) => this.#guard(() => cutter.push(chunk)));
    this.#client.resume();
    this.#client.on('drain', () => this.#server?.resume());
    this.#client.once('close', () => this.#server?.destroy());
  }

  #setPicture(init: Buffer): void {
    this.#picture.width = init.readUInt16BE(0);
    this.#picture.height = init.readUInt16BE(2);
    this.#picture.bytesPerPixel = Math.max(1, (init[4] ?? 32) >> 3);
  }

  #serve(server: net.Socket): void {
    this.#server = server;
    const cutter = serverMessages(this.#picture, (message, about) => this.#fromServer(message, about));
    server.on('data', (chunk: Buffer) => this.#guard(() => cutter.push(chunk)));
    server.resume();
    server.once('close', () => {
      if (this.#server !== server) return;
      this.#server = null;
      this.#follow().catch((error: unknown) => this.#give(error));
    });
  }

  /** The process is gone: the next one shall serve the client. */
  async #follow(): Promise<void> {
    if (this.#client.destroyed) return;
    this.#client.pause();
    const server = await this.#connect();
    const init = await withDeadline(greetServer(server), HANDSHAKE_DEADLINE_MS, 'VNC: the server');
    if (!init) {
      server.destroy();
      throw new ClosedError('VNC: the next process wants an authentication');
    }
    const { width, height, bytesPerPixel } = this.#picture;
    this.#setPicture(init);
    this.#picture.bytesPerPixel = bytesPerPixel;
    if (this.#picture.width !== width || this.#picture.height !== height) this.#tellSize();
    this.#isStale = true;
    this.#serve(server);
    server.write(this.#pixelFormat);
    if (this.#encodings) server.write(this.#encodings);
    if (this.#isOwed) server.write(fullRequest(this.#picture));
    this.#client.resume();
  }

  #tellSize(): void {
    const isExtended = hasEncoding(this.#encodings, ENCODING.extendedDesktopSize);
    if (!isExtended && !hasEncoding(this.#encodings, ENCODING.desktopSize)) {
      throw new ClosedError('VNC: the screen has another size, which the client cannot be told');
    }
    this.#client.write(resizeMessage(this.#picture, isExtended));
  }

  #fromClient(given: Buffer): void {
    if (isInput(given) && this.#isReadOnly()) return;
    let message: Buffer = Buffer.from(given);
    const [type] = message;
    if (type === 0) {
      this.#pixelFormat = message;
      this.#picture.bytesPerPixel = Math.max(1, (message[4] ?? 32) >> 3);
    } else if (type === 2) {
      message = statelessEncodings(message);
      this.#encodings = message;
    } else if (type === 3) {
      this.#isOwed = true;
      if (this.#isStale) message = fullRequest(this.#picture);
    }
    this.#server?.write(message);
  }

  #fromServer(message: Buffer, { encodings }: ServerMessage): void {
    if (encodings) {
      if (encodings.some((encoding) => encoding >= 0)) this.#isOwed = this.#isStale = false;
      // A client may ask for more at each update: what it knows already is not one.
      else if (this.#isStale && encodings.every((encoding) => KNOWN.has(encoding))) return;
    }
    this.#client.write(Buffer.from(message));
    if (this.#client.writableLength > UNSENT_PAUSE_BYTES) this.#server?.pause();
  }

  #guard(act: () => void): void {
    try {
      act();
    } catch (error) {
      if (!(error instanceof ProtocolError)) log.error({ err: error }, 'a VNC connection');
      this.#give(error);
    }
  }

  #give(error: unknown): void {
    log.debug(messageOf(error));
    this.#client.destroy();
    this.#server?.destroy();
  }
}

/** Every byte as it comes, until one of them ends. */
export function passThrough(client: net.Socket, server: net.Socket): void {
  client.pipe(server).pipe(client);
  client.once('close', () => server.destroy());
  server.once('close', () => client.destroy());
}
