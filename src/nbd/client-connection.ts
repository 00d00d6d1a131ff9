/**
 * A client's connection: the socket, the handshake on it, then requests in flight in slots, each with a deadline.
 * client.ts above it knows what requests mean; this file sends them, matches replies and decides when the connection
 * is dead. Dead is final: every request in flight, then every waiting one, fails in the order in which it was made.
 *
 * Received bytes land in one reused staging buffer, or, when much of a READ is missing, straight in the caller's
 * memory (Node's `onread` lets the next buffer be chosen before each read). In TLS they come as Node decrypts them.
 */
import { connect as connectSocket, type Socket } from 'node:net';
import { performance } from 'node:perf_hooks';
import { Deferred, InFlight, withDeadline } from '../base/async.ts';
import { ClosedError, IoError, ProtocolError, TimeoutError, messageOf } from '../base/errors.ts';
import { afterPatience } from '../base/patience.ts';
import type { TlsCredentials } from '../base/tls/credentials.ts';
import { TlsError, reasonOf, secureAsClient } from '../base/tls/upgrade.ts';
import { textOfAddress, type NbdAddress } from './address.ts';
import { ByteReader } from './byte-reader.ts';
import { NBD_CMD_DISC } from './constants.ts';
import { NbdConnectError, NbdNegotiationError, systemErrorText } from './errors.ts';
import { negotiateAsClient, type ClientAgreement, type ClientWishes } from './handshake-client.ts';
import { NBD_MAX_QUEUED } from './limits.ts';
import { ReplyDecoder, type ReplySink } from './reply-decoder.ts';
import { RequestSlot } from './request-slot.ts';
import { REQUEST_BYTES, encodeRequest, type StatusRun } from './wire.ts';

const STAGING_BYTES = 64 * 1024;
/** Less than this is cheaper to copy from the staging buffer than to read by a system call of its own. */
const DIRECT_MIN_BYTES = 16 * 1024;
/** For a request to leave that could not be sent for all of its time, milliseconds. */
const SEND_AGAIN_MS = 1_000;

export interface ConnectionTimes {
  readonly connectTimeoutMs: number;
  /** Longest time without progress of one request. Infinity: none. */
  readonly requestTimeoutMs: number;
  readonly closeTimeoutMs: number;
}

/** With whom to talk in TLS. */
export interface ClientTls {
  /** Of `createTlsCredentials`, with endpoint `client`. */
  readonly credentials: TlsCredentials;
  /** Whom the server's certificate must name; null is enough for a pre-shared key. */
  readonly hostname: string | null;
}

export class NbdConnection implements ReplySink {
  readonly #name: string;
  readonly #times: ConnectionTimes;
  /** The clear socket, then the secure one if there is TLS. */
  #socket: Socket;
  readonly #tls: ClientTls | null;
  #isSecure = false;
  readonly #reader: ByteReader;
  readonly #closed = new Deferred<void>();
  readonly #staging = Buffer.allocUnsafeSlow(STAGING_BYTES);
  /** The memory of a READ that the socket was told to fill, null while it fills the staging buffer. */
  #direct: Uint8Array | null = null;
  #decoder: ReplyDecoder | null = null;
  #agreement: ClientAgreement | null = null;
  readonly #slots: RequestSlot[] = [];
  readonly #free: RequestSlot[] = [];
  #waiters: { grant(slot: RequestSlot): void; reject(error: Error): void }[] = [];
  readonly #requests = new InFlight();
  #order = 0;
  #corked = false;
  /** Each ends it. */
  #deadline: (() => void) | null = null;
  #sendingDeadline: (() => void) | null = null;
  #dead: IoError | null = null;
  #closing = false;
  #ending: Promise<void> | null = null;
  /** Called once when the connection dies otherwise than by `close`. */
  onLost: ((error: IoError) => void) | null = null;

