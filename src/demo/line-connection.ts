/** One TCP connection to a line service of the guest: a request line out, a reply line back, in order. */
import net from 'node:net';
import { once } from 'node:events';
import { Deferred, withDeadline } from '../base/async.ts';
import { ClosedError, ProtocolError } from '../base/errors.ts';

const MAX_LINE_BYTES = 64 * 1024;

export class LineConnection {
  readonly #socket: net.Socket;
  #text = '';
  readonly #waiting: Deferred<string>[] = [];
  #lost: Error | null = null;

  private constructor(socket: net.Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.setEncoding('latin1');
    socket.on('data', (chunk: string) => this.#take(chunk));
    socket.on('error', (cause) =>
      this.#lose(new ClosedError(`connection lost: ${cause.message}`, { cause })),
    );
    socket.on('close', () => this.#lose(new ClosedError('connection closed by the guest')));
  }

  static async open(host: string, port: number, timeoutMs: number): Promise<LineConnection> {
    const socket = net.connect(port, host);
    socket.on('error', () => undefined);
    try {
      await withDeadline(once(socket, 'connect'), timeoutMs, `${host}:${port}`);
    } catch (error) {
      socket.destroy();
      throw error;
    }
    return new LineConnection(socket);
  }

  /** Why the connection is gone, or null. */
  get lost(): Error | null {
    return this.#lost;
  }

  /** Sends `line` and waits for its reply. Throws ClosedError when the connection is lost, TimeoutError when late. */
  async request(line: string, timeoutMs: number): Promise<string> {
    if (this.#lost) throw this.#lost;
    const reply = new Deferred<string>();
    this.#waiting.push(reply);
    this.#socket.write(`${line}\n`);
    return withDeadline(reply.promise, timeoutMs, `reply to '${line.slice(0, 40)}'`);
  }

  close(): void {
    this.#lose(new ClosedError('closed'));
    this.#socket.destroy();
  }

  #take(chunk: string): void {
    this.#text += chunk;
    for (let end = this.#text.indexOf('\n'); end >= 0; end = this.#text.indexOf('\n')) {
      const line = this.#text.slice(0, end).replace(/\r$/, '');
      this.#text = this.#text.slice(end + 1);
      this.#waiting.shift()?.resolve(line);
    }
    if (this.#text.length > MAX_LINE_BYTES) this.#socket.destroy(new ProtocolError('line too long'));
  }

  #lose(reason: Error): void {
    if (this.#lost) return;
    this.#lost = reason;
    for (const reply of this.#waiting.splice(0)) reply.reject(reason);
  }
}
