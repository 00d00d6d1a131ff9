/**
 * A connection that comes back (QEMU's `reconnect-delay`, qapi/block-core.json BlockdevOptionsNbd). When the server is
 * lost, requests without a reply wait and are sent again, in the order in which they were made; after the delay they
 * fail in that order, and so do new ones at once, until the server is there again. Attempts never end by themselves.
 *
 * Sending again is right for NBD: each request says what the bytes are to be, not how they change. What a client
 * cannot know is as in QEMU: whether a server that died had made finished writes durable (only a flush tells), and
 * whether one that was only out of reach still works on the old requests.
 *
 * A server that comes back with less than it had (a smaller size, a lost ability) is another disk: that is final.
 * A server that is lost again before it has answered anything is no progress: neither delay nor back-off start over.
 */
import { ClosedError, IoError, messageOf } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import {
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
} from './constants.ts';
import type { ClientAgreement } from './handshake-client.ts';
import { NBD_MAX_IN_FLIGHT, NBD_MAX_QUEUED, NBD_RECONNECT_MAX_MS, NBD_RECONNECT_MIN_MS } from './limits.ts';
import type { StatusRun } from './wire.ts';

/** What a client needs of a connection; NbdConnection is one. */
export interface NbdRequester {
  readonly agreement: ClientAgreement;
  /** Why it is of no use any more, or null. */
  readonly death: IoError | null;
  /** Called once when it dies otherwise than by `close`. */
  onLost: ((error: IoError) => void) | null;
  request(
    type: number,
    flags: number,
    offset: number,
    length: number,
    payload?: Uint8Array | null,
    target?: Uint8Array | null,
  ): Promise<readonly StatusRun[]>;
  close(): Promise<void>;
  abort(): void;
}

/** Makes a new connection; broken off by the signal. */
export type Reopen = (signal: AbortSignal) => Promise<NbdRequester>;

interface Waiting {
  readonly order: number;
  readonly resume: (connection: NbdRequester) => void;
  readonly fail: (error: IoError) => void;
}

export class ReconnectingConnection implements NbdRequester {
  readonly agreement: ClientAgreement;
  onLost: ((error: IoError) => void) | null = null;
  readonly #reopen: Reopen;
  readonly #delayMs: number;
  readonly #log = loggerFor('nbd-client');
  readonly #stop = new AbortController();
  #current: NbdRequester | null;
  /** Requests that wait for the server. */
  #waiting: Waiting[] = [];
  #made = 0;
  /** Runs from a loss until something was answered. */
  #patience: NodeJS.Timeout | null = null;
  /** Set when it has run out: requests do not wait then. */
  #lostFor: IoError | null = null;
  #pauseMs = NBD_RECONNECT_MIN_MS;
  #isClosing = false;
  #ended: IoError | null = null;

  constructor(first: NbdRequester, reopen: Reopen, delayMs: number) {
    this.agreement = first.agreement;
    this.#reopen = reopen;
    this.#delayMs = delayMs;
    this.#current = first;
    this.#watch(first);
  }

  get death(): IoError | null {
    return this.#ended;
  }

  /** False while the server is lost. */
  get isConnected(): boolean {
    return this.#current !== null;
  }