  /**
   * Connects and shakes hands. Throws NbdConnectError, NbdNegotiationError, ProtocolError, or ClosedError when
   * `signal` is aborted.
   */
  static async open(
    address: NbdAddress,
    wishes: ClientWishes,
    times: ConnectionTimes,
    maxInFlight: number,
    tls: ClientTls | null,
    signal?: AbortSignal,
  ): Promise<NbdConnection> {
    const connection = new NbdConnection(address, times, maxInFlight, tls);
    const name = textOfAddress(address);
    const what = `NBD connection to '${name}'`;
    try {
      await withDeadline(connection.#handshake(wishes), times.connectTimeoutMs, what, signal);
      return connection;
    } catch (error) {
      connection.abort();
      if (isFromTls(error)) throw new NbdNegotiationError(reasonOf(error), { cause: error });
      if (connection.#isSecure && isHangUp(error)) {
        const text = 'Server hung up after the TLS handshake: it may not accept our credentials';
        throw new NbdNegotiationError(text, { cause: error });
      }
      if (!(error instanceof TimeoutError)) throw error;
      throw new NbdConnectError(`Failed to connect to '${name}': Connection timed out`, { cause: error });
    }
  }

  private constructor(
    address: NbdAddress,
    times: ConnectionTimes,
    maxInFlight: number,
    tls: ClientTls | null,
  ) {
    this.#tls = tls;
    this.#name = textOfAddress(address);
    this.#times = times;
    for (let index = 0; index < maxInFlight; index++) this.#slots.push(new RequestSlot(index));
    this.#free.push(...this.#slots.toReversed());
    const onread = {
      buffer: () => this.#nextBuffer(),
      callback: (count: number) => {
        this.#received(count);
        return true;
      },
    };
    const socket =
      'path' in address
        ? connectSocket({ path: address.path, onread })
        : connectSocket({ host: address.host, port: address.port, noDelay: true, keepAlive: true, onread });
    this.#socket = socket;
    this.#reader = new ByteReader(
      { pause: () => void this.#socket.pause(), resume: () => void this.#socket.resume() },
      2 ** 20,
    );
    this.#listen(socket);
  }

  #listen(socket: Socket): void {
    socket.on('error', (error) => this.#lost(error));
    socket.on('end', () => this.#lost(new ClosedError('The server closed the connection')));
    socket.on('timeout', () => this.#sendingStalled());
    socket.on('close', () => {
      this.#lost(new ClosedError('The connection is closed'));
      this.#closed.resolve();
    });
  }

  get agreement(): ClientAgreement {
    if (!this.#agreement) throw new Error('No handshake yet');
    return this.#agreement;
  }

  /** Why the connection is dead, or null while it lives. */
  get death(): IoError | null {
    return this.#dead;
  }

  /**
   * Sends a request and waits for its reply; waits for a free slot first when all are in use. A WRITE's payload must
   * not change, and a READ's target must not be used, before the promise ends. Resolves with the runs of a
   * BLOCK_STATUS (else none). Throws IoError: the server's error, or ETIMEDOUT, EIO, ESHUTDOWN of a dead connection.
   */
  async request(
    type: number,
    flags: number,
    offset: number,
    length: number,
    payload: Uint8Array | null = null,
    target: Uint8Array | null = null,
  ): Promise<readonly StatusRun[]> {
    this.#checkAlive();
    this.#requests.enter();
    let slot: RequestSlot | undefined;
    try {
      slot = this.#free.pop() ?? (await this.#waitForSlot());
      if (this.#dead) throw this.#dead;
      return await this.#send(slot, type, flags, offset, length, payload, target);
    } finally {
      this.#requests.leave();
      if (slot) this.#release(slot);
    }
  }

  /** Waits for the requests in flight, says DISC, and closes; never longer than its deadlines. Idempotent. */
  close(): Promise<void> {
    this.#ending ??= this.#close();
    return this.#ending;
  }

  async #close(): Promise<void> {
    this.#closing = true;
    if (!this.#dead) {
      await this.#requests.idle();
      if (!this.#socket.destroyed) this.#sendDisconnect();
    }
    const timer = setTimeout(() => this.#socket.destroy(), this.#times.closeTimeoutMs);
    await this.#closed.promise;
    clearTimeout(timer);
  }

  /** Ends the connection at once; requests in flight fail with `ESHUTDOWN`. */
  abort(): void {
    this.#die(new IoError('ESHUTDOWN', `NBD connection to '${this.#name}' was broken off`));
  }

  // ---- Replies (ReplySink)

  chunkBegins(cookieHi: number, cookieLo: number): void {
    this.#slotOf(cookieHi, cookieLo);
  }

  simpleReply(cookieHi: number, cookieLo: number, error: number): Uint8Array | null {
    return this.#slotOf(cookieHi, cookieLo).simpleReply(error, this.agreement.structured);
  }

  dataChunk(_cookieHi: number, cookieLo: number, offset: number, length: number): Uint8Array {
    return this.#slots[cookieLo]!.dataChunk(offset, length);
  }

  holeChunk(_cookieHi: number, cookieLo: number, offset: number, length: number): void {
    this.#slots[cookieLo]!.holeChunk(offset, length);
  }

  statusChunk(_cookieHi: number, cookieLo: number, contextId: number, runs: Buffer): void {
    if (contextId !== this.agreement.allocationId) {
      throw new ProtocolError(`Block status for the unknown context ${contextId}`);
    }
    this.#slots[cookieLo]!.statusChunk(runs);
  }

  errorChunk(_cookieHi: number, cookieLo: number, error: number, message: string): void {
    this.#slots[cookieLo]!.errorChunk(error, message);
  }

  replyDone(_cookieHi: number, cookieLo: number): void {
    this.#slots[cookieLo]!.finish();
  }

  /** Throws ProtocolError when no request in flight has this cookie. */
  #slotOf(cookieHi: number, cookieLo: number): RequestSlot {
    const slot = this.#slots[cookieLo];
    if (!slot?.isActive || slot.generation !== cookieHi) {
      throw new ProtocolError(`Reply to an unknown request (cookie ${cookieHi}:${cookieLo})`);
    }
    return slot;
  }

  // ---- Receiving

  #nextBuffer(): Uint8Array {
    const wanted = this.#decoder?.directTarget ?? null;
    this.#direct = wanted && wanted.byteLength >= DIRECT_MIN_BYTES ? wanted : null;
    return this.#direct ?? this.#staging;
  }

  /** Runs inside the socket's read callback: nothing may escape from here. */
  #received(count: number): void {
    if (!this.#direct) {
      const bytes = this.#staging.subarray(0, count);
      this.#take(this.#decoder ? bytes : Buffer.from(bytes));
    } else this.#take(null, count);
  }

  /** `bytes`, or null when `count` of them are where they belong already. Before the handshake's end they are kept. */
  #take(bytes: Buffer | null, count = 0): void {
    if (this.#dead) return;
    const decoder = this.#decoder;
    try {
      if (!bytes) decoder?.directFilled(count);
      else if (decoder) decoder.feed(bytes);
      else this.#reader.push(bytes);
    } catch (error) {
      this.#lost(error);
      return;
    }
    const current = decoder?.currentCookieLo ?? -1;
    if (current >= 0) this.#slots[current]!.progressAt = performance.now();
  }

  async #handshake(wishes: ClientWishes): Promise<void> {
    const clear = this.#socket;
    await new Promise<void>((resolve, reject) => {
      clear.once('connect', resolve);
      clear.once('error', (cause) => {
        const message = `Failed to connect to '${this.#name}': ${systemErrorText(cause)}`;
        reject(new NbdConnectError(message, { cause }));
      });
      clear.once('close', () => reject(new ClosedError('The connection is closed')));
    });
    const send = (bytes: Uint8Array): Promise<void> =>
      new Promise((resolve, reject) => {
        this.#socket.write(bytes, (error) => (error ? reject(error) : resolve()));
      });
    const startTls = (): Promise<void> => this.#startTls();
    const asked = { ...wishes, tls: this.#tls !== null };
    const agreement = await negotiateAsClient({ reader: this.#reader, send, startTls }, asked);
    if (this.#reader.bufferedBytes > 0) throw new ProtocolError('Server sent data before any request');
    this.#agreement = agreement;
    this.#decoder = new ReplyDecoder(this, agreement.structured);
    const { requestTimeoutMs } = this.#times;
    if (Number.isFinite(requestTimeoutMs)) this.#socket.setTimeout(requestTimeoutMs);
  }

  async #startTls(): Promise<void> {
    if (!this.#tls) throw new Error('No TLS credentials');
    if (this.#reader.bufferedBytes > 0) {
      throw new ProtocolError('Server sent data in clear behind its reply to STARTTLS');
    }
    const { credentials, hostname } = this.#tls;
    this.#socket = await secureAsClient(this.#socket, credentials, hostname);
    this.#isSecure = true;
    this.#socket.on('data', (bytes: Buffer) => this.#take(bytes));
    this.#listen(this.#socket);
    if (this.#dead) this.#socket.destroy();
  }

  // ---- Sending

  #waitForSlot(): Promise<RequestSlot> {
    if (this.#waiters.length >= NBD_MAX_QUEUED) {
      throw new IoError('ENOMEM', `${this.#waiters.length} requests wait for the NBD connection already`);
    }
    return new Promise((grant, reject) => this.#waiters.push({ grant, reject }));
  }

  #release(slot: RequestSlot): void {
    const next = this.#waiters.shift();
    if (next) next.grant(slot);
    else this.#free.push(slot);
  }

  #send(
    slot: RequestSlot,
    type: number,
    flags: number,
    offset: number,
    length: number,
    payload: Uint8Array | null,
    target: Uint8Array | null,
  ): Promise<readonly StatusRun[]> {
    const socket = this.#socket;
    slot.begin(type, offset, length, target, performance.now());
    slot.order = this.#order++;
    const { generation } = slot;
    const header = Buffer.allocUnsafe(REQUEST_BYTES);
    encodeRequest(header, 0, flags, type, generation, slot.index, offset, length);
    const sent = (): void => {
      if (slot.generation !== generation) return;
      slot.isSent = true;
      slot.progressAt = performance.now();
    };
    return new Promise((resolve, reject) => {
      slot.resolve = resolve;
      slot.reject = reject;
      this.#corkForThisTurn();
      if (payload) {
        socket.write(header);
        socket.write(payload, sent);
      } else socket.write(header, sent);
      this.#deadline ??= this.#armDeadline(this.#times.requestTimeoutMs);
    });
  }

  /** Requests made within one turn of the event loop leave in one system call. */
  #corkForThisTurn(): void {
    if (this.#corked) return;
    this.#corked = true;
    this.#socket.cork();
    process.nextTick(() => {
      this.#corked = false;
      this.#socket.uncork();
    });
  }

  #sendDisconnect(): void {
    const header = Buffer.allocUnsafe(REQUEST_BYTES);
    encodeRequest(header, 0, 0, NBD_CMD_DISC, 0, 0, 0, 0);
    this.#socket.end(header);
  }

  // ---- Deadlines and death

  #armDeadline(ms: number): (() => void) | null {
    return Number.isFinite(ms) ? afterPatience(ms, () => this.#checkDeadlines()) : null;
  }

  /** One timer for all requests: it looks for the one that got on least recently, and comes back in its time. */
  #checkDeadlines(): void {
    const now = performance.now();
    let oldest = Infinity;
    for (const slot of this.#slots) {
      // While a request is being sent, the socket's own timeout watches it.
      if (slot.isActive) oldest = Math.min(oldest, slot.isSent ? slot.progressAt : now);
    }
    const left = oldest + this.#times.requestTimeoutMs - now;
    this.#deadline = null;
    if (left <= 0) this.#timedOut();
    else if (oldest !== Infinity) this.#deadline = this.#armDeadline(Math.ceil(left));
  }

  /** By the socket's own timer, which has not seen what can be sent now if this process stood still itself. */
  #sendingStalled(): void {
    const stuck = this.#slots.filter((slot) => slot.isActive && !slot.isSent);
    const generations = stuck.map(({ generation }) => generation);
    if (stuck.length === 0 || this.#sendingDeadline) return;
    this.#sendingDeadline = afterPatience(Math.min(SEND_AGAIN_MS, this.#times.requestTimeoutMs), () => {
      this.#sendingDeadline = null;
      if (stuck.every((slot, at) => !slot.isSent && slot.generation === generations[at])) this.#timedOut();
    });
  }

  #timedOut(): void {
    const message = `NBD server '${this.#name}' made no progress for ${this.#times.requestTimeoutMs} ms`;
    this.#die(new IoError('ETIMEDOUT', message, { cause: new TimeoutError(message) }));
  }

