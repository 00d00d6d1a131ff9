/**
 * The checkpoint channel: one TCP or unix connection that carries the dialogue of messages.ts. Every read has a
 * deadline that is counted from the last byte that came, so that a dead or frozen peer ends the dialogue and nothing
 * else. A loss of the connection is noticed at once, also between checkpoints (`closed`). When a deadline passes while
 * this process itself was held up, what has come in the meantime is read before the peer is accused.
 */
import type { Socket } from 'node:net';
import { Deferred } from '../base/async.ts';
import { releaseBuffer } from '../base/buffers.ts';
import { ClosedError, ProtocolError, TimeoutError } from '../base/errors.ts';
import type { HeldFrame, StreamMark } from '../base/participant.ts';
import type { Snapshot } from '../engine/engine.ts';
import type { ColoMessage, Hello } from './messages.ts';
import {
  COLO_MESSAGE,
  HELLO_MAGIC,
  MAX_DEVICE_BYTES,
  MAX_HELD_BYTES,
  MAX_TEXT_BYTES,
  SECTION_HEADER_BYTES,
  checkSection,
  encodeHeldOutput,
  encodeHello,
  encodeSectionHeader,
  encodeText,
  nameOfMessage,
  parseHeldOutput,
  parseHello,
  parseMarks,
  parseSectionHeader,
} from './messages.ts';

/** Unread bytes beyond which the peer is made to wait. */
const READ_AHEAD_BYTES = 4 * 1024 * 1024;
const WRITE_PIECE_BYTES = 1024 * 1024;
/** A peer that is silent for so long in the middle of a dialogue is taken for dead. */
export const DEFAULT_PATIENCE_MS = 5_000;

export class CheckpointChannel {
  readonly #socket: Socket;
  readonly #patienceMs: number;
  readonly #chunks: Buffer[] = [];
  #queuedBytes = 0;
  #wake: Deferred<void> | null = null;
  #error: Error | null = null;
  readonly #unsent = new Set<Deferred<void>>();
  /** Resolves with the reason when the connection is lost or given up. */
  readonly closed: Promise<Error>;
  readonly #closed = new Deferred<Error>();

