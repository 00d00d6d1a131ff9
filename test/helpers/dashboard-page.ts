/** A page as its server sees one: a WebSocket whose messages are kept, and that a test waits on. */
import { once } from 'node:events';
import { WebSocket } from 'ws';
import type { ClientMessage, ServerMessage } from '../../src/dashboard/protocol.ts';

type Kind = ServerMessage['type'];
type Of<K extends Kind> = Extract<ServerMessage, { type: K }>;

const SOON_MS = 60_000;

export interface PageOptions {
  readonly token?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly path?: string;
}

export class FalsePage {
  readonly socket: WebSocket;
  readonly messages: ServerMessage[] = [];
  /** Of a console or screen. */
  bytes = '';
  readonly closed: Promise<{ readonly code: number; readonly reason: string }>;
  #changed = (): void => undefined;

  constructor(url: string, { token, headers = {}, path = 'v1/live' }: PageOptions = {}) {
    const protocols = ['colo-dashboard', ...(token === undefined ? [] : [`token.${token}`])];
    this.socket = new WebSocket(url.replace(/^http/, 'ws') + path, protocols, { headers });
    this.closed = once(this.socket, 'close').then(([code, reason]) => ({
      code: code as number,
      reason: String(reason),
    }));
    this.socket.on('error', () => undefined);
    this.socket.on('message', (data, isBinary) => {
      const text = (data as Buffer).toString('latin1');
      if (isBinary) this.bytes += text;
      else this.messages.push(JSON.parse((data as Buffer).toString()) as ServerMessage);
      this.#changed();
    });
  }

  async opened(): Promise<this> {
    if (this.socket.readyState === WebSocket.CONNECTING) await once(this.socket, 'open');
    return this;
  }

  say(message: ClientMessage | string): void {
    this.socket.send(typeof message === 'string' ? message : JSON.stringify(message));
  }

  all<K extends Kind>(type: K): Of<K>[] {
    return this.messages.filter((message): message is Of<K> => message.type === type);
  }

  /** The first message of the kind, from `from` on, that is as wanted. */
  async until<K extends Kind>(
    type: K,
    isWanted: (message: Of<K>) => boolean = () => true,
    from = 0,
  ): Promise<Of<K>> {
    const find = (): Of<K> | undefined =>
      this.messages
        .slice(from)
        .find((message): message is Of<K> => message.type === type && isWanted(message as Of<K>));
    await this.#wait(() => find() !== undefined, `a message '${type}'`);
    return find()!;
  }

  async untilBytes(isWanted: (bytes: string) => boolean): Promise<void> {
    await this.#wait(() => isWanted(this.bytes), 'the bytes');
  }

  close(): Promise<unknown> {
    this.socket.close();
    return this.closed;
  }

  async #wait(isThere: () => boolean, what: string): Promise<void> {
    const timer = setTimeout(() => this.#changed(), SOON_MS);
    const deadline = performance.now() + SOON_MS;
    try {
      while (!isThere()) {
        if (performance.now() >= deadline)
          throw new Error(`${what} did not come: ${JSON.stringify(this.messages)}`);
        await Promise.race([
          new Promise<void>((resolve) => (this.#changed = resolve)),
          this.closed.then(({ code, reason }) => {
            if (!isThere()) throw new Error(`${what} did not come: closed ${code} ${reason}`);
          }),
        ]);
      }
    } finally {
      clearTimeout(timer);
    }
  }
}
