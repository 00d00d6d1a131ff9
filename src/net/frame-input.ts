/**
 * Frames read from a chardev, each with its position on the connection, so that a checkpoint can cut the stream at an
 * exact byte (base/participant.ts, StreamMark). A peer that sends a frame above the limit is disconnected, and its bytes
 * are ignored until the next connect. Reader state never survives a connection.
 * Facts: docs/qemu-behaviour.md 1.2, 1.3 (QEMU keeps half a frame over a reconnect and stays deaf after a bad length; we
 * do neither).
 */
import type { StreamMark } from '../base/participant.ts';
import type { Chardev, ChardevFrontend } from '../chardev/chardev.ts';
import { FrameDecoder } from './framing.ts';
import type { OnFrame } from './framing.ts';

export interface FrameInputOptions {
  readonly chardev: Chardev;
  readonly vnetHdrSupport: boolean;
  /** A frame, `bytes[from, to)`, valid during the call only. `position` counts it already. */
  readonly onFrame: OnFrame;
  readonly onError: (error: Error) => void;
  readonly onOpen?: () => void;
  readonly onClose?: () => void;
  /** After all frames of a chunk. */
  readonly onIdle?: () => void;
}

export class FrameInput implements ChardevFrontend {
  readonly chardev: Chardev;
  readonly #options: FrameInputOptions;
  readonly #decoder: FrameDecoder;
  /** Bytes of this connection that an earlier user of the chardev consumed. */
  #base = 0;

  constructor(options: FrameInputOptions) {
    this.#options = options;
    this.chardev = options.chardev;
    this.#decoder = new FrameDecoder({
      vnetHdrSupport: options.vnetHdrSupport,
      onFrame: options.onFrame,
      onError: (error) => {
        options.onError(error);
        // A frontend that throws loses its connection (chardev/frontend-port.ts), which is what this one needs.
        throw error;
      },
    });
  }

  /** Takes the chardev. Throws ChardevInUseError. */
  attach(user: string): void {
    this.chardev.attach(this, user);
    this.#base = this.chardev.bytesIn;
  }

  detach(): void {
    this.chardev.detach(this);
  }

  /** Bytes of the current connection that have become whole frames. */
  get position(): number {
    return this.#base + this.#decoder.consumedBytes;
  }

  /** The connection that is being read, as its sender names it; null when there is none or it has no name. */
  get stream(): string | null {
    return this.chardev.connection?.incoming ?? null;
  }

  get zeroLengthFrames(): number {
    return this.#decoder.zeroLengthFrames;
  }

  /** The mark among `marks` that was set on the current connection. */
  markIn(marks: readonly StreamMark[]): StreamMark | null {
    const stream = this.stream;
    return stream === null ? null : (marks.find((mark) => mark.stream === stream) ?? null);
  }

  onData(chunk: Uint8Array): void {
    this.onRead(chunk, chunk.length);
  }

  onRead(memory: Uint8Array, length: number): void {
    this.#decoder.push(memory, length);
    this.#options.onIdle?.();
  }

  onOpen(): void {
    this.#decoder.reset();
    this.#base = this.chardev.bytesIn;
    this.#options.onOpen?.();
  }

  onClose(): void {
    this.#options.onClose?.();
  }
}