  constructor(socket: Socket, patienceMs = DEFAULT_PATIENCE_MS) {
    this.#socket = socket;
    this.#patienceMs = patienceMs;
    this.closed = this.#closed.promise;
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#queuedBytes += chunk.byteLength;
      if (this.#queuedBytes > READ_AHEAD_BYTES) socket.pause();
      this.#wake?.resolve();
    });
    socket.on('error', (cause) =>
      this.#fail(new ClosedError(`checkpoint channel: ${cause.message}`, { cause })),
    );
    socket.on('end', () => this.#fail(new ClosedError('checkpoint channel: the peer closed the connection')));
    socket.on('close', () => this.#fail(new ClosedError('checkpoint channel: the connection is closed')));
  }

  /** Why the channel is of no use any more, or null. */
  get failure(): Error | null {
    return this.#error;
  }

  /** Ends the connection; pending reads fail with `reason`. */
  destroy(reason: Error | null): void {
    this.#fail(reason ?? new ClosedError('checkpoint channel: closed'));
    this.#socket.destroy();
  }

  /** Sends what is queued, then ends. For a refusal that the peer should still read. */
  end(): void {
    this.#socket.end();
  }

  async sendHello(hello: Hello): Promise<void> {
    await this.#write(encodeHello(hello));
  }

  async receiveHello(): Promise<Hello> {
    const magic = await this.#read(HELLO_MAGIC.byteLength, 'hello');
    if (!magic.equals(HELLO_MAGIC)) {
      throw new ProtocolError('checkpoint channel: the peer speaks something else (wrong magic or version)');
    }
    return parseHello(await this.#readText('hello'));
  }

  async send(code: ColoMessage): Promise<void> {
    const out = Buffer.allocUnsafe(4);
    out.writeUInt32BE(code, 0);
    await this.#write(out);
  }

  async sendFailure(reason: string): Promise<void> {
    await this.send(COLO_MESSAGE.FAILED);
    await this.#write(encodeText(reason));
  }

  async sendMarks(marks: readonly StreamMark[]): Promise<void> {
    await this.send(COLO_MESSAGE.STREAM_MARKS);
    await this.#write(encodeText(JSON.stringify(marks)));
  }

  /** The snapshot is given up: its memory is freed. So is sendState's. */
  async sendRamRound(snapshot: Snapshot): Promise<void> {
    await this.send(COLO_MESSAGE.RAM_ROUND);
    await this.#sendSection(snapshot.ram, snapshot.pages);
    releaseBuffer(snapshot.ram);
  }

  async sendHeldOutput(frames: readonly HeldFrame[]): Promise<void> {
    await this.send(COLO_MESSAGE.HELD_OUTPUT);
    await this.#sendSection(encodeHeldOutput(frames), 0);
  }

  async receiveHeldOutput(): Promise<HeldFrame[]> {
    await this.expect(COLO_MESSAGE.HELD_OUTPUT);
    const { body } = await this.#receiveSection(MAX_HELD_BYTES, 'held output');
    return parseHeldOutput(body);
  }

  /** VMSTATE_SEND with the pages, then VMSTATE_SIZE with the device state. */
  async sendState(snapshot: Snapshot): Promise<void> {
    await this.send(COLO_MESSAGE.VMSTATE_SEND);
    await this.#sendSection(snapshot.ram, snapshot.pages);
    releaseBuffer(snapshot.ram);
    await this.send(COLO_MESSAGE.VMSTATE_SIZE);
    await this.#sendSection(snapshot.device, 0);
    releaseBuffer(snapshot.device);
  }

  /**
   * The next message's code. `idle`: wait without a deadline (between checkpoints silence is normal); a loss of the
   * connection still ends the wait. A FAILED message becomes an error with the peer's reason.
   */
  async receive(options?: { idle?: boolean }): Promise<number> {
    const code = (await this.#read(4, 'a message', options?.idle)).readUInt32BE(0);
    if (code === COLO_MESSAGE.FAILED) {
      throw new ProtocolError(`checkpoint channel: the peer gave up: ${await this.#readText('reason')}`);
    }
    return code;
  }

  /** Receives a message that has to be `code`. */
  async expect(code: ColoMessage): Promise<void> {
    const got = await this.receive();
    if (got !== code) {
      throw new ProtocolError(
        `checkpoint channel: unexpected message ${nameOfMessage(got)}, expected ${nameOfMessage(code)}`,
      );
    }
  }

  async receiveMarks(): Promise<StreamMark[]> {
    await this.expect(COLO_MESSAGE.STREAM_MARKS);
    return parseMarks(await this.#readText('stream marks'));
  }

  /** The section behind RAM_ROUND, checked. */
  async receiveRamRound(ramBytes: number): Promise<Snapshot> {
    const { body, pages } = await this.#receiveSection(maxRamSection(ramBytes), 'RAM');
    return { ram: body, device: new Uint8Array(0), pages };
  }

  /** What follows VMSTATE_SEND, up to the end of the device state, checked. */
  async receiveState(ramBytes: number): Promise<Snapshot> {
    const ram = await this.#receiveSection(maxRamSection(ramBytes), 'RAM');
    await this.expect(COLO_MESSAGE.VMSTATE_SIZE);
    const device = await this.#receiveSection(MAX_DEVICE_BYTES, 'device state');
    return { ram: ram.body, device: device.body, pages: ram.pages };
  }

  async #sendSection(body: Uint8Array, pages: number): Promise<void> {
    await this.#write(encodeSectionHeader(body, pages));
    await this.#write(body);
  }

  async #receiveSection(maxBytes: number, what: string): Promise<{ body: Uint8Array; pages: number }> {
    const header = parseSectionHeader(await this.#read(SECTION_HEADER_BYTES, what), maxBytes, what);
    // An ArrayBuffer of its own: it will be transferred to the engine's thread.
    const body = new Uint8Array(header.lengthBytes);
    await this.#readInto(body, what);
    checkSection(header, body, what);
    return { body, pages: header.pages };
  }

  async #readText(what: string): Promise<string> {
    const length = (await this.#read(4, what)).readUInt32BE(0);
    if (length > MAX_TEXT_BYTES) {
      throw new ProtocolError(
        `checkpoint channel: ${what} of ${length} bytes, at most ${MAX_TEXT_BYTES} allowed`,
      );
    }
    return (await this.#read(length, what)).toString('utf8');
  }

  async #read(length: number, what: string, idle = false): Promise<Buffer> {
    const out = Buffer.allocUnsafe(length);
    await this.#readInto(out, what, idle);
    return out;
  }

  async #readInto(target: Uint8Array, what: string, idle = false): Promise<void> {
    let filled = 0;
    while (filled < target.byteLength) {
      const chunk = this.#chunks[0];
      if (!chunk) {
        // What came before the loss is still read: the last words of a peer count.
        if (this.#error) throw this.#error;
        await this.#moreData(what, idle && filled === 0);
        continue;
      }
      const take = Math.min(chunk.byteLength, target.byteLength - filled);
      target.set(chunk.subarray(0, take), filled);
      filled += take;
      this.#queuedBytes -= take;
      if (take === chunk.byteLength) this.#chunks.shift();
      else this.#chunks[0] = chunk.subarray(take);
      if (this.#queuedBytes <= READ_AHEAD_BYTES / 2 && this.#socket.isPaused()) this.#socket.resume();
    }
  }

  async #moreData(what: string, idle: boolean): Promise<void> {
    const wake = (this.#wake = new Deferred<void>());
    const timer = idle
      ? null
      : afterPatience(this.#patienceMs, () => {
          wake.reject(
            new TimeoutError(`checkpoint channel: no ${what} from the peer within ${this.#patienceMs} ms`),
          );
        });
    try {
      await wake.promise;
    } finally {
      timer?.cancel();
      this.#wake = null;
    }
  }

  /** In pieces, each with a deadline: a frozen peer stops taking bytes, one that takes some is only slow. */
  async #write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.byteLength; at += WRITE_PIECE_BYTES) {
      await this.#writePiece(bytes.subarray(at, at + WRITE_PIECE_BYTES));
    }
  }

  async #writePiece(piece: Uint8Array): Promise<void> {
    if (this.#error) throw this.#error;
    const sent = new Deferred<void>();
    const timer = afterPatience(this.#patienceMs, () => {
      sent.reject(
        new TimeoutError(`checkpoint channel: the peer takes no data since ${this.#patienceMs} ms`),
      );
    });
    this.#unsent.add(sent);
    this.#socket.write(piece, (error) => {
      if (error) sent.reject(this.#error ?? error);
      else sent.resolve();
    });
    try {
      await sent.promise;
    } finally {
      timer.cancel();
      this.#unsent.delete(sent);
    }
  }

  #fail(reason: Error): void {
    if (this.#error) return;
    this.#error = reason;
    this.#wake?.resolve();
    for (const sent of this.#unsent) sent.reject(reason);
    this.#closed.resolve(reason);
  }
}

/**
 * A timer whose `act` runs only after the event loop has looked at its sockets once more. In a process that stood still
 * (SIGSTOP, a suspended host) every timer is due at once, before what the peer has sent meanwhile has been read.
 */
function afterPatience(ms: number, act: () => void): { cancel(): void } {
  let lastLook: NodeJS.Immediate | null = null;
  const timer = setTimeout(() => {
    // The first comes after the sockets of this turn; reading may take a turn more.
    lastLook = setImmediate(() => {
      lastLook = setImmediate(act);
    });
  }, ms);
  return {
    cancel: () => {
      clearTimeout(timer);
      if (lastLook) clearImmediate(lastLook);
    },
  };
}

/** Pages with four bytes of index each, and an engine's own header. */
function maxRamSection(ramBytes: number): number {
  return ramBytes + (ramBytes / 4096) * 8 + 64 * 1024;
}
