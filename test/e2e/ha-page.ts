/** A page of the dashboard, as far as a test needs one: what it is told, what it asks for, and consoles. */
import { once } from 'node:events';
import { WebSocket } from 'ws';
import { withDeadline } from '../../src/base/async.ts';
import type { Action, ClientMessage, Copy, ServerMessage } from '../../src/dashboard/protocol.ts';

type Told<T extends ServerMessage['type']> = Extract<ServerMessage, { readonly type: T }>;

export class Page {
  readonly #base: string;
  readonly #protocols: readonly string[];
  readonly #deadlineMs: number;
  readonly #live: WebSocket;
  readonly #told: ServerMessage[] = [];
  #wake: () => void = () => undefined;
  #asked = 0;

  /** `url`: as `colo dashboard` prints it. */
  constructor(url: string, deadlineMs: number) {
    const [base = '', token = ''] = url.split('#token=');
    this.#base = base.replace(/^http/, 'ws');
    this.#protocols = ['colo-dashboard', `token.${token}`];
    this.#deadlineMs = deadlineMs;
    this.#live = this.#open('v1/live');
    this.#live.on('message', (data: Buffer) => {
      this.#told.push(JSON.parse(data.toString()) as ServerMessage);
      this.#wake();
    });
  }

  /** The first message of that type that `isSo` likes, told before or to come. */
  async until<T extends ServerMessage['type']>(
    type: T,
    what: string,
    isSo: (message: Told<T>) => boolean,
  ): Promise<Told<T>> {
    const look = async (): Promise<Told<T>> => {
      for (let at = 0; ; at++) {
        while (at >= this.#told.length) await new Promise<void>((resolve) => (this.#wake = resolve));
        const message = this.#told[at]!;
        if (message.type === type && isSo(message as Told<T>)) return message as Told<T>;
      }
    };
    return withDeadline(look(), this.#deadlineMs, `the page is told: ${what}`);
  }

  async act(vm: string, action: Action): Promise<Told<'answer'>> {
    const wish: ClientMessage = { type: 'act', id: ++this.#asked, vm, action };
    this.#live.send(JSON.stringify(wish));
    return this.until('answer', action, ({ id }) => id === wish.id);
  }

  async console(vm: string, copy: Copy): Promise<PageConsole> {
    const socket = this.#open(`v1/console?vm=${vm}&copy=${copy}`);
    const console = new PageConsole(socket, this.#deadlineMs);
    await once(socket, 'open');
    return console;
  }

  close(): void {
    this.#live.terminate();
  }

  #open(path: string): WebSocket {
    return new WebSocket(`${this.#base}${path}`, [...this.#protocols]);
  }
}

export class PageConsole {
  text = '';
  readonly #socket: WebSocket;
  readonly #deadlineMs: number;
  #wake: () => void = () => undefined;

  constructor(socket: WebSocket, deadlineMs: number) {
    this.#socket = socket;
    this.#deadlineMs = deadlineMs;
    socket.on('message', (data: Buffer) => {
      this.text += data.toString('latin1');
      this.#wake();
    });
    socket.on('error', () => undefined);
  }

  type(text: string): void {
    this.#socket.send(Buffer.from(text));
  }

  async until(isSo: (text: string) => boolean, what: string): Promise<void> {
    const look = async (): Promise<void> => {
      while (!isSo(this.text)) await new Promise<void>((resolve) => (this.#wake = resolve));
    };
    await withDeadline(look(), this.#deadlineMs, `a console shows ${what}`);
  }

  close(): void {
    this.#socket.terminate();
  }
}
