/** A tiny VNC client: no authentication, raw pixels; keeps asking for updates and knows the picture that it was sent. */
import { once } from 'node:events';
import net from 'node:net';

export class RfbClient {
  readonly socket: net.Socket;
  width = 0;
  height = 0;
  picture: Buffer = Buffer.alloc(0);
  updates = 0;
  /** The keyboard's lights as the guest has set them: 1 scroll, 2 num, 4 caps. */
  leds: number | null = null;
  /** Encodings of all rectangles so far. */
  readonly seen = new Set<number>();
  #buffer: Buffer = Buffer.alloc(0);
  #waiting: (() => void)[] = [];

  private constructor(socket: net.Socket) {
    this.socket = socket;
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => {
      this.#buffer = Buffer.concat([this.#buffer, chunk]);
      this.#wake();
    });
    socket.on('close', () => this.#wake());
  }

  /** `encodings`: what it says it understands; it reads raw pixels, copies and changes of size. */
  static async connect(address: net.NetConnectOpts, encodings: number[]): Promise<RfbClient> {
    const socket = net.connect(address);
    await once(socket, 'connect');
    const client = new RfbClient(socket);
    await client.#take(12);
    socket.write('RFB 003.008\n');
    const [count = 0] = await client.#take(1);
    await client.#take(count);
    socket.write(Uint8Array.of(1));
    await client.#take(4);
    socket.write(Uint8Array.of(1));
    const init = await client.#take(24);
    client.#resize(init.readUInt16BE(0), init.readUInt16BE(2));
    await client.#take(init.readUInt32BE(20));
    const format = Buffer.from('00000000201800010 0ff00ff00ff100800000000'.replaceAll(' ', ''), 'hex');
    socket.write(format);
    const set = Buffer.alloc(4 + 4 * encodings.length);
    set[0] = 2;
    set.writeUInt16BE(encodings.length, 2);
    encodings.forEach((encoding, at) => set.writeInt32BE(encoding, 4 + 4 * at));
    socket.write(set);
    return client;
  }

  get isOpen(): boolean {
    return !this.socket.destroyed && !this.socket.readableEnded;
  }

  /** Asks and reads until an update with pixels has come. Rejects when the connection ends. */
  async update(incremental: boolean): Promise<void> {
    const request = Buffer.alloc(10);
    request[0] = 3;
    request[1] = incremental ? 1 : 0;
    request.writeUInt16BE(this.width, 6);
    request.writeUInt16BE(this.height, 8);
    this.socket.write(request);
    while (!(await this.#message()));
    this.updates++;
  }

  key(symbol: number): void {
    for (const down of [1, 0]) {
      const event = Buffer.alloc(8);
      event[0] = 4;
      event[1] = down;
      event.writeUInt32BE(symbol, 4);
      this.socket.write(event);
    }
  }

  /** Where the pointer is, and which buttons are down (1: the left one). */
  pointer(x: number, y: number, buttons = 0): void {
    const event = Buffer.alloc(6);
    event[0] = 5;
    event[1] = buttons;
    event.writeUInt16BE(x, 2);
    event.writeUInt16BE(y, 4);
    this.socket.write(event);
  }

  /** Whether it was an update with pixels. */
  async #message(): Promise<boolean> {
    const [type] = await this.#take(1);
    if (type !== 0) throw new Error(`a message of type ${type ?? ''}`);
    const count = (await this.#take(3)).readUInt16BE(1);
    let hasPixels = false;
    for (let at = 0; at < count; at++) hasPixels = (await this.#rectangle()) || hasPixels;
    return hasPixels;
  }

  async #rectangle(): Promise<boolean> {
    const head = await this.#take(12);
    const [x, y, width, height] = [0, 2, 4, 6].map((at) => head.readUInt16BE(at)) as [
      number,
      number,
      number,
      number,
    ];
    const encoding = head.readInt32BE(8);
    this.seen.add(encoding);
    if (encoding === -223) this.#resize(width, height);
    if (encoding === -261) [this.leds = null] = await this.#take(1);
    if (encoding < 0) return false;
    if (encoding !== 0) throw new Error(`encoding ${encoding}`);
    const pixels = await this.#take(4 * width * height);
    for (let row = 0; row < height; row++) {
      pixels.copy(this.picture, 4 * ((y + row) * this.width + x), 4 * row * width, 4 * (row + 1) * width);
    }
    return true;
  }

  #resize(width: number, height: number): void {
    this.width = width;
    this.height = height;
    this.picture = Buffer.alloc(4 * width * height);
  }

  async #take(length: number): Promise<Buffer> {
    while (this.#buffer.length < length) {
      if (this.socket.destroyed) throw new Error('the VNC connection ended');
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    const taken = this.#buffer.subarray(0, length);
    this.#buffer = this.#buffer.subarray(length);
    return taken;
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}
