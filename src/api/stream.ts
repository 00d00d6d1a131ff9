/**
 * Streams of JSON lines (events, logs) on an HTTP answer: one object a line, an empty line now and then so that either
 * end notices when the other is gone, and `{"error": …}` as the last line when the stream failed. A slow reader makes
 * the source wait; nothing is queued here beyond one line.
 */
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { StringDecoder } from 'node:string_decoder';
import { ProtocolError } from '../base/errors.ts';
import { errorToWire, type WireError } from './errors.ts';
import { API_VERSION } from './service.ts';

/** Between two empty lines. */
export const KEEP_ALIVE_MS = 5_000;
/** A stream on which not even those come has lost its other end. */
export const STREAM_SILENCE_MS = 30_000;
/** The longest line that a reader takes. */
export const MAX_LINE_BYTES = 1024 * 1024;

/**
 * Writes `items` until they end, fail, or `signal` aborts. Errors of the source become the last line; `onFault` hears of
 * those that are not ColoErrors.
 */
export async function writeLines(
  out: ServerResponse,
  items: AsyncIterable<unknown>,
  signal: AbortSignal,
): Promise<void> {
  out.writeHead(200, {
    'content-type': 'application/x-ndjson',
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
  });
  out.flushHeaders();
  // An empty line while a reader is slow would only make its queue longer.
  const keepAlive = setInterval(() => {
    if (!out.writableNeedDrain) out.write('\n');
  }, KEEP_ALIVE_MS);
  try {
    for await (const item of items) {
      if (signal.aborted) return;
      const line = JSON.stringify({ version: API_VERSION, ...(item as object) });
      if (!out.write(`${line}\n`)) await once(out, 'drain', { signal });
    }
  } catch (error) {
    if (signal.aborted) return;
    out.write(`${JSON.stringify({ version: API_VERSION, error: errorToWire(error).error })}\n`);
    throw error;
  } finally {
    clearInterval(keepAlive);
    out.end();
  }
}

/** The lines of `chunks`, empty ones left out. Throws ProtocolError for a line without end. */
export async function* readLines(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new StringDecoder('utf8');
  let rest = '';
  for await (const chunk of chunks) {
    rest += decoder.write(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength));
    let from = 0;
    for (let at = rest.indexOf('\n'); at >= 0; at = rest.indexOf('\n', from)) {
      if (at > from) yield rest.slice(from, at);
      from = at + 1;
    }
    rest = rest.slice(from);
    if (rest.length > MAX_LINE_BYTES) {
      throw new ProtocolError(`a line of the answer is longer than ${MAX_LINE_BYTES} bytes`);
    }
  }
  if (rest !== '') throw new ProtocolError('the answer ends in the middle of a line');
}

/** What a line says: an object, or the error that ended the stream. Throws ProtocolError. */
export function parseLine(line: string): { readonly value: unknown; readonly error: WireError | null } {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw new ProtocolError('a line of the answer is not JSON', { cause });
  }
  const error = wireErrorIn(value);
  return { value, error };
}

/** The `error` member, if it is one of ours. */
export function wireErrorIn(value: unknown): WireError | null {
  if (typeof value !== 'object' || value === null || !('error' in value)) return null;
  const { error } = value;
  if (typeof error !== 'object' || error === null || !('class' in error) || !('message' in error))
    return null;
  return { class: String(error.class), message: String(error.message) };
}
