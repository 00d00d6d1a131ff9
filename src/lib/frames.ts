/**
 * Ethernet frames on a byte stream, as QEMU's netdev sockets, filter-mirror and filter-redirector exchange them
 * (docs/qemu-behaviour.md 1.1): for `colo-ft/compare`.
 */
import { ParameterError } from '../base/errors.ts';
import type { ProtocolError } from '../base/errors.ts';
import { FrameDecoder, MAX_FRAME_BYTES, encodeHeader, headerBytes } from '../net/framing.ts';

/** An Ethernet frame without FCS, as it stood on the stream. */
export interface Frame {
  /** A copy, the reader's own. */
  readonly bytes: Uint8Array;
  /** Bytes of virtio-net header in front of the Ethernet header; 0 without vnet support. */
  readonly vnetHdrLen: number;
}

/** All optional. */
export interface ReadFramesOptions {
  /** Each frame has the vnet word after its length, as with `vnet_hdr_support=on`. Default false. */
  readonly vnetHdrSupport?: boolean;
}

/**
 * The frames of a stream (a socket, for one), read as fast as they are taken. A frame that has begun when the stream ends
 * is dropped. Throws ProtocolError when the stream announces a frame above 69,632 bytes.
 */
export async function* readFrames(
  stream: AsyncIterable<Uint8Array>,
  options: ReadFramesOptions = {},
): AsyncGenerator<Frame, void, undefined> {
  let frames: Frame[] = [];
  let failure: ProtocolError | null = null;
  const failed = (): ProtocolError | null => failure;
  const decoder = new FrameDecoder({
    vnetHdrSupport: options.vnetHdrSupport ?? false,
    onFrame: (bytes, from, to, vnetHdrLen) =>
      frames.push({ bytes: new Uint8Array(bytes.subarray(from, to)), vnetHdrLen }),
    onError: (error) => (failure = error),
  });
  for await (const chunk of stream) {
    decoder.push(chunk);
    yield* frames;
    frames = [];
    const error = failed();
    if (error) throw error;
  }
}

/**
 * A frame as it stands on a stream: its length, and `vnetHdrLen` where it is not null, as 32 bits each, big-endian, then its
 * bytes (1 to 69,632). `vnetHdrLen` is null where the peer has no vnet support. Throws ParameterError.
 */
export function encodeFrame(frame: Uint8Array, vnetHdrLen: number | null = null): Uint8Array {
  if (frame.length === 0 || frame.length > MAX_FRAME_BYTES)
    throw new ParameterError(`a frame of ${frame.length} bytes: there may be 1 to ${MAX_FRAME_BYTES}`);
  const before = headerBytes(vnetHdrLen !== null);
  const bytes = new Uint8Array(before + frame.length);
  encodeHeader(bytes, frame.length, vnetHdrLen);
  bytes.set(frame, before);
  return bytes;
}
