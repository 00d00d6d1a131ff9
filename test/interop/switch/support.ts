/** What the switch's tests against real peers need: reasons to skip, TCP and UDP clients. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { loadSlirp } from '../../../src/switch/libslirp.ts';

/** Why NAT cannot be tested here, or false. */
export function missingSlirp(): string | false {
  try {
    loadSlirp();
    return false;
  } catch (error) {
    return (error as Error).message;
  }
}

/** A TCP client that reads up to a text. */
export class TextClient {
  readonly socket: Socket;
  #received = '';
  #wake: (() => void) | null = null;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => {
      this.#received += chunk.toString();
      this.#wake?.();
    });
    socket.on('error', () => this.#wake?.());
    socket.on('close', () => this.#wake?.());
  }

  static async connect(port: number): Promise<TextClient> {
    const socket = connect(port, '127.0.0.1');
    await once(socket, 'connect');
    return new TextClient(socket);
  }

  /** Reads until `text` was received, and takes everything up to its end. */
  async until(text: string): Promise<string> {
    for (;;) {
      const at = this.#received.indexOf(text);
      if (at >= 0) {
        const taken = this.#received.slice(0, at + text.length);
        this.#received = this.#received.slice(at + text.length);
        return taken;
      }
      if (this.socket.closed) throw new Error(`closed before ${JSON.stringify(text)}: ${this.#received}`);
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  close(): void {
    this.socket.destroy();
  }
}
