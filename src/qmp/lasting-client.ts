/**
 * A QMP connection that outlives its sockets: when one breaks, another is made, until somebody says that the server has
 * gone for good. Commands and waits that were under way are rejected with ClosedError and never repeated, since nobody
 * knows whether they took effect. Events of the time in between are lost; the event RECONNECTED says so, and whoever
 * listens asks for the state then.
 *
 * A command that is given meanwhile waits for the next connection, within its own deadline. A server that accepts and
 * says nothing (a frozen process) is a connection that is not there yet.
 */
import { Deferred, withDeadline } from '../base/async.ts';
import { ClosedError, TimeoutError, messageOf } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import { COMMAND_DEADLINE_MS, EVENT_DEADLINE_MS, QmpClient } from './client.ts';
import type { ExecuteOptions } from './client.ts';
import type { QmpAddress } from './server.ts';
import type { QmpEvent } from './types.ts';

const log = loggerFor('qmp-client');

/** Not one of QEMU's: what happened before was not heard. */
export const RECONNECTED = 'RECONNECTED';

/** For connecting and the greeting; a process that was frozen answers within its next try. */
const CONNECT_DEADLINE_MS = 10_000;
/** Pause between two attempts. */
const RETRY_MS = 50;

/** What somebody needs who gives commands; QmpClient has it too. */
export type QmpConnection = Pick<QmpClient, 'execute' | 'waitFor' | 'onEvent' | 'closed' | 'close'>;

export class LastingQmpClient implements QmpConnection {
  readonly #address: QmpAddress;
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  readonly #closed = new Deferred<Error>();
  readonly #ending = new AbortController();
  readonly #onBreak: (reason: Error) => void;
  /** The present connection, or the promise of the next. */
  #client: QmpClient | null = null;
  #next = new Deferred<QmpClient>();

  /** `onBreak` hears of every connection that ends. */
  constructor(address: QmpAddress, onBreak: (reason: Error) => void = () => undefined) {
    this.#address = address;
    this.#onBreak = onBreak;
    void this.#keepConnected();
  }

  get isConnected(): boolean {
    return this.#client !== null;
  }

  /** Resolves with the reason when it has been closed for good. */
  get closed(): Promise<Error> {
    return this.#closed.promise;
  }

  /** Resolves when there is a connection. Throws ClosedError. */
  async connected(): Promise<void> {
    await this.#current();
  }

  /** As QmpClient.execute; `timeoutMs` includes the waiting for a connection. */
  async execute(
    command: string,
    args: Readonly<Record<string, unknown>> = {},
    options: ExecuteOptions = {},
  ): Promise<unknown> {
    const timeoutMs = options.timeoutMs ?? COMMAND_DEADLINE_MS;
    if (this.#client) return this.#client.execute(command, args, options);
    const from = performance.now();
    const client = await withDeadline(this.#current(), timeoutMs, command, options.signal);
    return client.execute(command, args, { ...options, timeoutMs: left(from, timeoutMs, command) });
  }

  onEvent(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** As QmpClient.waitFor. Rejected when the connection breaks, as the event may have been missed. */
  async waitFor(
    name: string,
    accepts: (event: QmpEvent) => boolean = () => true,
    timeoutMs = EVENT_DEADLINE_MS,
    signal?: AbortSignal,
  ): Promise<QmpEvent> {
    if (this.#client) return this.#client.waitFor(name, accepts, timeoutMs, signal);
    const from = performance.now();
    const client = await withDeadline(this.#current(), timeoutMs, `event ${name}`, signal);
    return client.waitFor(name, accepts, left(from, timeoutMs, `event ${name}`), signal);
  }

  /** For good; what is under way fails with `reason`. Idempotent. */
  close(reason: Error = new ClosedError('the QMP connection was closed')): void {
    if (this.#closed.settled) return;
    this.#closed.resolve(reason);
    this.#next.reject(reason);
    this.#ending.abort(reason);
    this.#client?.close(reason);
    this.#client = null;
  }

  async #current(): Promise<QmpClient> {
    if (this.#closed.settled) throw await this.#closed.promise;
    return this.#client ?? this.#next.promise;
  }

  async #keepConnected(): Promise<void> {
    for (let isFirst = true; ; isFirst = false) {
      const client = await this.#connect();
      if (!client) return;
      client.onEvent((event) => this.#deliver(event));
      this.#client = client;
      this.#next.resolve(client);
      if (!isFirst) this.#deliver({ event: RECONNECTED, data: {}, timestamp: now() });
      const reason = await client.closed;
      if (this.#isOver()) return;
      this.#client = null;
      this.#next = new Deferred();
      log.debug(`${messageOf(reason)}; connecting anew`);
      this.#onBreak(reason);
    }
  }

  /** Null when it is over. */
  async #connect(): Promise<QmpClient | null> {
    const { signal } = this.#ending;
    while (!this.#isOver()) {
      try {
        const client = await QmpClient.connect(this.#address, { timeoutMs: CONNECT_DEADLINE_MS, signal });
        if (!this.#isOver()) return client;
        client.close();
      } catch (error) {
        log.trace(messageOf(error));
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
    return null;
  }

  #isOver(): boolean {
    return this.#closed.settled;
  }

  #deliver(event: QmpEvent): void {
    for (const listener of [...this.#listeners]) {
      try {
        listener(event);
      } catch (error) {
        log.error(
          { err: error, event: event.event },
          `a listener for QMP events failed: ${messageOf(error)}`,
        );
      }
    }
  }
}

function left(from: number, timeoutMs: number, what: string): number {
  const leftMs = timeoutMs - (performance.now() - from);
  if (leftMs <= 0) throw new TimeoutError(`${what}: no answer within ${timeoutMs} ms`);
  return leftMs;
}

function now(): QmpEvent['timestamp'] {
  const ms = Date.now();
  return { seconds: Math.floor(ms / 1000), microseconds: (ms % 1000) * 1000 };
}
