/**
 * Frames on a byte stream, as QEMU's netdev sockets, filters and colo-compare exchange them: `u32 len`, then (only when
 * both ends have vnet_hdr_support) `u32 vnet_hdr_len`, then `len` bytes of Ethernet frame without FCS, which begin with
 * the virtio-net header if there is one. All integers are big-endian. Facts: docs/qemu-behaviour.md 1.1 and 1.2.
 *
 * The decoder cuts a stream into frames and judges nothing inside them. It assumes in-order bytes of one connection and
 * leaves closing that connection after a bad length to its owner.
 */
import { ProtocolError } from '../base/errors.ts';
import { copyPacketBytes, takePacketMemory } from '../base/packet-memory.ts';

/** Largest frame QEMU accepts, inclusive (NET_BUFSIZE). */
export const MAX_FRAME_BYTES = 69_632;

const LENGTH_BYTES = 4;
const HEADER_BYTES_WITH_VNET = 8;

/** Bytes in front of each frame. */
export function headerBytes(vnetHdrSupport: boolean): number {
  return vnetHdrSupport ? HEADER_BYTES_WITH_VNET : LENGTH_BYTES;
}

/**
 * Writes the header of a frame of `frameBytes` into `into` and returns the part written, a view on `into` (so that one
 * scratch array serves all frames). `vnetHdrLen` is null where the endpoint has no vnet word.
 */
export function encodeHeader(into: Uint8Array, frameBytes: number, vnetHdrLen: number | null): Uint8Array {
  putU32(into, 0, frameBytes);
  if (vnetHdrLen === null) {
    return into.length === LENGTH_BYTES ? into : into.subarray(0, LENGTH_BYTES);
  }
  putU32(into, LENGTH_BYTES, vnetHdrLen);
  return into.length === HEADER_BYTES_WITH_VNET ? into : into.subarray(0, HEADER_BYTES_WITH_VNET);
}

function putU32(into: Uint8Array, at: number, value: number): void {
  into[at] = value >>> 24;
  into[at + 1] = (value >>> 16) & 0xff;
  into[at + 2] = (value >>> 8) & 0xff;
  into[at + 3] = value & 0xff;
}

/**
 * Takes the frame `bytes[from, to)`, which is valid during the call only. A view for each frame would be garbage of each
 * frame, so whoever needs one makes it.
 */
export type OnFrame = (bytes: Uint8Array, from: number, to: number, vnetHdrLen: number) => void;

/** Who gets what a FrameDecoder finds. */
export interface FrameDecoderOptions {
  /** Each frame has the vnet word after its length. */
  readonly vnetHdrSupport?: boolean;
  /** A whole frame. `vnetHdrLen` is 0 without vnet support. */
  readonly onFrame: OnFrame;
  /** The stream announced a frame above MAX_FRAME_BYTES. Called once; nothing more is decoded until `reset`. */
  readonly onError: (error: ProtocolError) => void;
}

/** Cuts one connection's bytes into frames. Allocates one scratch buffer, when the first frame spans two chunks. */
export class FrameDecoder {
  readonly #onFrame: OnFrame;
  readonly #onError: (error: ProtocolError) => void;
  readonly #header: Uint8Array;
  #headerFill = 0;
  #scratch: Uint8Array | null = null;
  #frameFill = 0;
  /** Payload length of the frame whose header is complete. */
  #frameBytes = 0;
  #vnetHdrLen = 0;
  #dead = false;
  /** Bumped by reset(), so that a reset from inside `onFrame` ends the running push. */
  #generation = 0;
  #consumed = 0;
  /** Frames of length 0 that were skipped since construction. */
  zeroLengthFrames = 0;

  constructor(options: FrameDecoderOptions) {
    this.#onFrame = options.onFrame;
    this.#onError = options.onError;
    this.#header = new Uint8Array(headerBytes(options.vnetHdrSupport ?? false));
  }

  /** True after an oversized frame: the rest of the stream cannot be understood. */
  get dead(): boolean {
    return this.#dead;
  }

  /** True when no frame has been begun. */
  get atBoundary(): boolean {
    return this.#headerFill === 0;
  }

  /**
   * Bytes since the last reset up to the end of the last whole frame; inside `onFrame` this includes the frame being
   * delivered.
   */
  get consumedBytes(): number {
    return this.#consumed;
  }

  /** Forgets a begun frame, and an error. For a new connection. */
  reset(): void {
    this.#headerFill = 0;
    this.#frameFill = 0;
    this.#frameBytes = 0;
    this.#consumed = 0;
    this.#dead = false;
    this.#generation++;
  }

  /** The first `end` bytes of `chunk` have come. */
  push(chunk: Uint8Array, end = chunk.length): void {
    const generation = this.#generation;
    const headerBytes = this.#header.length;
    let at = 0;
    while (at < end && !this.#dead && this.#generation === generation) {
      if (this.#headerFill === 0 && end - at > headerBytes) {
        // The usual case: a frame that lies whole in the chunk.
        const from = at + headerBytes;
        const frameBytes = u32At(chunk, at);
        if (frameBytes > 0 && frameBytes <= MAX_FRAME_BYTES && frameBytes <= end - from) {
          this.#vnetHdrLen = headerBytes > LENGTH_BYTES ? u32At(chunk, at + LENGTH_BYTES) : 0;
          at = from + frameBytes;
          this.#deliver(chunk, from, at);
          continue;
        }
      }
      at = this.#takePart(chunk, at, end);
    }
  }

  /** Takes what is there of a header or of a frame that came in pieces, and returns where it ends. */
  #takePart(chunk: Uint8Array, from: number, end: number): number {
    const header = this.#header;
    let at = from;
    if (this.#headerFill < header.length) {
      while (this.#headerFill < header.length && at < end) header[this.#headerFill++] = chunk[at++]!;
      if (this.#headerFill === header.length) this.#takeHeader(header);
      return at;
    }
    const scratch = (this.#scratch ??= takePacketMemory(MAX_FRAME_BYTES));
    const take = Math.min(this.#frameBytes - this.#frameFill, end - at);
    copyPacketBytes(chunk, at, at + take, scratch, this.#frameFill);
    this.#frameFill += take;
    if (this.#frameFill === this.#frameBytes) this.#deliver(scratch, 0, this.#frameBytes);
    return at + take;
  }

  #takeHeader(header: Uint8Array): void {
    this.#frameBytes = u32At(header, 0);
    this.#vnetHdrLen = header.length > LENGTH_BYTES ? u32At(header, LENGTH_BYTES) : 0;
    if (this.#frameBytes > MAX_FRAME_BYTES) {
      this.#fail();
    } else if (this.#frameBytes === 0) {
      this.zeroLengthFrames++;
      this.#consumed += header.length;
      this.#headerFill = 0;
    }
  }

  /** State is made ready for the next frame first: `onFrame` may call reset. */
  #deliver(bytes: Uint8Array, from: number, to: number): void {
    this.#consumed += this.#header.length + to - from;
    this.#headerFill = 0;
    this.#frameFill = 0;
    this.#onFrame(bytes, from, to, this.#vnetHdrLen);
  }

  #fail(): void {
    this.#dead = true;
    this.#onError(
      new ProtocolError(
        `a frame of ${this.#frameBytes} bytes was announced, the limit is ${MAX_FRAME_BYTES}: the stream is not ` +
          'framed packets, or the two ends disagree on vnet_hdr_support',
      ),
    );
  }
}

function u32At(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}
