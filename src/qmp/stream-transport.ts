/**
 * A QMP session over Node streams: a socket, or standard input and output. Connects their events with the session and
 * answers for every error they may emit.
 */
import type { Readable, Writable } from 'node:stream';
import { loggerFor } from '../base/logger.ts';
import { QmpSession } from './session.ts';
import type { QmpSessionOptions, QmpTransport } from './session.ts';

const log = loggerFor('qmp-session');

/** How long a client may take to read its last replies before the connection is cut, in ms. */
const LINGER_MS = 1000;

class StreamTransport implements QmpTransport {
  readonly #input: Readable;
  readonly #output: Writable;
  readonly #onClosed: () => void;
  #linger: NodeJS.Timeout | null = null;
  #closed = false;

  constructor(input: Readable, output: Writable, onClosed: () => void) {
    this.#input = input;
    this.#output = output;
    this.#onClosed = onClosed;
  }

  get unsentBytes(): number {
    return this.#output.writableLength;
  }

  write(text: string): void {
    if (this.#output.writable) this.#output.write(text, 'latin1');
  }

  setReading(on: boolean): void {
    if (on === !this.#input.isPaused()) return;
    if (on) this.#input.resume();
    else this.#input.pause();
  }

  end(): void {
    if (this.#closed || this.#linger) return;
    this.#linger = setTimeout(() => this.destroy(), LINGER_MS);
    const finish = (): void => this.destroy();
    if (this.#output.writableFinished || !this.#output.writable) finish();
    // The process's own standard output stays open; everything else is told that this is the end.
    else if (this.#output === process.stdout) this.#output.write('', finish);
    else this.#output.end(finish);
  }

  destroy(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#linger) clearTimeout(this.#linger);
    this.#input.pause();
    if (this.#output !== process.stdout) {
      this.#input.destroy();
      this.#output.destroy();
    }
    this.#onClosed();
  }
}

/**
 * Starts a session: the greeting is sent at once. `onClosed` is called once, when the connection is over for whatever
 * reason.
 */
export function serveStreams(
  input: Readable,
  output: Writable,
  options: QmpSessionOptions,
  onClosed: (session: QmpSession) => void,
): QmpSession {
  const transport = new StreamTransport(input, output, () => {
    input.off('data', onData).off('end', onEnd).off('close', onClose);
    output.off('drain', onDrain).off('close', onClose);
    session.transportClosed();
    onClosed(session);
  });
  const session = new QmpSession(transport, options);
  const onData = (chunk: Buffer): void => session.receive(chunk);
  const onEnd = (): void => session.inputEnded();
  const onDrain = (): void => session.drained();
  const onClose = (): void => transport.destroy();
  const onError = (error: Error): void => {
    log.debug(`a QMP connection failed: ${error.message}`);
    transport.destroy();
  };
  input.on('data', onData).on('end', onEnd).on('close', onClose).on('error', onError);
  output.on('drain', onDrain).on('close', onClose);
  if ((output as unknown) !== input) output.on('error', onError);
  session.start();
  return session;
}
