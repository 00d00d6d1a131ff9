/**
 * One client of the server: the handshake, then a loop that reads requests and starts them. Requests run in parallel
 * and answer in the order in which they end.
 *
 * A request is in flight until its reply has been taken by the kernel. At most 16 are (and 48 MiB of payload), then
 * reading stops: so a client that sends without reading replies is slowed down by TCP and holds a bounded amount of
 * memory. Facts: proto.md "Transmission phase"; refusals as QEMU 7.2 answers them (docs/qemu-behaviour.md 8.3).
 */
import type { Socket } from 'node:net';
import { Deferred, InFlight, withDeadline } from '../base/async.ts';
import { ClosedError, ColoError, ProtocolError, messageOf } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import { readIntoOwnMemory } from '../base/own-memory-socket.ts';
import type { TlsCredentials } from '../base/tls/credentials.ts';
import { secureAsServer } from '../base/tls/upgrade.ts';
import type { BufferPool } from './buffer-pool.ts';
import { ByteReader } from './byte-reader.ts';
import { NBD_CMD_BLOCK_STATUS, NBD_CMD_DISC, NBD_CMD_READ, NBD_CMD_WRITE } from './constants.ts';
import { NBD_EINVAL, NbdEndOfStreamError } from './errors.ts';
import type { NbdExport } from './export.ts';
import { negotiateAsServer, type HandshakeHost, type ServerAgreement } from './handshake-server.ts';
import {
  NBD_LINGER_MS,
  NBD_MAX_IN_FLIGHT,
  NBD_MAX_IN_FLIGHT_BYTES,
  NBD_MAX_PAYLOAD,
  NBD_MAX_VIEW,
  NBD_READ_AHEAD,
  NBD_STATUS_COST,
  NBD_TURN,
} from './limits.ts';
import { PacedWriter, type ReplyWriter } from './paced-writer.ts';
import { answer, refusalOf, refuse, type Reply } from './server-commands.ts';
import { REQUEST_BYTES, decodeRequest, type NbdRequest } from './wire.ts';

const NO_PAYLOAD: Uint8Array = new Uint8Array(0);

export class NbdServerSession {
  /** The clear socket, then the secure one if the client begins TLS. */
  #socket: Socket;
  /** Where replies go: the socket, or in TLS what slows them down to what its buffers may hold. */
  #out: ReplyWriter;
  readonly #tls: TlsCredentials | null;
  readonly #reader: ByteReader;
  readonly #host: HandshakeHost;
  readonly #pool: BufferPool;
  readonly #log: Logger;
  readonly #inFlight = new InFlight();
  #bytesInFlight = 0;
  /** Wakes the loop when a request has ended. */
  #slotFreed: (() => void) | null = null;
  #corked = false;
  /** No further request may start: the export goes away, or the connection was dropped. */
  #stopping = false;
  readonly #closed = new Deferred<void>();
  #export: NbdExport | null = null;

