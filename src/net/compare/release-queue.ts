/**
 * The way out of the comparer: first in, first out, to `outdev`. When the chardev's own bound is reached the packets
 * wait here, bounded, and are tried again shortly (a chardev tells nobody when it has room); without a peer they are
 * lost, as on a cable that is not plugged in. QEMU empties its queue from the wrong end (docs/qemu-behaviour.md 3.7).
 *
 * Nothing is allocated for a packet: the chardev copies it, or it is copied to the end of a block of memory here.
 */
import { loggerFor } from '../../base/logger.ts';
import type { Chardev } from '../../chardev/chardev.ts';
import { FrameOutput, RateLimitedWarning } from '../frame-output.ts';
import { MAX_FRAME_BYTES } from '../framing.ts';
import { putU32, u32 } from '../packet.ts';

const RETRY_MS = 10;
/** Bytes of packets that wait, each with its lengths. */
export const MAX_PENDING_BYTES = 4 * 1024 * 1024;

const BLOCK_BYTES = 256 * 1024;
/** In a block: length of the frame, length of its vnet header, the frame. */
const LENGTHS_BYTES = 8;

/** Packets that wait: `bytes[start, end)`. */
interface Block {
  readonly bytes: Uint8Array;
  start: number;
  end: number;
}

export class ReleaseQueue {
  readonly #output: FrameOutput;
  readonly #warning = new RateLimitedWarning(loggerFor('colo-compare'));
  /** Oldest first. An empty queue keeps one block for the next time. */
  #blocks: Block[] = [];
  #pendingBytes = 0;
  #timer: NodeJS.Timeout | null = null;
  /** Packets that wait for the chardev to have room. */
  pending = 0;
  /** Packets that could not leave. */
  lost = 0;

  constructor(outdev: Chardev, vnetHdrSupport: boolean) {
    this.#output = new FrameOutput(outdev, vnetHdrSupport);
  }

  /** Throws ChardevInUseError. */
  attach(user: string): void {
    this.#output.attach(user);
  }

  /** Sends the frame `bytes[from, to)`, which may change after this call. */
  send(bytes: Uint8Array, from: number, to: number, vnetHdrLen: number): void {
    // No peer could read a frame of no bytes (frame-output.ts).
    if (to === from) return;
    if (this.pending === 0 && this.#output.writeRange(bytes, from, to, vnetHdrLen)) return;
    if (!this.#output.chardev.connected) {
      this.#lose(this.pending + 1, 'no peer is connected');
      this.#clear();
      return;
    }
    const needed = LENGTHS_BYTES + to - from;
    if (this.#pendingBytes + needed > MAX_PENDING_BYTES || to - from > MAX_FRAME_BYTES) {
      this.#lose(1, 'its peer does not read');
      return;
    }
    const block = this.#blockFor(needed);
    putU32(block.bytes, block.end, to - from);
    putU32(block.bytes, block.end + 4, vnetHdrLen);
    block.bytes.set(bytes.subarray(from, to), block.end + LENGTHS_BYTES);
    block.end += needed;
    this.#pendingBytes += needed;
    this.pending++;
    this.#timer ??= setTimeout(() => this.#retry(), RETRY_MS);
  }

  close(): void {
    this.#clear();
    this.#blocks = [];
    this.#output.detach();
  }

  /** The last block, or a new one when it has no room. */
  #blockFor(needed: number): Block {
    const last = this.#blocks.at(-1);
    if (last && last.end + needed <= last.bytes.length) return last;
    const fresh = { bytes: new Uint8Array(BLOCK_BYTES), start: 0, end: 0 };
    this.#blocks.push(fresh);
    return fresh;
  }

  #retry(): void {
    this.#timer = null;
    while (this.pending > 0 && this.#sendFirst());
    if (this.pending === 0) return;
    if (this.#output.chardev.connected) {
      this.#timer = setTimeout(() => this.#retry(), RETRY_MS);
      return;
    }
    this.#lose(this.pending, 'its peer has gone');
    this.#clear();
  }

  /** False: the chardev still has no room. */
  #sendFirst(): boolean {
    const block = this.#blocks[0];
    if (!block) return false;
    const { bytes, start } = block;
    const from = start + LENGTHS_BYTES;
    const to = from + u32(bytes, start);
    if (!this.#output.writeRange(bytes, from, to, u32(bytes, start + 4))) return false;
    block.start = to;
    this.#pendingBytes -= to - start;
    this.pending--;
    if (block.start === block.end) {
      if (this.#blocks.length > 1) this.#blocks.shift();
      else block.start = block.end = 0;
    }
    return true;
  }

  #clear(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    this.pending = 0;
    this.#pendingBytes = 0;
    this.#blocks.length = Math.min(this.#blocks.length, 1);
    const block = this.#blocks[0];
    if (block) block.start = block.end = 0;
  }

  #lose(count: number, why: string): void {
    this.lost += count;
    this.#warning.warn(`colo-compare: outdev '${this.#output.chardev.id}' lost released packets, ${why}`);
  }
}
