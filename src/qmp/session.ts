/**
 * The server's side of one QMP connection: greeting, capabilities negotiation, requests executed one after the other
 * and answered in that order, out-of-band ones at once, events in between (docs/qemu-behaviour.md 7.1). What a command
 * does is `dispatch`'s affair; the bytes are the transport's.
 *
 * Bounds: beyond 8 waiting requests, or 1 MiB of replies that the client has not taken, nothing more is read (what came in
 * the same chunk is still queued). Events cannot be held back like that: a client with 16 MiB unread is disconnected.
 */
import { ColoError, CommandNotFoundError, messageOf } from '../base/errors.ts';
import type { QmpErrorClass } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import { JsonStream, stringifyJson } from './json-stream.ts';
import type { JsonObject, JsonValue } from './json-stream.ts';
import { isJsonObject, parseCapabilities, parseRequest } from './request.ts';
import type { QmpErrorBody, QmpRequest, QmpVersion } from './types.ts';

const log = loggerFor('qmp-session');

export const QUEUED_REQUESTS_LIMIT = 8;
export const UNSENT_PAUSE_BYTES = 1024 * 1024;
export const UNSENT_LIMIT_BYTES = 16 * 1024 * 1024;

/** Where a session's bytes go. The owner calls `receive`, `drained`, `inputEnded` and `transportClosed` in turn. */
export interface QmpTransport {
  /** Takes all of it; never blocks, never throws. */
  write(text: string): void;
  /** Bytes that the client has not taken yet. */
  readonly unsentBytes: number;
  setReading(on: boolean): void;
  /** Sends what is left, then closes. */
  end(): void;
  /** Closes now. */
  destroy(): void;
}

export interface DispatchContext {
  readonly oob: boolean;
  readonly session: QmpSession;
}

export interface QmpSessionOptions {
  readonly version: QmpVersion;
  /** Executes a command. A ColoError becomes the error reply of its class; undefined and void are `{}`. */
  readonly dispatch: (command: string, args: JsonObject, context: DispatchContext) => Promise<unknown>;
  /** Whether a command may run out of band; null when there is no such command. Default: none may. */
  readonly supportsOob?: (command: string) => boolean | null;
}

/** What waits for its turn: a request, or the error of a message that was none. */
type Queued = { readonly message: JsonValue } | { readonly parseError: string };

export class QmpSession {
  readonly #transport: QmpTransport;
  readonly #options: QmpSessionOptions;
  readonly #stream: JsonStream;
  readonly #queue: Queued[] = [];
  #negotiated = false;
  #oobEnabled = false;
  #working = false;
  #inputEnded = false;
  #closed = false;

  constructor(transport: QmpTransport, options: QmpSessionOptions) {
    this.#transport = transport;
    this.#options = options;
    this.#stream = new JsonStream({
      onMessage: (message) => this.#arrived(message),
      onError: (parseError) => this.#enqueue({ parseError }),
    });
  }

  /** True once the client may send commands and is sent events. */
  get isNegotiated(): boolean {
    return this.#negotiated;
  }

  /** Sends the greeting. */
  start(): void {
    this.#send({ QMP: { version: this.#options.version, capabilities: ['oob'] } });
  }

  receive(chunk: Uint8Array): void {
    if (this.#closed) return;
    this.#stream.push(chunk);
    this.#applyReading();
  }

  /** The client took what was waiting. */
  drained(): void {
    this.#applyReading();
  }

  /** The client sends no more. What it has sent is still answered. */
  inputEnded(): void {
    if (this.#inputEnded || this.#closed) return;
    this.#stream.end();
    this.#inputEnded = true;
    if (!this.#working) this.close();
  }

  transportClosed(): void {
    this.#closed = true;
    this.#queue.length = 0;
  }

  /** Sends an event's finished text (see QmpServer.broadcast), if the client has negotiated. */
  sendEvent(text: string): void {
    if (this.#negotiated) this.#write(text);
  }

  /** Sends what is left and closes. Requests that still wait are not executed. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.transportClosed();
    this.#transport.end();
  }

  #arrived(message: JsonValue): void {
    // Only the shape decides who goes first; the rest is checked when it is executed.
    if (this.#oobEnabled && isJsonObject(message) && 'exec-oob' in message) void this.#execute(message);
    else this.#enqueue({ message });
  }

  #enqueue(item: Queued): void {
    if (this.#closed) return;
    this.#queue.push(item);
    if (!this.#working) void this.#work();
  }

  async #work(): Promise<void> {
    this.#working = true;
    for (let item = this.#queue.shift(); item; item = this.#queue.shift()) {
      if ('message' in item) await this.#execute(item.message);
      else this.#replyError(undefined, { class: 'GenericError', desc: item.parseError });
      this.#applyReading();
    }
    this.#working = false;
    if (this.#inputEnded) this.close();
  }

  /** Never throws. */
  async #execute(message: JsonValue): Promise<void> {
    const id = isJsonObject(message) ? message['id'] : undefined;
    try {
      const request = parseRequest(message, this.#oobEnabled);
      const result = await this.#run(request);
      this.#send({ return: result ?? {}, id });
    } catch (error) {
      this.#replyError(id, errorBody(error));
    }
  }

  async #run(request: QmpRequest): Promise<unknown> {
    const { command, args, oob } = request;
    if (!this.#negotiated) {
      if (command === 'qmp_capabilities') return this.#negotiate(args);
      throw new CommandNotFoundError("Expecting capabilities negotiation with 'qmp_capabilities'");
    }
    if (oob) {
      const { supportsOob } = this.#options;
      const supported = command === 'qmp_capabilities' || !supportsOob ? false : supportsOob(command);
      if (supported === null) throw new CommandNotFoundError(`The command ${command} has not been found`);
      if (!supported) throw new ColoError(`The command ${command} does not support OOB`);
    } else if (command === 'qmp_capabilities') {
      throw new CommandNotFoundError('Capabilities negotiation is already complete, command ignored');
    }
    return await this.#options.dispatch(command, args, { oob, session: this });
  }

  #negotiate(args: JsonObject): object {
    this.#oobEnabled = parseCapabilities(args).oob;
    this.#negotiated = true;
    return {};
  }

  #replyError(id: JsonValue | undefined, error: QmpErrorBody): void {
    this.#send({ id, error });
  }

  #send(message: object): void {
    this.#write(`${stringifyJson(message)}\r\n`);
  }

  #write(text: string): void {
    if (this.#closed) return;
    this.#transport.write(text);
    if (this.#transport.unsentBytes <= UNSENT_LIMIT_BYTES) return;
    log.warn('a QMP client does not read what it is sent, it is disconnected');
    this.transportClosed();
    this.#transport.destroy();
  }

  #applyReading(): void {
    if (this.#closed) return;
    const room =
      this.#queue.length < QUEUED_REQUESTS_LIMIT && this.#transport.unsentBytes < UNSENT_PAUSE_BYTES;
    this.#transport.setReading(room);
  }
}

function errorBody(error: unknown): QmpErrorBody {
  let errorClass: QmpErrorClass = 'GenericError';
  if (error instanceof ColoError) errorClass = error.qmpClass;
  else log.error({ err: error }, `a QMP command failed unexpectedly: ${messageOf(error)}`);
  return { class: errorClass, desc: messageOf(error) };
}