  /** Takes a paused socket over; nothing is sent before `run`. */
  constructor(
    accepted: Socket,
    host: HandshakeHost,
    tls: TlsCredentials | null,
    pool: BufferPool,
    log: Logger,
  ) {
    this.#host = host;
    this.#tls = tls;
    this.#pool = pool;
    this.#log = log;
    const flow = { pause: () => void this.#socket.pause(), resume: () => void this.#socket.resume() };
    this.#reader = new ByteReader(flow, NBD_READ_AHEAD, pool);
    const socket = readIntoOwnMemory(accepted, {
      buffer: () => this.#reader.nextBuffer(),
      received: (count) => {
        this.#reader.received(count);
        return true;
      },
    });
    this.#socket = socket;
    this.#out = socket;
    socket.setNoDelay(true);
    socket.setKeepAlive(true, 30_000);
    this.#listen(socket);
  }

  /** Resolves when the connection is closed. */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  #listen(socket: Socket): void {
    socket.on('end', () => this.#reader.end());
    socket.on('error', (error) => this.#reader.end(error));
    socket.on('close', () => {
      this.#reader.end(new NbdEndOfStreamError('The connection is closed'));
      this.#closed.resolve();
    });
  }

  /** The export in use; null during the handshake. */
  get export(): NbdExport | null {
    return this.#export;
  }

  /** From greeting to closed socket. Never rejects: whatever goes wrong ends this client only. */
  async run(handshakeTimeoutMs: number): Promise<void> {
    try {
      const negotiated = this.#negotiate(handshakeTimeoutMs);
      const agreement = await withDeadline(negotiated, handshakeTimeoutMs, 'NBD handshake');
      // The export may have been removed while the last replies of the handshake were on their way.
      if (agreement && this.#host.findExport(agreement.export.name) === agreement.export) {
        this.#export = agreement.export;
        await this.#serve(agreement);
      }
    } catch (error) {
      // A client that hangs up in its own way is no news; one that breaks the protocol or a deadline is.
      const isNews = error instanceof ColoError && !(error instanceof ClosedError);
      const level = isNews && !(error instanceof NbdEndOfStreamError) ? 'warn' : 'debug';
      this.#log[level](`NBD client dropped: ${messageOf(error)}`);
    }
    await this.#leave();
  }

  /** No more requests are read; those in flight are answered, then the connection is closed. */
  stop(): void {
    this.#stopping = true;
    this.#reader.end(new ClosedError('The export is being removed'));
  }

  /** Closes the connection at once; replies are lost. */
  drop(): void {
    this.#stopping = true;
    this.#socket.destroy();
  }

  /** Resolves when no request of this client touches its export any more. */
  idle(): Promise<void> {
    return this.#inFlight.idle();
  }

  #negotiate(timeoutMs: number): Promise<ServerAgreement | null> {
    const send = (bytes: Uint8Array): Promise<void> =>
      new Promise((resolve, reject) => {
        this.#socket.write(bytes, (error) => (error ? reject(error) : resolve()));
      });
    const startTls = async (lastClear: Uint8Array): Promise<void> => {
      if (!this.#tls) throw new Error('No TLS credentials');
      const clear = this.#socket;
      // From here on nobody but TLS may read, and what was read already came in clear.
      clear.pause();
      if (this.#reader.bufferedBytes > 0)
        throw new ProtocolError('Data in clear follows the STARTTLS option');
      await send(lastClear);
      this.#socket = await secureAsServer(clear, this.#tls, timeoutMs);
      this.#out = new PacedWriter(this.#socket);
      this.#socket.on('data', (chunk: Buffer) => this.#reader.push(chunk));
      this.#listen(this.#socket);
    };
    return negotiateAsServer({ reader: this.#reader, send, startTls }, this.#host);
  }

  async #serve(agreement: ServerAgreement): Promise<void> {
    const reader = this.#reader;
    let turn = 0;
    for (;;) {
      const header = reader.readNow(REQUEST_BYTES) ?? (await reader.readOrEnd(REQUEST_BYTES));
      if (!header) return;
      const request = decodeRequest(header);
      if (request.type === NBD_CMD_DISC) return;
      const isWrite = request.type === NBD_CMD_WRITE;
      if (isWrite && request.length > NBD_MAX_PAYLOAD) {
        // The payload cannot be skipped in good time: say no and leave, as QEMU does.
        this.#start(request, 0, refuse(request, agreement, NBD_EINVAL, 'the payload is too large'));
        throw new ProtocolError(`A write of ${request.length} bytes exceeds the limit of ${NBD_MAX_PAYLOAD}`);
      }
      const refusal = refusalOf(request, agreement);
      const cost = refusal === null || isWrite ? costOf(request) : 0;
      while (this.#isFull(cost)) await this.#slot();
      const payload = isWrite ? await this.#payload(request.length) : NO_PAYLOAD;
      if (this.#stopping) return;
      const reply =
        refusal === null
          ? answer(request, payload, agreement, this.#pool)
          : refuse(request, agreement, NBD_EINVAL, refusal);
      this.#start(request, cost, reply, payload);
      turn += request.type === NBD_CMD_BLOCK_STATUS ? NBD_TURN : 1;
      if (turn >= NBD_TURN) {
        // Everything above may go on without ever letting the event loop look at the other clients.
        await new Promise(setImmediate);
        turn = 0;
      }
    }
  }

  #isFull(cost: number): boolean {
    const count = this.#inFlight.count;
    return count >= NBD_MAX_IN_FLIGHT || (count > 0 && this.#bytesInFlight + cost > NBD_MAX_IN_FLIGHT_BYTES);
  }

  #slot(): Promise<void> {
    return new Promise((resolve) => (this.#slotFreed = resolve));
  }

  /**
   * The payload where it landed, or, if it is large, in memory of the pool. Not a Buffer in either case: a source that
   * keeps `payload.slice()` means a copy, which a Buffer's slice is not.
   */
  async #payload(length: number): Promise<Uint8Array> {
    if (length <= NBD_MAX_VIEW) return this.#reader.view(length);
    const bytes = this.#pool.take(length);
    await this.#reader.readInto(bytes);
    return new Uint8Array(bytes.buffer, bytes.byteOffset, length);
  }

  #give(payload: Uint8Array): void {
    if (!this.#reader.release(payload)) this.#pool.give(payload);
  }

  /** Puts a request in flight. `reply` never rejects (server-commands.ts). */
  #start(request: NbdRequest, cost: number, reply: Reply | Promise<Reply>, payload = NO_PAYLOAD): void {
    this.#inFlight.enter();
    this.#bytesInFlight += cost;
    const ended = (): void => {
      this.#bytesInFlight -= cost;
      this.#inFlight.leave();
      const wake = this.#slotFreed;
      this.#slotFreed = null;
      wake?.();
    };
    if (!(reply instanceof Promise)) {
      this.#give(payload);
      this.#send(reply, ended);
      return;
    }
    reply.then(
      (bytes) => {
        this.#give(payload);
        this.#send(bytes, ended);
      },
      (error: unknown) => {
        // A bug of ours: the client must not wait for ever.
        this.#log.error(error, `NBD request of type ${request.type} failed unexpectedly`);
        this.#socket.destroy();
        ended();
      },
    );
  }

  /** Replies that end within one turn of the event loop leave in one system call. */
  #send(bytes: Reply, ended: () => void): void {
    if (this.#socket.destroyed || !this.#socket.writable) {
      // Nobody hears the replies to what it has sent besides, which may be thousands of requests.
      this.#stopping = true;
      ended();
      return;
    }
    if (!this.#corked) {
      this.#corked = true;
      this.#socket.cork();
      process.nextTick(() => {
        this.#corked = false;
        this.#socket.uncork();
      });
    }
    this.#out.write(bytes, () => {
      this.#pool.give(bytes);
      ended();
    });
  }

  /**
   * Sends what is owed, says goodbye, and reads on without keeping anything for a moment: closing with unread input
   * would reset the connection and could take the last replies with it.
   */
  async #leave(): Promise<void> {
    const socket = this.#socket;
    const timer = setTimeout(() => socket.destroy(), NBD_LINGER_MS);
    try {
      await Promise.race([this.#inFlight.idle(), this.#closed.promise]);
      if (!socket.destroyed) {
        if (socket.readableEnded) socket.destroySoon();
        else {
          socket.once('end', () => socket.destroySoon());
          socket.end();
          socket.resume();
        }
      }
      await this.#closed.promise;
    } finally {
      clearTimeout(timer);
    }
  }
}

/** The memory that a request takes while it is in flight. */
function costOf({ type, length }: NbdRequest): number {
  if (type === NBD_CMD_READ || type === NBD_CMD_WRITE) return length;
  return type === NBD_CMD_BLOCK_STATUS ? NBD_STATUS_COST : 0;
}
