/**
 * Chardevs without a peer: `null` (what is written is gone) and `file` (it is appended to a file). They never have data.
 */
import { createWriteStream } from 'node:fs';
import type { WriteStream } from 'node:fs';
import { once } from 'node:events';
import { loggerFor } from '../base/logger.ts';
import { BoundedSender } from './bounded-sender.ts';
import type { Chardev, ChardevFrontend } from './chardev.ts';
import { ChardevOpenError } from './dial.ts';
import { FrontendPort } from './frontend-port.ts';
import { systemErrorText } from './system-errors.ts';

const log = loggerFor('chardev');

export type SinkChardevConfig =
  | { readonly backend: 'null'; readonly id: string }
  | { readonly backend: 'file'; readonly id: string; readonly path: string; readonly append: boolean };

export class SinkChardev implements Chardev {
  readonly config: SinkChardevConfig;
  readonly connected = true;
  readonly connection = null;
  readonly bytesIn = 0;
  bytesOut = 0;
  readonly #port: FrontendPort;
  #stream: WriteStream | null = null;
  #sender: BoundedSender | null = null;

  constructor(config: SinkChardevConfig) {
    this.config = config;
    this.#port = new FrontendPort({
      id: config.id,
      isConnected: () => true,
      readingChanged: () => undefined,
      frontendFailed: () => undefined,
    });
  }

  get id(): string {
    return this.config.id;
  }

  get user(): string | null {
    return this.#port.user;
  }

  get filename(): string {
    return this.config.backend;
  }

  /** Throws ChardevOpenError when the file cannot be opened. */
  async open(): Promise<void> {
    if (this.config.backend !== 'file') return;
    const { path, append } = this.config;
    const stream = createWriteStream(path, { flags: append ? 'a' : 'w' });
    try {
      await once(stream, 'open');
    } catch (error) {
      throw new ChardevOpenError(`Could not open '${path}': ${systemErrorText(error)}`, { cause: error });
    }
    stream.on('error', (error) =>
      log.warn({ chardev: this.id }, `writing '${path}' failed: ${error.message}`),
    );
    this.#stream = stream;
    this.#sender = new BoundedSender(stream);
  }

  attach(frontend: ChardevFrontend, user: string): void {
    this.#port.attach(frontend, user);
  }

  detach(frontend: ChardevFrontend): void {
    this.#port.detach(frontend);
  }

  write(bytes: Uint8Array): boolean {
    if (this.#sender && !this.#sender.send(bytes)) return false;
    this.bytesOut += bytes.length;
    return true;
  }

  writePair(head: Uint8Array, body: Uint8Array, from = 0, to = body.length): boolean {
    if (this.#sender && !this.#sender.send(head, body, from, to)) return false;
    this.bytesOut += head.length + (to - from);
    return true;
  }

  setReading(on: boolean): void {
    this.#port.setReading(on);
  }

  async close(): Promise<void> {
    const stream = this.#stream;
    this.#sender?.flush();
    this.#stream = null;
    this.#sender = null;
    if (!stream || stream.destroyed) return;
    stream.end();
    await once(stream, 'close');
  }
}
