/**
 * Reads along on a checkpoint channel (docs/checkpoint-channel.md) as far as a test needs: when each state was captured
 * (its request had been answered, VMSTATE_SEND came) and when the secondary confirmed to hold it.
 */
import { BEAT_BYTES, COLO_MESSAGE } from '../../src/checkpoint/messages.ts';

export class ChannelLog {
  /** Checkpoints that the secondary has confirmed. */
  received = 0;
  /** When the newest state that the secondary has confirmed began to travel (performance.now()), or null. */
  capturedBeforeLastReceived: number | null = null;
  /** Bytes since the last VMSTATE_SEND that have not been confirmed. */
  pendingBytes = 0;
  #capturedAtMs = 0;
  #back = Buffer.alloc(0);
  #hello = true;

  /** A state begins with a message that the primary writes on its own, so it begins a chunk or follows a request. */
  fromPrimary(chunk: Buffer): void {
    if (this.pendingBytes === 0 && isCode(chunk, COLO_MESSAGE.VMSTATE_SEND))
      this.#capturedAtMs = performance.now();
    if (this.pendingBytes > 0 || isCode(chunk, COLO_MESSAGE.VMSTATE_SEND))
      this.pendingBytes += chunk.byteLength;
  }

  /** Back come a hello, codes of four bytes, beats, and marks with a text. */
  fromSecondary(chunk: Buffer): void {
    this.#back = Buffer.concat([this.#back, chunk]);
    for (;;) {
      const taken = this.#take();
      if (taken === 0) return;
      this.#back = this.#back.subarray(taken);
    }
  }

  #take(): number {
    const bytes = this.#back;
    const textEnd = (at: number): number =>
      bytes.length < at + 4 ? Infinity : at + 4 + bytes.readUInt32BE(at);
    if (this.#hello) {
      const end = textEnd(8);
      if (bytes.length < end) return 0;
      this.#hello = false;
      return end;
    }
    if (bytes.length < 4) return 0;
    const code = bytes.readUInt32BE(0);
    if (code === COLO_MESSAGE.STREAM_MARKS || code === COLO_MESSAGE.FAILED) {
      const end = textEnd(4);
      return bytes.length < end ? 0 : end;
    }
    if (code === COLO_MESSAGE.VMSTATE_RECEIVED) {
      this.received++;
      this.pendingBytes = 0;
      this.capturedBeforeLastReceived = this.#capturedAtMs;
    }
    if (code === COLO_MESSAGE.BEAT) return bytes.length < BEAT_BYTES ? 0 : BEAT_BYTES;
    return 4;
  }
}

/** It begins with that message, beats aside. */
function isCode(chunk: Buffer, code: number): boolean {
  let at = 0;
  while (chunk.byteLength >= at + 4 && chunk.readUInt32BE(at) === COLO_MESSAGE.BEAT) at += BEAT_BYTES;
  return chunk.byteLength >= at + 4 && chunk.readUInt32BE(at) === code;
}
