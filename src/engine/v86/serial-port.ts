/**
 * ttyS0 in the worker. Outgoing bytes are gathered over one slice of the guest's run; incoming ones are fed as fast as a
 * 16550's FIFO of 16 bytes is emptied, and wait within bounds until then. Facts: v86's UART.
 */
import { MAX_WAITING_SERIAL_BYTES } from './protocol.ts';
import type { V86Uart } from './internals.ts';

const FIFO_BYTES = 16;
const OUT_BYTES = 4096;

export class SerialPort {
  readonly #uart: V86Uart;
  readonly #feed: (byte: number) => void;
  readonly #emit: (bytes: Uint8Array<ArrayBuffer>) => void;
  #out = new Uint8Array(OUT_BYTES);
  #outLength = 0;
  #in: Uint8Array[] = [];
  #inAt = 0;
  #inBytes = 0;

  constructor(uart: V86Uart, feed: (byte: number) => void, emit: (bytes: Uint8Array<ArrayBuffer>) => void) {
    this.#uart = uart;
    this.#feed = feed;
    this.#emit = emit;
  }

  /** A byte from the guest. */
  put(byte: number): void {
    this.#out[this.#outLength++] = byte;
    if (this.#outLength === OUT_BYTES) this.flush();
    // v86 gathers each line for its log, and never lets go of one that does not end.
    if (this.#uart.current_line.length > 256) this.#uart.current_line = '';
  }

  flush(): void {
    if (this.#outLength === 0) return;
    this.#emit(this.#out.slice(0, this.#outLength));
    this.#outLength = 0;
  }

  get canPump(): boolean {
    return this.#inBytes > 0 && this.#uart.input.length < FIFO_BYTES;
  }

  /** Bytes for the guest, kept until fed; beyond the bound they are lost, as on a real line. */
  push(bytes: Uint8Array): void {
    const room = MAX_WAITING_SERIAL_BYTES - this.#inBytes;
    const taken = bytes.length > room ? bytes.subarray(0, room) : bytes;
    if (taken.length === 0) return;
    this.#in.push(taken);
    this.#inBytes += taken.length;
  }

  pump(): void {
    while (this.canPump) {
      const chunk = this.#in[0]!;
      this.#feed(chunk[this.#inAt++]!);
      this.#inBytes--;
      if (this.#inAt === chunk.length) {
        this.#in.shift();
        this.#inAt = 0;
      }
    }
  }

  /** Bytes that are not in the guest yet: part of the state. */
  savedInput(): Uint8Array {
    const out = new Uint8Array(this.#inBytes);
    let at = 0;
    for (const [index, chunk] of this.#in.entries()) {
      const part = index === 0 ? chunk.subarray(this.#inAt) : chunk;
      out.set(part, at);
      at += part.length;
    }
    return out;
  }

  restoreInput(bytes: Uint8Array): void {
    this.#in = bytes.length > 0 ? [bytes] : [];
    this.#inAt = 0;
    this.#inBytes = bytes.length;
  }
}
