/** Large buffers that are not needed any more. */
import { MessageChannel } from 'node:worker_threads';

/** Below this the garbage collector's own time is early enough. */
const LARGE_BYTES = 1024 * 1024;

/**
 * Frees a large buffer's memory now: an idle process would keep hundreds of megabytes until its next collection.
 * The view is empty afterwards. Parts of a larger buffer are left alone.
 */
export function releaseBuffer(bytes: Uint8Array): void {
  const { buffer } = bytes;
  if (!(buffer instanceof ArrayBuffer) || buffer.byteLength < LARGE_BYTES) return;
  if (buffer.byteLength !== bytes.byteLength) return;
  const { port1, port2 } = new MessageChannel();
  // What waits in a port goes with the port.
  port1.postMessage(buffer, [buffer]);
  port2.close();
  port1.close();
}