  #lost(cause: unknown): void {
    this.#die(
      new IoError('EIO', `NBD connection to '${this.#name}' was lost: ${messageOf(cause)}`, { cause }),
    );
  }

  #die(error: IoError): void {
    if (this.#dead) return;
    this.#dead = error;
    this.#reader.end(error.cause instanceof Error ? error.cause : error);
    this.#socket.destroy();
    this.#deadline?.();
    this.#sendingDeadline?.();
    this.#deadline = this.#sendingDeadline = null;
    const active = this.#slots.filter((slot) => slot.isActive);
    for (const slot of active.sort((a, b) => a.order - b.order)) slot.abandon(error);
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter.reject(error);
    if (!this.#closing) this.onLost?.(error);
  }

  #checkAlive(): void {
    if (this.#dead) throw this.#dead;
    if (this.#closing) throw new IoError('ESHUTDOWN', `NBD connection to '${this.#name}' is being closed`);
  }
}

/** An alert of the server's may arrive after the handshake: TLS 1.3 judges a client's certificate last. */
function isFromTls(error: unknown): boolean {
  if (error instanceof TlsError) return true;
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' && code.startsWith('ERR_SSL_');
}

function isHangUp(error: unknown): boolean {
  if (error instanceof ClosedError) return true;
  const code = (error as { code?: unknown } | null)?.code;
  return code === 'ECONNRESET' || code === 'EPIPE';
}
