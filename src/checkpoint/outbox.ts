/**
 * The sending half of the checkpoint channel: messages go out in pieces, each with a deadline, since a frozen peer
 * stops taking bytes and one that takes some is only slow. Knows what may go in between.
 */
import type { Socket } from 'node:net';
import { Deferred } from '../base/async.ts';
import { TimeoutError } from '../base/errors.ts';
import { afterPatience } from '../base/patience.ts';

const WRITE_PIECE_BYTES = 1024 * 1024;

export class Outbox {
  readonly #socket: Socket;
  readonly #patienceMs: number;
  readonly #unsent = new Set<Deferred<void>>();
  /** Messages of several parts that are being sent. */
  #underWay = 0;
  #error: Error | null = null;

  constructor(socket: Socket, patienceMs: number) {
    this.#socket = socket;
    this.#patienceMs = patienceMs;
  }

  /** Resolves when the kernel has taken all of it. Throws TimeoutError, or what `fail` was given. */
  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.byteLength; at += WRITE_PIECE_BYTES) {
      await this.#writePiece(bytes.subarray(at, at + WRITE_PIECE_BYTES));
    }
  }

  /** What `send` writes is one message: nothing goes in between. */
  async whole(send: () => Promise<void>): Promise<void> {
    this.#underWay++;
    try {
      await send();
    } finally {
      this.#underWay--;
    }
  }

  /** Sends a small thing between two messages, or not at all (false): none waits behind what the peer does not take. */
  tryWrite(bytes: Uint8Array): boolean {
    if (this.#error || this.#underWay > 0 || this.#socket.writableLength > 0) return false;
    this.#socket.write(bytes);
    return true;
  }

  /** Ends every wait, and those to come. */
  fail(reason: Error): void {
    this.#error ??= reason;
    for (const sent of this.#unsent) sent.reject(reason);
  }

  async #writePiece(piece: Uint8Array): Promise<void> {
    if (this.#error) throw this.#error;
    const sent = new Deferred<void>();
    const endPatience = afterPatience(this.#patienceMs, () => {
      sent.reject(
        new TimeoutError(`checkpoint channel: the peer takes no data since ${this.#patienceMs} ms`),
      );
    });
    this.#unsent.add(sent);
    this.#socket.write(piece, (error) => {
      if (error) sent.reject(this.#error ?? error);
      else sent.resolve();
    });
    try {
      await sent.promise;
    } finally {
      endPatience();
      this.#unsent.delete(sent);
    }
  }
}
