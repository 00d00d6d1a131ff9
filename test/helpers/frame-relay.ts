/**
 * A relay between two stream sockets, with a hand on the wire: it notes every length-prefixed frame that passes (QEMU's
 * `-netdev stream` and packet chardevs) or hands the raw bytes to a test, and can be cut. What it notes it notes before
 * it passes it on, so the order of two relays' notes in one process is a causal order.
 */
import net from 'node:net';
import { once } from 'node:events';
import { FrameDecoder } from '../../src/net/framing.ts';

export interface Noted {
  /** `out`: from the side that connected. */
  readonly direction: 'out' | 'in';
  readonly frame: Uint8Array;
  /** 0 where frames have no vnet word. */
  readonly vnetHdrLen: number;
  /** performance.now() */
  readonly atMs: number;
}

export interface RelayOptions {
  readonly listen: { readonly path: string } | { readonly host: string; readonly port: number };
  readonly target: { readonly path: string } | { readonly host: string; readonly port: number };
  readonly onFrame?: (noted: Noted) => void;
  /** Frames have the vnet word, both ways. */
  readonly vnetHdrSupport?: boolean;
  /** Bytes from the side that connected; what is returned passes on, null cuts both connections. */
  readonly onBytes?: (chunk: Buffer) => Buffer | null;
  /** Bytes towards the side that connected. */
  readonly onBytesBack?: (chunk: Buffer) => void;
}

export class FrameRelay {
  readonly #options: RelayOptions;
  readonly #server: net.Server;
  readonly #sockets = new Set<net.Socket>();

  private constructor(options: RelayOptions) {
    this.#options = options;
    this.#server = net.createServer((from) => this.#connect(from));
  }

  static async start(options: RelayOptions): Promise<FrameRelay> {
    const relay = new FrameRelay(options);
    relay.#server.listen(options.listen);
    await once(relay.#server, 'listening');
    return relay;
  }

  /** Ends all connections; the relay goes on listening. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  close(): Promise<void> {
    this.cut();
    return new Promise((resolve) => this.#server.close(() => resolve()));
  }

  #connect(from: net.Socket): void {
    const to = net.connect(this.#options.target);
    const end = (): void => {
      from.destroy();
      to.destroy();
    };
    for (const socket of [from, to]) {
      this.#sockets.add(socket);
      socket.setNoDelay(true);
      socket.on('error', end);
      socket.on('close', () => {
        this.#sockets.delete(socket);
        end();
      });
    }
    const out = this.#decoder('out');
    const back = this.#decoder('in');
    from.on('data', (chunk: Buffer) => {
      out?.push(chunk);
      const passed = this.#options.onBytes ? this.#options.onBytes(chunk) : chunk;
      if (passed === null) end();
      else pass(from, to, passed);
    });
    to.on('data', (chunk: Buffer) => {
      back?.push(chunk);
      this.#options.onBytesBack?.(chunk);
      pass(to, from, chunk);
    });
  }

  #decoder(direction: Noted['direction']): FrameDecoder | null {
    const { onFrame, vnetHdrSupport } = this.#options;
    if (!onFrame) return null;
    return new FrameDecoder({
      vnetHdrSupport: vnetHdrSupport ?? false,
      onFrame: (bytes, from, to, vnetHdrLen) => {
        const frame = new Uint8Array(bytes.subarray(from, to));
        onFrame({ direction, frame, vnetHdrLen, atMs: performance.now() });
      },
      onError: (error) => {
        throw error;
      },
    });
  }
}

function pass(from: net.Socket, to: net.Socket, chunk: Buffer): void {
  if (to.write(chunk)) return;
  from.pause();
  to.once('drain', () => from.resume());
}
