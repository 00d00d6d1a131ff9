/**
 * What has come over the checkpoint channel and has not been read. Beats stand between messages only; they are taken
 * out here as they come, so that they neither pile up while nobody reads nor wake who waits for a message.
 */
import { BEAT_BYTES, COLO_MESSAGE } from './messages.ts';

export class Inbox {
  readonly #chunks: Buffer[] = [];
  readonly #onBeat: (word: number) => void;
  #bytes = 0;
  /** Its head is the beginning of a message: what was read before is whole. Not so at first, before the hello. */
  #isAtMessage = false;

  constructor(onBeat: (word: number) => void) {
    this.#onBeat = onBeat;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get isAtMessage(): boolean {
    return this.#isAtMessage;
  }

  /** Takes `chunk` over. False: it was beats. */
  push(chunk: Buffer): boolean {
    this.#chunks.push(chunk);
    this.#bytes += chunk.byteLength;
    if (this.#isAtMessage) this.#dropBeats();
    return this.#bytes > 0;
  }

  /** What was read last ended a message. */
  messageRead(): void {
    this.#isAtMessage = true;
    this.#dropBeats();
  }

  /** The next message's code, which is taken out, or null: it has not come. */
  takeCode(): number | null {
    this.messageRead();
    if (this.#bytes < 4) return null;
    const code = this.#peek(0);
    // The rest of a beat is still to come.
    if (code === COLO_MESSAGE.BEAT) return null;
    this.#skip(4);
    this.#isAtMessage = false;
    return code;
  }

  /** Copies what there is to `target`, from `from` on. Returns how many bytes that were. */
  takeInto(target: Uint8Array, from: number): number {
    let filled = from;
    for (let chunk = this.#chunks[0]; chunk && filled < target.byteLength; chunk = this.#chunks[0]) {
      const take = Math.min(chunk.byteLength, target.byteLength - filled);
      target.set(chunk.subarray(0, take), filled);
      filled += take;
      this.#skip(take);
    }
    return filled - from;
  }

  #dropBeats(): void {
    while (this.#bytes >= BEAT_BYTES && this.#peek(0) === COLO_MESSAGE.BEAT) {
      this.#onBeat(this.#peek(4));
      this.#skip(BEAT_BYTES);
    }
  }

  /** The u32 at `at` of what there is. */
  #peek(at: number): number {
    const [first] = this.#chunks;
    if (first && first.byteLength >= at + 4) return first.readUInt32BE(at);
    let value = 0;
    let before = 0;
    for (const chunk of this.#chunks) {
      for (let i = Math.max(at - before, 0); i < chunk.byteLength && before + i < at + 4; i++) {
        value = value * 256 + chunk[i]!;
      }
      before += chunk.byteLength;
      if (before >= at + 4) break;
    }
    return value;
  }

  #skip(length: number): void {
    this.#bytes -= length;
    for (let left = length; left > 0;) {
      const chunk = this.#chunks[0]!;
      if (chunk.byteLength > left) {
        this.#chunks[0] = chunk.subarray(left);
        return;
      }
      left -= chunk.byteLength;
      this.#chunks.shift();
    }
  }
}
