/** The last lines of a file and what is added to it, as `tail -F` does: a file that is replaced is begun anew. */
import { open, stat, type FileHandle } from 'node:fs/promises';

const LOOK_MS = 200;
const CHUNK_BYTES = 64 * 1024;
/** Of a large file no more is read than lines of this length would take. */
const LINE_BYTES = 1024;

export interface TailOptions {
  readonly lines: number;
  readonly follow: boolean;
  readonly signal?: AbortSignal;
}

export async function* tail(file: string, { lines, follow, signal }: TailOptions): AsyncIterable<string> {
  const reader = new Reader(file);
  try {
    const kept: string[] = [];
    await reader.reopen(lines * LINE_BYTES);
    for await (const line of reader.rest()) if (kept.push(line) > lines) kept.shift();
    yield* kept;
    while (follow && signal?.aborted !== true) {
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      yield* reader.rest();
      if (await reader.isReplaced()) await reader.reopen(Infinity);
    }
  } finally {
    await reader.close();
  }
}

class Reader {
  readonly #file: string;
  #handle: FileHandle | null = null;
  #at = 0;
  #text = '';

  constructor(file: string) {
    this.#file = file;
  }

  /** A file that is not there yet is looked for again by `isReplaced`. */
  async reopen(lastBytes: number): Promise<void> {
    await this.close();
    try {
      this.#handle = await open(this.#file, 'r');
      this.#at = Math.max(0, (await this.#handle.stat()).size - lastBytes);
    } catch {
      this.#handle = null;
    }
    this.#text = '';
  }

  async isReplaced(): Promise<boolean> {
    try {
      const { ino } = await stat(this.#file);
      return this.#handle === null || (await this.#handle.stat()).ino !== ino;
    } catch {
      return false;
    }
  }

  async *rest(): AsyncIterable<string> {
    while (this.#handle) {
      const buffer = Buffer.allocUnsafe(CHUNK_BYTES);
      const { bytesRead } = await this.#handle.read(buffer, 0, CHUNK_BYTES, this.#at);
      if (bytesRead === 0) return;
      this.#at += bytesRead;
      const parts = (this.#text + buffer.toString('utf8', 0, bytesRead)).split('\n');
      this.#text = parts.pop() ?? '';
      yield* parts;
    }
  }

  async close(): Promise<void> {
    await this.#handle?.close();
    this.#handle = null;
  }
}
