/** Messages on a stream: four bytes of length, most significant first, then that many of JSON in UTF-8. */
import { ProtocolError } from '../../base/errors.ts';
import type { BeatMessage } from './messages.ts';

/** Far more than the largest beat has. Anything longer is no heartbeat. */
export const MAX_BEAT_BYTES = 512 * 1024;

const HEADER_BYTES = 4;

export function encodeFrame(message: BeatMessage): Buffer {
  const text = JSON.stringify(message);
  const frame = Buffer.allocUnsafe(HEADER_BYTES + Buffer.byteLength(text));
  frame.writeUInt32BE(frame.length - HEADER_BYTES, 0);
  frame.write(text, HEADER_BYTES, 'utf8');
  return frame;
}

/** Cuts what arrives into messages; keeps one unfinished message at most. */
export class FrameReader {
  #kept: Buffer = Buffer.alloc(0);

  /** The messages that are complete now. Throws ProtocolError; the stream cannot be used after that. */
  push(chunk: Buffer): string[] {
    let bytes = this.#kept.length === 0 ? chunk : Buffer.concat([this.#kept, chunk]);
    const messages: string[] = [];
    while (bytes.length >= HEADER_BYTES) {
      const length = bytes.readUInt32BE(0);
      if (length === 0 || length > MAX_BEAT_BYTES) {
        throw new ProtocolError(`heartbeat: a message of ${length} bytes`);
      }
      if (bytes.length < HEADER_BYTES + length) break;
      messages.push(bytes.toString('utf8', HEADER_BYTES, HEADER_BYTES + length));
      bytes = bytes.subarray(HEADER_BYTES + length);
    }
    this.#kept = bytes;
    return messages;
  }
}
