/** Frames and ports for the switch's tests. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { MAX_FRAME_BYTES, FrameDecoder } from '../../../src/net/framing.ts';
import type { EthernetSwitch, PortSink, SwitchPort } from '../../../src/switch/switch.ts';

export const BROADCAST = 0xffff_ffff_ffff;
/** An address that no test gives to anybody. */
export const NOBODY = 0x52_54_00_ff_ff_ff;

/** The test's n-th station. */
export function mac(n: number): number {
  return 0x52_54_00_00_00_00 + n;
}

/** An Ethernet frame of an experimental type, with `text` as payload. */
export function frame(from: number, to: number, text = ''): Uint8Array {
  const out = Buffer.alloc(14 + Buffer.byteLength(text));
  out.writeUIntBE(to, 0, 6);
  out.writeUIntBE(from, 6, 6);
  out.writeUInt16BE(0x88b5, 12);
  out.write(text, 14);
  return out;
}

export function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.subarray(14)).toString();
}

/** As the wire has it: length, frame. */
export function framed(bytes: Uint8Array): Buffer {
  const out = Buffer.alloc(4 + bytes.length);
  out.writeUInt32BE(bytes.length);
  out.set(bytes, 4);
  return out;
}

/** A port that remembers what it was sent. */
export class FakePort implements PortSink {
  readonly name: string;
  readonly port: SwitchPort;
  got: string[] = [];
  flushes = 0;
  hasRoom = true;
  unreadFrames: Uint8Array[] = [];

  constructor(ethernet: EthernetSwitch, name: string) {
    this.name = name;
    const port = ethernet.attach(this);
    if (!port) throw new Error('no port left');
    this.port = port;
  }

  send(bytes: Uint8Array): boolean {
    if (this.hasRoom) this.got.push(textOf(bytes));
    return this.hasRoom;
  }

  flush(): void {
    this.flushes++;
  }

  unread(): Uint8Array[] {
    return this.unreadFrames;
  }

  /** Frames since the last call, as texts. */
  take(): string[] {
    const got = this.got;
    this.got = [];
    return got;
  }
}

/** A client on a real socket. */
export class Client {
  readonly socket: Socket;
  readonly frames: Uint8Array[] = [];
  #wake: (() => void) | null = null;

  private constructor(socket: Socket, isReading: boolean) {
    this.socket = socket;
    socket.on('error', () => undefined);
    if (isReading) this.read();
  }

  /** `address`: as startSwitch reports it. Without `isReading`, what comes stays in the kernel's buffers. */
  static async connect(address: string, isReading = true): Promise<Client> {
    const [kind, rest = ''] = address.split(/:(.*)/s);
    const socket =
      kind === 'unix' ? connect({ path: rest }) : connect(Number(rest.split(':').at(-1)), '127.0.0.1');
    await once(socket, 'connect');
    return new Client(socket, isReading);
  }

  read(): void {
    const decoder = new FrameDecoder({
      onFrame: (chunk, from, to) => {
        const bytes = chunk.subarray(from, to);
        this.frames.push(new Uint8Array(bytes));
        this.#wake?.();
      },
      onError: (error) => this.socket.destroy(error),
    });
    this.socket.on('data', (chunk: Buffer) => decoder.push(chunk));
  }

  send(bytes: Uint8Array): void {
    if (bytes.length > MAX_FRAME_BYTES) throw new Error('too long a frame');
    this.socket.write(framed(bytes));
  }

  /** The first frame for which `test` holds, taken off the list. */
  async take(test: (bytes: Uint8Array) => boolean = () => true): Promise<Uint8Array> {
    for (;;) {
      const at = this.frames.findIndex(test);
      if (at >= 0) return this.frames.splice(at, 1)[0]!;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  async close(): Promise<void> {
    if (this.socket.closed) return;
    const closed = new Promise((resolve) => this.socket.once('close', resolve));
    this.socket.destroy();
    await closed;
  }
}
