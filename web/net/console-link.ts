/** The bytes of one copy's serial port, over connections that come again by themselves until it is closed. */
import { waitMs } from '../model/back-off.ts';
import { openSocket } from './session.ts';
import type { Copy } from '../../src/dashboard/protocol.ts';

export type ConsoleStatus = 'connecting' | 'open' | 'lost';

export interface ConsoleSink {
  onBytes(bytes: Uint8Array): void;
  onStatus(status: ConsoleStatus): void;
}

export class ConsoleLink {
  readonly #vm: string;
  readonly #copy: Copy;
  readonly #sink: ConsoleSink;
  readonly #encoder = new TextEncoder();
  #socket: WebSocket | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #failures = 0;

  constructor(vm: string, copy: Copy, sink: ConsoleSink) {
    this.#vm = vm;
    this.#copy = copy;
    this.#sink = sink;
    this.#connect();
  }

  /** What is typed while there is no connection is lost, as at a cable that is pulled. */
  send(text: string): void {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(this.#encoder.encode(text));
  }

  close(): void {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #connect(): void {
    let socket: WebSocket;
    try {
      socket = openSocket('v1/console', { vm: this.#vm, copy: this.#copy });
    } catch {
      return; // The token cannot be said; the form asks for another.
    }
    this.#socket = socket;
    this.#sink.onStatus('connecting');
    const openedAt = Date.now();
    socket.addEventListener('open', () => {
      if (socket === this.#socket) this.#sink.onStatus('open');
    });
    socket.addEventListener('message', ({ data }) => {
      if (socket !== this.#socket) return;
      if (data instanceof ArrayBuffer) this.#sink.onBytes(new Uint8Array(data));
    });
    socket.addEventListener('close', () => {
      if (socket !== this.#socket) return;
      // One that lasted begins anew; a server that takes and drops at once is not asked in a circle.
      this.#failures = Date.now() - openedAt > 5000 ? 0 : this.#failures + 1;
      this.#sink.onStatus('lost');
      this.#timer = setTimeout(() => this.#connect(), waitMs(this.#failures));
    });
  }
}
