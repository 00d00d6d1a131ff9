/** A chardev without a socket: what is written is kept, what the test gives is read. For tests of its users. */
import { ChardevInUseError } from '../../../src/chardev/chardev.ts';
import type { Chardev, ChardevFrontend } from '../../../src/chardev/chardev.ts';
import { FrameDecoder, encodeHeader } from '../../../src/net/framing.ts';

export class MemoryChardev implements Chardev {
  readonly id: string;
  connected = true;
  connection: { readonly outgoing: string; readonly incoming: string } | null;
  bytesOut = 0;
  bytesIn = 0;
  user: string | null = null;
  reading = true;
  /** Refuses writes although connected: a peer that does not read. */
  full = false;
  /** Where `write` goes on to, when two are joined. */
  peer: MemoryChardev | null = null;
  readonly written: Uint8Array[] = [];
  #frontend: ChardevFrontend | null = null;
  #waiting: Uint8Array[] = [];

  constructor(id: string) {
    this.id = id;
    this.connection = { outgoing: `${id}:1>peer:2`, incoming: `peer:2>${id}:1` };
  }

  attach(frontend: ChardevFrontend, user: string): void {
    if (this.#frontend) throw new ChardevInUseError(this.id);
    this.#frontend = frontend;
    this.user = user;
  }

  detach(frontend: ChardevFrontend): void {
    if (this.#frontend !== frontend) return;
    this.#frontend = null;
    this.user = null;
  }

  write(bytes: Uint8Array): boolean {
    return this.writePair(bytes, new Uint8Array(0));
  }

  writePair(head: Uint8Array, body: Uint8Array, from = 0, to = body.length): boolean {
    if (!this.connected || this.full) return false;
    const both = new Uint8Array(Buffer.concat([head, body.subarray(from, to)]));
    this.bytesOut += both.length;
    this.written.push(both);
    this.peer?.give(both);
    return true;
  }

  setReading(on: boolean): void {
    this.reading = on;
    if (!on) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const chunk of waiting) this.give(chunk);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  /** Bytes from the peer; they wait while nobody reads. */
  give(bytes: Uint8Array): void {
    if (!this.reading) {
      this.#waiting.push(bytes);
      return;
    }
    this.bytesIn += bytes.length;
    this.#frontend?.onData(bytes);
  }

  giveFrame(frame: Uint8Array, vnetHdrLen: number | null = null): void {
    this.give(framed(frame, vnetHdrLen));
  }

  disconnect(): void {
    this.connected = false;
    this.#waiting = [];
    this.#frontend?.onClose?.();
  }

  reconnect(name = this.id): void {
    this.connected = true;
    this.connection = { outgoing: `${name}:1>peer:2`, incoming: `peer:2>${name}:1` };
    this.bytesIn = 0;
    this.bytesOut = 0;
    this.#frontend?.onOpen?.();
  }

  /** The frames written so far. */
  frames(vnetHdrSupport = false): Uint8Array[] {
    const frames: Uint8Array[] = [];
    const decoder = new FrameDecoder({
      vnetHdrSupport,
      onFrame: (bytes, from, to) => frames.push(bytes.slice(from, to)),
      onError: (error) => {
        throw error;
      },
    });
    for (const bytes of this.written) decoder.push(bytes);
    return frames;
  }
}

/** A frame with its header in front. */
export function framed(frame: Uint8Array, vnetHdrLen: number | null = null): Uint8Array {
  return new Uint8Array(Buffer.concat([encodeHeader(new Uint8Array(8), frame.length, vnetHdrLen), frame]));
}

/** Two ends of one connection. */
export function joined(left: string, right: string): [MemoryChardev, MemoryChardev] {
  const a = new MemoryChardev(left);
  const b = new MemoryChardev(right);
  const [forth, back] = [`${left}:1>${right}:2`, `${right}:2>${left}:1`];
  a.connection = { outgoing: forth, incoming: back };
  b.connection = { outgoing: back, incoming: forth };
  a.peer = b;
  b.peer = a;
  return [a, b];
}
