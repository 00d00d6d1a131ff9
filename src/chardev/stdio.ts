/**
 * The process's standard input and output as a chardev (`-serial stdio`, `-chardev stdio`). One per process; the
 * registry sees to that. On a terminal it switches to raw mode, so that keys reach the guest one by one; with `signal`
 * (the default, as in QEMU) Ctrl-C still ends the process instead of going to the guest.
 */
import { loggerFor } from '../base/logger.ts';
import { BoundedSender } from './bounded-sender.ts';
import type { Chardev, ChardevFrontend } from './chardev.ts';
import { FrontendPort } from './frontend-port.ts';

const log = loggerFor('chardev');
const CTRL_C = 3;

export interface StdioChardevConfig {
  readonly backend: 'stdio';
  readonly id: string;
  /** Ctrl-C on a terminal interrupts the process. */
  readonly signal: boolean;
}

/** The two streams; process.stdin and process.stdout unless a test brings its own. */
export interface StdioStreams {
  readonly input: NodeJS.ReadableStream & Pick<NodeJS.ReadStream, 'isTTY' | 'setRawMode'>;
  readonly output: NodeJS.WriteStream;
  /** Ctrl-C was typed in raw mode. */
  interrupt(): void;
}

const PROCESS_STREAMS: StdioStreams = {
  get input() {
    return process.stdin;
  },
  get output() {
    return process.stdout;
  },
  interrupt: () => process.kill(process.pid, 'SIGINT'),
};

export class StdioChardev implements Chardev {
  readonly config: StdioChardevConfig;
  readonly connection = null;
  readonly filename = 'stdio';
  bytesIn = 0;
  readonly #streams: StdioStreams;
  readonly #port: FrontendPort;
  #sender: BoundedSender | null = null;

  constructor(config: StdioChardevConfig, streams: StdioStreams = PROCESS_STREAMS) {
    this.config = config;
    this.#streams = streams;
    this.#port = new FrontendPort({
      id: config.id,
      isConnected: () => this.connected,
      readingChanged: () => this.#applyReading(),
      frontendFailed: () => undefined,
    });
  }

  get id(): string {
    return this.config.id;
  }

  /** False before `open`, after the end of the input and after `close`. */
  get connected(): boolean {
    return this.#sender !== null;
  }

  get bytesOut(): number {
    return this.#sender?.bytesSent ?? 0;
  }

  get user(): string | null {
    return this.#port.user;
  }

  open(): Promise<void> {
    const { input, output } = this.#streams;
    this.#sender = new BoundedSender(output);
    input.pause();
    input.on('data', this.#onData);
    input.on('end', this.#onEnd);
    output.on('error', this.#onOutputError);
    if (input.isTTY) input.setRawMode(true);
    this.#port.opened();
    return Promise.resolve();
  }

  attach(frontend: ChardevFrontend, user: string): void {
    this.#port.attach(frontend, user);
  }

  detach(frontend: ChardevFrontend): void {
    this.#port.detach(frontend);
  }

  write(bytes: Uint8Array): boolean {
    return this.#sender?.send(bytes) ?? false;
  }

  writePair(head: Uint8Array, body: Uint8Array, from?: number, to?: number): boolean {
    return this.#sender?.send(head, body, from, to) ?? false;
  }

  setReading(on: boolean): void {
    this.#port.setReading(on);
  }

  /** Leaves the process's streams open, and the terminal as it was. */
  close(): Promise<void> {
    const { input, output } = this.#streams;
    if (this.#sender) {
      this.#sender.flush();
      this.#sender = null;
      if (input.isTTY) input.setRawMode(false);
      this.#port.closed();
    }
    input.off('data', this.#onData);
    input.off('end', this.#onEnd);
    output.off('error', this.#onOutputError);
    input.pause();
    return Promise.resolve();
  }

  readonly #onData = (chunk: string | Uint8Array): void => {
    const bytes = typeof chunk === 'string' ? Buffer.from(chunk) : chunk;
    if (this.#streams.input.isTTY && this.config.signal && bytes.includes(CTRL_C)) {
      this.#streams.interrupt();
      return;
    }
    this.bytesIn += bytes.length;
    this.#port.data(bytes);
  };

  readonly #onEnd = (): void => {
    this.#sender = null;
    this.#port.closed();
  };

  readonly #onOutputError = (error: Error): void => {
    log.debug({ chardev: this.id }, `standard output failed: ${error.message}`);
    this.#onEnd();
  };

  #applyReading(): void {
    if (this.#port.wantsData) this.#streams.input.resume();
    else this.#streams.input.pause();
  }
}
