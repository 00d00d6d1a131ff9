/**
 * The way out of the comparer: first in, first out, to `outdev`. When the chardev's own bound is reached the packets
 * wait here, bounded, and are tried again shortly (a chardev tells nobody when it has room); without a peer they are
 * lost, as on a cable that is not plugged in. QEMU empties its queue from the wrong end (docs/qemu-behaviour.md 3.7).
 */
import { loggerFor } from '../../base/logger.ts';
import type { Chardev } from '../../chardev/chardev.ts';
import { FrameOutput, RateLimitedWarning } from '../frame-output.ts';

const RETRY_MS = 10;
export const MAX_PENDING_BYTES = 4 * 1024 * 1024;

interface Pending {
  readonly frame: Uint8Array;
  readonly vnetHdrLen: number;
}

export class ReleaseQueue {
  readonly #output: FrameOutput;
  readonly #warning = new RateLimitedWarning(loggerFor('colo-compare'));
  #pending: Pending[] = [];
  #pendingBytes = 0;
  #timer: NodeJS.Timeout | null = null;
  /** Packets that could not leave. */
  lost = 0;

  constructor(outdev: Chardev, vnetHdrSupport: boolean) {
    this.#output = new FrameOutput(outdev, vnetHdrSupport);
  }

  get pending(): number {
    return this.#pending.length;
  }

  /** Throws ChardevInUseError. */
  attach(user: string): void {
    this.#output.attach(user);
  }

  /** `isOwned`: the frame stays valid after this call, so it need not be copied to wait. */
  send(frame: Uint8Array, vnetHdrLen: number, isOwned: boolean): void {
    if (this.#pending.length === 0 && this.#output.write(frame, vnetHdrLen)) return;
    if (!this.#output.chardev.connected) {
      this.#lose(this.#pending.length + 1, 'no peer is connected');
      this.#clear();
      return;
    }
    if (this.#pendingBytes + frame.length > MAX_PENDING_BYTES) {
      this.#lose(1, 'its peer does not read');
      return;
    }
    this.#pending.push({ frame: isOwned ? frame : Buffer.from(frame), vnetHdrLen });
    this.#pendingBytes += frame.length;
    this.#timer ??= setTimeout(() => this.#retry(), RETRY_MS);
  }

  close(): void {
    this.#clear();
    this.#output.detach();
  }

  #retry(): void {
    this.#timer = null;
    let sent = 0;
    for (const { frame, vnetHdrLen } of this.#pending) {
      if (!this.#output.write(frame, vnetHdrLen)) break;
      this.#pendingBytes -= frame.length;
      sent++;
    }
    this.#pending.splice(0, sent);
    if (this.#pending.length === 0) return;
    if (this.#output.chardev.connected) {
      this.#timer = setTimeout(() => this.#retry(), RETRY_MS);
      return;
    }
    this.#lose(this.#pending.length, 'its peer has gone');
    this.#clear();
  }

  #clear(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    this.#pending = [];
    this.#pendingBytes = 0;
  }

  #lose(count: number, why: string): void {
    this.lost += count;
    this.#warning.warn(`colo-compare: outdev '${this.#output.chardev.id}' lost released packets, ${why}`);
  }
}
