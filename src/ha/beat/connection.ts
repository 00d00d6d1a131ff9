/**
 * One TCP (or TLS) connection of the heartbeat channel, whoever made it: says hello, hands on what comes, and ends at the
 * first thing that is no heartbeat. Says nothing by itself after the hello; when is Heartbeats' business.
 */
import type { Socket } from 'node:net';
import { ColoError, ProtocolError, messageOf } from '../../base/errors.ts';
import { FrameReader, encodeFrame } from './frames.ts';
import { mayBe } from './host-tls.ts';
import {
  parseMessage,
  versionTrouble,
  type Beat,
  type BeatMessage,
  type Hello,
  type VmBeat,
} from './messages.ts';
import { isRefusal } from './prober.ts';

/** Unsent bytes beyond which a beat is left out: the next one says all of it again. */
export const MAX_UNSENT_BYTES = 512 * 1024;

/** For the last words of a daemon that ends to get out. */
const GOODBYE_MS = 1_000;

export interface ConnectionHooks {
  onHello(connection: BeatConnection, hello: Hello): void;
  onBeat(connection: BeatConnection, beat: Beat): void;
  onChange(connection: BeatConnection, vm: VmBeat): void;
  onBye(connection: BeatConnection): void;
  /** Once. `isByPeer`: its kernel has ended it, not this side and not the lack of answers. */
  onEnd(connection: BeatConnection, isByPeer: boolean, error: Error | null): void;
}

export class BeatConnection {
  /** Whom the hello named; null before it. */
  host: string | null = null;
  readonly #socket: Socket;
  readonly #own: Hello;
  readonly #expected: string | null;
  readonly #hooks: ConnectionHooks;
  readonly #reader = new FrameReader();
  #hasEnded = false;

  /** `expected`: who was dialled. Whoever else answers there is not listened to. */
  constructor(socket: Socket, own: Hello, expected: string | null, hooks: ConnectionHooks) {
    this.#socket = socket;
    this.#own = own;
    this.#expected = expected;
    this.#hooks = hooks;
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    socket.on('error', (error) => this.#end(isRefusal(error), error));
    socket.on('end', () => this.#end(true, null));
    socket.on('close', () => this.#end(false, null));
    this.send(own);
  }

  /** Left out when the peer has not taken what was sent before. */
  send(message: BeatMessage): void {
    if (this.#hasEnded || this.#socket.writableLength > MAX_UNSENT_BYTES) return;
    this.#socket.write(encodeFrame(message));
  }

  /** Says what there is to say, then ends. */
  close(): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#socket.end();
    setTimeout(() => this.#socket.destroy(), GOODBYE_MS).unref();
  }

  destroy(error: Error | null = null): void {
    this.#end(false, error);
  }

  #end(isByPeer: boolean, error: Error | null): void {
    if (this.#hasEnded) {
      this.#socket.destroy();
      return;
    }
    this.#hasEnded = true;
    this.#socket.destroy();
    this.#hooks.onEnd(this, isByPeer, error);
  }

  #take(chunk: Buffer): void {
    if (this.#hasEnded) return;
    try {
      for (const text of this.#reader.push(chunk)) {
        const message = parseMessage(text);
        if (message) this.#handle(message);
        if (this.#isOver()) return;
      }
    } catch (error) {
      this.#end(false, error instanceof Error ? error : new ColoError(messageOf(error)));
    }
  }

  #isOver(): boolean {
    return this.#hasEnded;
  }

  #handle(message: BeatMessage): void {
    if (message.kind === 'hello') this.#greet(message);
    else if (this.host === null) throw new ProtocolError('heartbeat: a message before the hello');
    else if (message.kind === 'beat') this.#hooks.onBeat(this, message);
    else if (message.kind === 'change') this.#hooks.onChange(this, message.vm);
    else this.#hooks.onBye(this);
  }

  #greet(hello: Hello): void {
    const { host } = hello;
    if (this.host !== null) throw new ProtocolError('heartbeat: a second hello');
    if (host === this.#own.host) {
      throw new ColoError(`heartbeat: another host is called '${host}' too; names have to differ`);
    }
    if (this.#expected !== null && host !== this.#expected) {
      throw new ColoError(`heartbeat: '${host}' answers where '${this.#expected}' was expected`);
    }
    if (!mayBe(host, this.#socket)) {
      throw new ColoError(`heartbeat: the certificate of '${host}' names neither it nor its address`);
    }
    const trouble = versionTrouble(this.#own, hello);
    if (trouble !== null) throw new ColoError(`heartbeat: '${host}': ${trouble}`);
    this.host = host;
    this.#hooks.onHello(this, hello);
  }
}
