/**
 * A QMP client: connects, negotiates, sends commands and hands out events. Several commands may be under way at once;
 * each is found again by its id. Works with QEMU as well as with our own server.
 */
import net from 'node:net';
import { Deferred, withDeadline } from '../base/async.ts';
import { ClosedError, ColoError, ProtocolError, messageOf } from '../base/errors.ts';
import type { QmpErrorClass } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import { JsonStream, stringifyJson } from './json-stream.ts';
import type { JsonObject, JsonValue } from './json-stream.ts';
import { isJsonObject } from './request.ts';
import { socketErrorText } from './socket-errors.ts';
import type { QmpAddress } from './server.ts';
import type { QmpEvent, QmpGreeting } from './types.ts';

const log = loggerFor('qmp-client');

const CONNECT_DEADLINE_MS = 10_000;
export const COMMAND_DEADLINE_MS = 30_000;
export const EVENT_DEADLINE_MS = 30_000;

/** The server answered a command with an error. */
export class QmpCommandError extends ColoError {
  /** The server's error class. */
  override readonly qmpClass: QmpErrorClass;
  /** That was answered with it. */
  readonly command: string;
  /** The server's text alone. */
  readonly desc: string;

  constructor(command: string, errorClass: QmpErrorClass, desc: string) {
    super(`${command}: ${desc}`);
    this.command = command;
    this.qmpClass = errorClass;
    this.desc = desc;
  }

  /** The server's error class; one of QMP's, or what a newer server has added. */
  get class(): string {
    return this.qmpClass;
  }
}

/** All optional. */
export interface ConnectOptions {
  /** For connecting, the greeting and the negotiation, in ms, each; default 10 000. */
  readonly timeoutMs?: number;
  /** Ask for out-of-band execution; default false. */
  readonly oob?: boolean;
  /** Breaks connecting off. */
  readonly signal?: AbortSignal;
}

/** All optional. */
export interface ExecuteOptions {
  /** How long the reply may take, in ms (default 30 000). The command may still take effect later. */
  readonly timeoutMs?: number;
  /** Ends waiting for the reply. */
  readonly signal?: AbortSignal;
  /** Execute out of band; needs `oob` at connect time. */
  readonly oob?: boolean;
}

interface Pending {
  readonly command: string;
  readonly reply: Deferred<unknown>;
}

/** Is called with every event, in the order in which they come. */
export type EventListener = (event: QmpEvent) => void;

/** A connection to a monitor: several commands may be under way at once, each reply finds its own. */
export class QmpClient {
  /** What the server said first. */
  greeting!: QmpGreeting;
  readonly #socket: net.Socket;
  readonly #pending = new Map<number, Pending>();
  readonly #listeners = new Set<EventListener>();
  /** Events that somebody waits for: to be told of the end too. */
  readonly #awaited = new Set<Deferred<QmpEvent>>();
  readonly #greeted = new Deferred<QmpGreeting>();
  readonly #closed = new Deferred<Error>();
  #nextId = 1;
  #failure: Error | null = null;

  private constructor(socket: net.Socket) {
    this.#socket = socket;
  }

  /** Connects and negotiates. Throws ColoError: nobody there, no greeting in time, not a QMP server. */
  static async connect(address: QmpAddress, options: ConnectOptions = {}): Promise<QmpClient> {
    const name = 'path' in address ? address.path : `${address.host}:${address.port}`;
    return QmpClient.over(net.connect({ ...address, noDelay: true }), name, options);
  }

  /** The same over a socket that the server itself has connected, or will connect; `name` is what errors call it. */
  static async over(socket: net.Socket, name: string, options: ConnectOptions = {}): Promise<QmpClient> {
    const { timeoutMs = CONNECT_DEADLINE_MS, oob = false, signal } = options;
    const client = new QmpClient(socket);
    client.#listen(name);
    try {
      client.greeting = await withDeadline(
        client.#greeted.promise,
        timeoutMs,
        `QMP greeting of '${name}'`,
        signal,
      );
      const enable = oob ? { enable: ['oob'] } : {};
      await client.execute('qmp_capabilities', enable, { timeoutMs, ...(signal ? { signal } : {}) });
      return client;
    } catch (error) {
      client.close();
      throw error;
    }
  }

  /** Resolves with the reason when the connection is over. */
  get closed(): Promise<Error> {
    return this.#closed.promise;
  }

