/**
 * Writes to a TLS socket no more at a time than its buffers may hold. A socket in clear hands the caller's memory to
 * the kernel; TLS makes a copy of all that it is given, and one of what it joins, and keeps them until the peer has
 * read: a client that does not read would hold three times its replies.
 *
 * Small replies still travel together: the bound is on the bytes in the air, not on their number.
 */
import type { Socket } from 'node:net';
import { NBD_TLS_WINDOW } from './limits.ts';

/** Of a socket, what a session's replies need. */
export interface ReplyWriter {
  /** `sent` is called once: when the bytes have been taken, or never will be. */
  write(bytes: Uint8Array, sent: () => void): unknown;
}

interface Waiting {
  readonly bytes: Uint8Array;
  readonly sent: () => void;
  at: number;
}

export class PacedWriter implements ReplyWriter {
  readonly #socket: Socket;
  readonly #windowBytes: number;
  #waiting: Waiting[] = [];
  #inAir = 0;

  constructor(socket: Socket, windowBytes = NBD_TLS_WINDOW) {
    this.#socket = socket;
    this.#windowBytes = windowBytes;
    socket.on('close', () => {
      const lost = this.#waiting;
      this.#waiting = [];
      for (const { sent } of lost) sent();
    });
  }

  write(bytes: Uint8Array, sent: () => void): void {
    if (this.#socket.destroyed) {
      sent();
      return;
    }
    this.#waiting.push({ bytes, sent, at: 0 });
    this.#pump();
  }

  #pump(): void {
    for (;;) {
      const next = this.#waiting[0];
      const room = this.#windowBytes - this.#inAir;
      if (!next || room <= 0) return;
      const piece = next.bytes.subarray(next.at, next.at + room);
      const isLast = next.at + piece.byteLength === next.bytes.byteLength;
      next.at += piece.byteLength;
      this.#inAir += piece.byteLength;
      if (isLast) this.#waiting.shift();
      this.#socket.write(piece, () => {
        this.#inAir -= piece.byteLength;
        if (isLast) next.sent();
        this.#pump();
      });
    }
  }
}