  async request(
    type: number,
    flags: number,
    offset: number,
    length: number,
    payload: Uint8Array | null = null,
    target: Uint8Array | null = null,
  ): Promise<readonly StatusRun[]> {
    const order = this.#made++;
    for (;;) {
      const connection = this.#current ?? (await this.#wait(order));
      try {
        const runs = await connection.request(type, flags, offset, length, payload, target);
        this.#progressed(connection);
        return runs;
      } catch (error) {
        // An error that the server told is a reply, and so is final; one of a dead connection is none.
        if (error !== connection.death) {
          this.#progressed(connection);
          throw error;
        }
        if (this.#ended) throw this.#ended;
      }
    }
  }

  /** Requests that wait for the server fail now; those that it has may still end. */
  stopWaiting(): void {
    this.#isClosing = true;
    if (!this.#current) this.#end(new IoError('ESHUTDOWN', 'The NBD connection is being closed'));
  }

  async close(): Promise<void> {
    const current = this.#current;
    this.#end(new IoError('ESHUTDOWN', 'The NBD connection is being closed'));
    await current?.close();
  }

  abort(): void {
    const current = this.#current;
    this.#end(new IoError('ESHUTDOWN', 'The NBD connection was broken off'));
    current?.abort();
  }

  #watch(connection: NbdRequester): void {
    const lost = (error: IoError): void => {
      if (this.#current !== connection) return;
      this.#current = null;
      if (this.#isClosing) this.#end(error);
      if (this.#ended) return;
      this.#log.warn(`${messageOf(error)}; connecting again`);
      this.#patience ??= setTimeout(() => this.#giveUp(error), this.#delayMs);
      void this.#reconnect();
    };
    connection.onLost = lost;
    if (connection.death) lost(connection.death);
  }

  #wait(order: number): Promise<NbdRequester> {
    const error = this.#ended ?? this.#lostFor;
    if (error) throw error;
    if (this.#waiting.length >= NBD_MAX_QUEUED + NBD_MAX_IN_FLIGHT) {
      throw new IoError('ENOMEM', `${this.#waiting.length} requests wait for the NBD server already`);
    }
    return new Promise((resume, fail) => this.#waiting.push({ order, resume, fail }));
  }

  /** The delay is over: who waits is told, in order; the attempts go on. */
  #giveUp(error: IoError): void {
    this.#lostFor = error;
    if (!this.#current) this.#failAll(error);
  }

  async #reconnect(): Promise<void> {
    while (!this.#ended && !this.#current) {
      try {
        const connection = await this.#reopen(this.#stop.signal);
        if (this.#isEnded()) connection.abort();
        else this.#adopt(connection);
      } catch (error) {
        if (this.#isEnded()) return;
        this.#log.debug(`NBD server not back yet: ${messageOf(error)}`);
        await this.#pause();
      }
    }
  }

  /** `#ended`, for code that has awaited something since it last looked. */
  #isEnded(): boolean {
    return this.#ended !== null;
  }

  #adopt(connection: NbdRequester): void {
    const worse = whatIsWorse(this.agreement, connection.agreement);
    if (worse !== null) {
      connection.abort();
      const error = new IoError('EIO', `The NBD server came back as another one: ${worse}`);
      this.#end(error);
      this.onLost?.(error);
      return;
    }
    if (connection.death) throw connection.death;
    this.#current = connection;
    this.#watch(connection);
    this.#log.info('NBD server is back');
    const waiting = this.#takeWaiting();
    for (const { resume } of waiting) resume(connection);
  }

  #progressed(connection: NbdRequester): void {
    if (this.#current !== connection || (!this.#patience && !this.#lostFor)) return;
    if (this.#patience) clearTimeout(this.#patience);
    this.#patience = null;
    this.#lostFor = null;
    this.#pauseMs = NBD_RECONNECT_MIN_MS;
  }

  /** Twice as long each time; ended at once with the connection. */
  async #pause(): Promise<void> {
    const ms = this.#pauseMs;
    this.#pauseMs = Math.min(2 * ms, NBD_RECONNECT_MAX_MS);
    const { signal } = this.#stop;
    await new Promise<void>((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        signal.removeEventListener('abort', done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      signal.addEventListener('abort', done);
    });
  }

  #end(error: IoError): void {
    if (this.#ended) return;
    this.#ended = error;
    if (this.#patience) clearTimeout(this.#patience);
    this.#patience = null;
    this.#stop.abort(new ClosedError(error.message));
    this.#failAll(error);
  }

  #failAll(error: IoError): void {
    for (const { fail } of this.#takeWaiting()) fail(error);
  }

  /** In the order in which the requests were made: they may have come here in another one. */
  #takeWaiting(): Waiting[] {
    const waiting = this.#waiting.sort((a, b) => a.order - b.order);
    this.#waiting = [];
    return waiting;
  }
}

const NEEDED_FLAGS: readonly (readonly [number, string])[] = [
  [NBD_FLAG_SEND_FLUSH, 'FLUSH'],
  [NBD_FLAG_SEND_FUA, 'FUA'],
  [NBD_FLAG_SEND_TRIM, 'TRIM'],
  [NBD_FLAG_SEND_WRITE_ZEROES, 'WRITE_ZEROES'],
  [NBD_FLAG_SEND_CACHE, 'CACHE'],
];

/** What the client counts on and would not have any more, in words; null: nothing. */
export function whatIsWorse(before: ClientAgreement, now: ClientAgreement): string | null {
  if (now.sizeBytes < before.sizeBytes) {
    return `the export has ${now.sizeBytes} bytes, it had ${before.sizeBytes}`;
  }
  const isReadOnly = (flags: number): boolean => (flags & NBD_FLAG_READ_ONLY) !== 0;
  if (isReadOnly(now.flags) && !isReadOnly(before.flags)) return 'the export is read-only';
  for (const [flag, name] of NEEDED_FLAGS) {
    if ((before.flags & flag) !== 0 && (now.flags & flag) === 0) return `it has no ${name}`;
  }
  if (before.allocationId !== null && now.allocationId === null) return 'it has no base:allocation';
  if (now.minBlockBytes > before.minBlockBytes) return `its smallest block is ${now.minBlockBytes} bytes`;
  if (now.maxBlockBytes < before.maxBlockBytes) return `its largest request is ${now.maxBlockBytes} bytes`;
  return null;
}