  /** The command's reply. Throws QmpCommandError for an error reply, TimeoutError, ClosedError when the connection ends first. */
  async execute(
    command: string,
    args: Readonly<Record<string, unknown>> = {},
    options: ExecuteOptions = {},
  ): Promise<unknown> {
    if (this.#failure) throw this.#failure;
    const id = this.#nextId++;
    const reply = new Deferred<unknown>();
    this.#pending.set(id, { command, reply });
    const verb = options.oob ? 'exec-oob' : 'execute';
    const withArgs = Object.keys(args).length > 0 ? { arguments: args } : {};
    this.#socket.write(`${stringifyJson({ [verb]: command, ...withArgs, id })}\r\n`, 'latin1');
    try {
      return await withDeadline(
        reply.promise,
        options.timeoutMs ?? COMMAND_DEADLINE_MS,
        command,
        options.signal,
      );
    } finally {
      this.#pending.delete(id);
    }
  }

  /** Every event from now on. Returns the way to stop listening. */
  onEvent(listener: EventListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Waits `timeoutMs` (ms, default 30 000) for the next event of that name for which `accepts` is true. Call it before the command that causes the event.
   * Throws TimeoutError, ClosedError.
   */
  async waitFor(
    name: string,
    accepts: (event: QmpEvent) => boolean = () => true,
    timeoutMs = EVENT_DEADLINE_MS,
    signal?: AbortSignal,
  ): Promise<QmpEvent> {
    if (this.#failure) throw this.#failure;
    const found = new Deferred<QmpEvent>();
    const stop = this.onEvent((event) => {
      if (event.event === name && accepts(event)) found.resolve(event);
    });
    this.#awaited.add(found);
    try {
      return await withDeadline(found.promise, timeoutMs, `event ${name}`, signal);
    } finally {
      stop();
      this.#awaited.delete(found);
    }
  }

  /** Ends the connection; commands under way fail with `reason`. Idempotent. */
  close(reason: Error = new ClosedError('the QMP connection was closed')): void {
    this.#end(reason);
  }

  #listen(name: string): void {
    const stream = new JsonStream({
      onMessage: (message) => this.#arrived(message),
      onError: (text) => this.#end(new ProtocolError(`'${name}' does not speak QMP: ${text}`)),
    });
    this.#socket.on('data', (chunk: Buffer) => stream.push(chunk));
    this.#socket.on('error', (error) => {
      const verb = this.#greeted.settled ? 'Lost connection to' : 'Failed to connect to';
      this.#end(new ClosedError(`${verb} '${name}': ${socketErrorText(error)}`, { cause: error }));
    });
    this.#socket.on('close', () => this.#end(new ClosedError(`'${name}' closed the QMP connection`)));
  }

  #arrived(message: JsonValue): void {
    if (!isJsonObject(message)) {
      this.#end(new ProtocolError('a QMP message is not an object'));
      return;
    }
    if (isJsonObject(message['QMP'])) {
      this.#greeted.resolve(message as unknown as QmpGreeting);
      return;
    }
    if (typeof message['event'] === 'string') {
      this.#deliver(message['event'], message);
      return;
    }
    const pending = typeof message['id'] === 'number' ? this.#pending.get(message['id']) : undefined;
    if (!pending) {
      // The reply to a command that ran into its deadline, or an error of a message that had no readable id.
      log.debug({ message: stringifyJson(message).slice(0, 200) }, 'a QMP reply that nobody waits for');
      return;
    }
    const error = message['error'];
    if (!isJsonObject(error)) {
      pending.reply.resolve(message['return']);
      return;
    }
    // The class is the server's word; ours are a subset of what newer ones may say.
    const errorClass = (
      typeof error['class'] === 'string' ? error['class'] : 'GenericError'
    ) as QmpErrorClass;
    const desc = typeof error['desc'] === 'string' ? error['desc'] : 'no reason given';
    pending.reply.reject(new QmpCommandError(pending.command, errorClass, desc));
  }

  #deliver(name: string, message: JsonObject): void {
    const data = isJsonObject(message['data']) ? message['data'] : {};
    const given = isJsonObject(message['timestamp']) ? message['timestamp'] : {};
    const timestamp = {
      seconds: Number(given['seconds'] ?? 0),
      microseconds: Number(given['microseconds'] ?? 0),
    };
    const event: QmpEvent = { event: name, data, timestamp };
    for (const listener of [...this.#listeners]) {
      try {
        listener(event);
      } catch (error) {
        log.error({ err: error, event: name }, `a listener for QMP events failed: ${messageOf(error)}`);
      }
    }
  }

  #end(reason: Error): void {
    if (this.#failure) return;
    this.#failure = reason;
    this.#socket.destroy();
    this.#greeted.reject(reason);
    this.#closed.resolve(reason);
    for (const { reply } of this.#pending.values()) reply.reject(reason);
    this.#pending.clear();
    for (const found of this.#awaited) found.reject(reason);
  }
}
