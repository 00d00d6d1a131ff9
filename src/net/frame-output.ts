/**
 * Frames written to a chardev: header and frame as one unit or not at all, so that a slow or absent peer loses whole
 * frames and the stream stays readable. A lost frame is counted and warned of once in a while; it never harms the
 * sender. Facts: docs/qemu-behaviour.md 1.1, 2.4.
 */
import type { Logger } from '../base/logger.ts';
import type { StreamMark } from '../base/participant.ts';
import type { Chardev, ChardevFrontend } from '../chardev/chardev.ts';
import { encodeHeader, headerBytes } from './framing.ts';

const WARNING_INTERVAL_MS = 5_000;

/** At most one warning in five seconds; it tells how many were kept back. */
export class RateLimitedWarning {
  readonly #logger: Logger;
  #lastMs = -Infinity;
  #suppressed = 0;

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  warn(message: string): void {
    const now = performance.now();
    if (now - this.#lastMs < WARNING_INTERVAL_MS) {
      this.#suppressed++;
      return;
    }
    this.#logger.warn({ suppressed: this.#suppressed }, message);
    this.#lastMs = now;
    this.#suppressed = 0;
  }
}

export class FrameOutput implements ChardevFrontend {
  readonly chardev: Chardev;
  readonly #vnetHdrSupport: boolean;
  readonly #header: Uint8Array;
  /** Frames that could not be written. */
  lost = 0;
  written = 0;
  /** Of the frames, without their headers. */
  writtenBytes = 0;

  constructor(chardev: Chardev, vnetHdrSupport: boolean) {
    this.chardev = chardev;
    this.#vnetHdrSupport = vnetHdrSupport;
    this.#header = new Uint8Array(headerBytes(vnetHdrSupport));
  }

  /** Takes the chardev. Throws ChardevInUseError. */
  attach(user: string): void {
    this.chardev.attach(this, user);
  }

  detach(): void {
    this.chardev.detach(this);
  }

  /** False: nothing of it was sent. A frame of no bytes is never sent: QEMU's colo-compare aborts on one. */
  write(frame: Uint8Array, vnetHdrLen: number): boolean {
    return this.writeRange(frame, 0, frame.length, vnetHdrLen);
  }

  /** As `write`, for the frame `bytes[from, to)`. */
  writeRange(bytes: Uint8Array, from: number, to: number, vnetHdrLen: number): boolean {
    if (to === from) return false;
    const header = encodeHeader(this.#header, to - from, this.#vnetHdrSupport ? vnetHdrLen : null);
    const isWritten = this.chardev.writePair(header, bytes, from, to);
    if (isWritten) {
      this.written++;
      this.writtenBytes += to - from;
    } else this.lost++;
    return isWritten;
  }

  /** How far this side has written, or nothing when the connection has no name both sides know. */
  marks(): StreamMark[] {
    const stream = this.chardev.connection?.outgoing;
    return stream === undefined ? [] : [{ stream, bytes: this.chardev.bytesOut }];
  }

  /** What a peer says here is read away: nothing is expected. */
  onData(): void {
    return;
  }
}
