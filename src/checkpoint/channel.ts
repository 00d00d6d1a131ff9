/**
 * The checkpoint channel: one TCP or unix connection that carries the dialogue of messages.ts. Every read has a
 * deadline that is counted from the last byte of a message that came, so that a dead or frozen peer ends the dialogue
 * and nothing else. A loss of the connection is noticed at once, also between checkpoints (`closed`). When a deadline
 * passes while this process itself was held up, what has come in the meantime is read before the peer is accused.
 *
 * Beats (heartbeat.ts) go between messages, when both hellos have the feature. They say that a process lives; a reader
 * waits for messages, and its deadline is about who does the work.
 */
import type { Socket } from 'node:net';
import { Deferred } from '../base/async.ts';
import { releaseBuffer } from '../base/buffers.ts';
import { ClosedError, ProtocolError, TimeoutError } from '../base/errors.ts';
import type { HeldFrame, StreamMark } from '../base/participant.ts';
import type { Snapshot } from '../engine/engine.ts';
import { checksumOf } from './checksum.ts';
import { DEFAULT_HEARTBEAT, Heartbeat } from './heartbeat.ts';
import type { HeartbeatHooks, HeartbeatSettings, HeartbeatStatus } from './heartbeat.ts';
import { Inbox } from './inbox.ts';
import type { ColoMessage, Feature, Hello } from './messages.ts';
import {
  COLO_MESSAGE,
  FEATURES,
  HELLO_MAGIC,
  MAX_DEVICE_BYTES,
  MAX_HELD_BYTES,
  MAX_TEXT_BYTES,
  SECTION_CRC_AT,
  SECTION_HEADER_BYTES,
  checkSection,
  decodeBeat,
  encodeBeat,
  encodeFailure,
  encodeHeldOutput,
  encodeHello,
  encodeSectionHeader,
  encodeText,
  hasBody,
  nameOfMessage,
  parseHeldOutput,
  parseHello,
  parseMarks,
  parseSectionHeader,
} from './messages.ts';
import { Outbox } from './outbox.ts';
import { afterPatience } from '../base/patience.ts';

/** Unread bytes beyond which the peer is made to wait. */
const READ_AHEAD_BYTES = 4 * 1024 * 1024;
/** A peer that is silent for so long in the middle of a dialogue is taken for dead. */
export const DEFAULT_PATIENCE_MS = 5_000;

export interface ChannelOptions {
  readonly patienceMs?: number;
  readonly heartbeat?: HeartbeatSettings;
  readonly onHeartbeat?: HeartbeatHooks;
}

/** The peer has said that it gives up; the message has its reason. */
export class PeerFailedError extends ProtocolError {}

export class CheckpointChannel {
  readonly #socket: Socket;
  readonly #patienceMs: number;
  readonly #inbox = new Inbox((word) => {
    const { intervalMs, isDeaf } = decodeBeat(word);
    this.#heartbeat.peerSays(intervalMs, isDeaf);
  });
  readonly #heartbeat: Heartbeat;
  readonly #outbox: Outbox;
  #beat: Buffer;
  #deafBeat: Buffer;
  #isBeating = false;
  #hasSaidWhy = false;
  /** What this side has said of itself, and what the peer knows to do. */
  #hello: Hello | null = null;
  #peerFeatures: readonly string[] | null = null;
  #wake: Deferred<void> | null = null;
  #error: Error | null = null;
  /** Resolves with the reason when the connection is lost or given up. */
  readonly closed: Promise<Error>;
  readonly #closed = new Deferred<Error>();

  constructor(socket: Socket, options: ChannelOptions = {}) {
    const { patienceMs = DEFAULT_PATIENCE_MS, heartbeat = DEFAULT_HEARTBEAT } = options;
    this.#socket = socket;
    this.#patienceMs = patienceMs;
    this.#outbox = new Outbox(socket, patienceMs);
    this.#beat = encodeBeat(heartbeat.intervalMs);
    this.#deafBeat = encodeBeat(heartbeat.intervalMs, true);
    const wire = {
      beat: (isDeaf: boolean) => this.#outbox.tryWrite(isDeaf ? this.#deafBeat : this.#beat),
      isListening: () => !socket.isPaused(),
    };
    this.#heartbeat = new Heartbeat(heartbeat, wire, options.onHeartbeat ?? NOBODY);
    this.closed = this.#closed.promise;
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => {
      if (this.#isBeating) this.#heartbeat.heard();
      const isMessage = this.#inbox.push(chunk);
      if (this.#inbox.bytes > READ_AHEAD_BYTES) socket.pause();
      if (isMessage) this.#wake?.resolve();
    });
    socket.on('error', (cause) =>
      this.#fail(new ClosedError(`checkpoint channel: ${cause.message}`, { cause })),
    );
    socket.on('end', () => this.#fail(new ClosedError('checkpoint channel: the peer closed the connection')));
    socket.on('close', () => this.#fail(new ClosedError('checkpoint channel: the connection is closed')));
  }

  /** When the peer was last heard, or null: it does not beat, or there is no pair yet. */
  get heartbeat(): HeartbeatStatus | null {
    return this.#isBeating && !this.#error ? this.#heartbeat.status() : null;
  }

  /** Bytes in both directions. */
  get traffic(): { readonly sent: number; readonly received: number } {
    return { sent: this.#socket.bytesWritten, received: this.#socket.bytesRead };
  }

  /** The peer has said what it is. */
  get isIntroduced(): boolean {
    return this.#peerFeatures !== null;
  }

  setHeartbeat(settings: HeartbeatSettings): void {
    this.#beat = encodeBeat(settings.intervalMs);
    this.#deafBeat = encodeBeat(settings.intervalMs, true);
    this.#heartbeat.set(settings);
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

  /**
   * Ends the connection, and tells a peer that still listens why, unless that would be in the middle of a message: one
   * that hears nothing of the kind has lost a process, not an ally. Waits for nothing.
   */
  giveUp(reason: Error): void {
    if (!this.#error && !this.#hasSaidWhy && !(reason instanceof PeerFailedError)) {
      this.#outbox.tryWrite(encodeFailure(reason.message));
    }
    this.destroy(reason);
  }

  /** `error`, which has ended the dialogue, or in place of a loss what the peer said last. */
  async explain(error: Error): Promise<Error> {
    if (!this.#error || !this.#inbox.isAtMessage || error instanceof ProtocolError) return error;
    try {
      await this.receive();
    } catch (lastWords) {
      if (lastWords instanceof PeerFailedError) return lastWords;
    }
    return error;
  }

  /** Sends what is queued, then ends. For a refusal that the peer should still read. */
  end(): void {
    this.#socket.end();
  }

  async sendHello(hello: Hello): Promise<void> {
    await this.#outbox.write(encodeHello({ ...hello, features: [...FEATURES] }));
    this.#hello = hello;
    this.#introduced();
  }

  async receiveHello(): Promise<Hello> {
    const magic = await this.#read(HELLO_MAGIC.byteLength, 'hello');
    if (!magic.equals(HELLO_MAGIC)) {
      throw new ProtocolError('checkpoint channel: the peer speaks something else (wrong magic or version)');
    }
    const hello = parseHello(await this.#readText('hello'));
    this.#peerFeatures = hello.features ?? [];
    this.#introduced();
    return hello;
  }

  async send(code: ColoMessage): Promise<void> {
    const out = Buffer.allocUnsafe(4);
    out.writeUInt32BE(code, 0);
    await this.#outbox.write(out);
  }

  async sendFailure(reason: string): Promise<void> {
    this.#hasSaidWhy = true;
    await this.#outbox.write(encodeFailure(reason));
  }

  async sendMarks(marks: readonly StreamMark[]): Promise<void> {
    await this.#outbox.whole(async () => {
      await this.send(COLO_MESSAGE.STREAM_MARKS);
      await this.#outbox.write(encodeText(JSON.stringify(marks)));
    });
  }

  /** The snapshot is given up: its memory is freed. So is sendState's. */
  async sendRamRound(snapshot: Snapshot): Promise<void> {
    await this.#sendSection(COLO_MESSAGE.RAM_ROUND, snapshot.ram, snapshot.pages);
    releaseBuffer(snapshot.ram);
  }

  async sendHeldOutput(frames: readonly HeldFrame[]): Promise<void> {
    await this.#sendSection(COLO_MESSAGE.HELD_OUTPUT, encodeHeldOutput(frames), 0);
  }

  async receiveHeldOutput(): Promise<HeldFrame[]> {
    await this.expect(COLO_MESSAGE.HELD_OUTPUT);
    const { body } = await this.#receiveSection(MAX_HELD_BYTES, 'held output');
    return parseHeldOutput(body);
  }

  /** VMSTATE_SEND with the pages, then VMSTATE_SIZE with the device state. */
  async sendState(snapshot: Snapshot): Promise<void> {
    await this.#sendSection(COLO_MESSAGE.VMSTATE_SEND, snapshot.ram, snapshot.pages);
    releaseBuffer(snapshot.ram);
    await this.#sendSection(COLO_MESSAGE.VMSTATE_SIZE, snapshot.device, 0);
    releaseBuffer(snapshot.device);
  }

  /**
   * The next message's code. `idle`: wait without a deadline (between checkpoints silence is normal); a loss of the
   * connection still ends the wait. A FAILED message becomes an error with the peer's reason.
   */
  async receive(options?: { idle?: boolean }): Promise<number> {
    const code = await this.#readCode(options?.idle ?? false);
    if (!hasBody(code)) this.#inbox.messageRead();
    if (code === COLO_MESSAGE.FAILED) {
      throw new PeerFailedError(`checkpoint channel: the peer gave up: ${await this.#readText('reason')}`);
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

  /**
   * The code leaves at once: the secondary's clock goes by it. What of the header is known before the checksum leaves bit
   * by bit while that is made, since no beat may stand there.
   */
  #sendSection(code: ColoMessage, body: Uint8Array, pages: number): Promise<void> {
    return this.#outbox.whole(async () => {
      await this.send(code);
      const header = encodeSectionHeader({ lengthBytes: body.byteLength, pages, crc: 0 });
      let sent = 0;
      const crc = await checksumOf(body, async (share) => {
        const upTo = Math.floor(share * SECTION_CRC_AT);
        await this.#outbox.write(header.subarray(sent, upTo));
        sent = upTo;
      });
      header.writeUInt32BE(crc, SECTION_CRC_AT);
      await this.#outbox.write(header.subarray(sent));
      await this.#outbox.write(body);
    });
  }

  /** Beats begin when both sides have said that they know them. A plain migration is over too soon for any. */
  #introduced(): void {
    if (this.#hello === null || this.#peerFeatures === null) return;
    if (this.#error || !this.#hello.colo || !this.#has('beat')) return;
    this.#isBeating = true;
    this.#heartbeat.start();
  }

  #has(feature: Feature): boolean {
    return this.#peerFeatures?.includes(feature) ?? false;
  }

  async #receiveSection(maxBytes: number, what: string): Promise<{ body: Uint8Array; pages: number }> {
    const header = parseSectionHeader(await this.#read(SECTION_HEADER_BYTES, what), maxBytes, what);
    // An ArrayBuffer of its own: it will be transferred to the engine's thread.
    const body = new Uint8Array(header.lengthBytes);
    await this.#readInto(body, what);
    this.#inbox.messageRead();
    checkSection(header, await checksumOf(body), what);
    return { body, pages: header.pages };
  }

  async #readText(what: string): Promise<string> {
    const length = (await this.#read(4, what)).readUInt32BE(0);
    if (length > MAX_TEXT_BYTES) {
      throw new ProtocolError(
        `checkpoint channel: ${what} of ${length} bytes, at most ${MAX_TEXT_BYTES} allowed`,
      );
    }
    const text = (await this.#read(length, what)).toString('utf8');
    this.#inbox.messageRead();
    return text;
  }

  async #readCode(idle: boolean): Promise<number> {
    for (;;) {
      const code = this.#inbox.takeCode();
      if (code !== null) return code;
      if (this.#error) throw this.#error;
      await this.#moreData('a message', idle && this.#inbox.bytes === 0);
    }
  }

  async #read(length: number, what: string): Promise<Buffer> {
    const out = Buffer.allocUnsafe(length);
    await this.#readInto(out, what);
    return out;
  }

  async #readInto(target: Uint8Array, what: string): Promise<void> {
    for (let filled = 0; ;) {
      filled += this.#inbox.takeInto(target, filled);
      if (this.#inbox.bytes <= READ_AHEAD_BYTES / 2 && this.#socket.isPaused()) this.#socket.resume();
      if (filled === target.byteLength) return;
      // What came before the loss is still read: the last words of a peer count.
      if (this.#error) throw this.#error;
      await this.#moreData(what, false);
    }
  }

  async #moreData(what: string, idle: boolean): Promise<void> {
    const wake = (this.#wake = new Deferred<void>());
    const endPatience = idle
      ? null
      : afterPatience(this.#patienceMs, () => {
          wake.reject(
            new TimeoutError(`checkpoint channel: no ${what} from the peer within ${this.#patienceMs} ms`),
          );
        });
    try {
      await wake.promise;
    } finally {
      endPatience?.();
      this.#wake = null;
    }
  }

  #fail(reason: Error): void {
    if (this.#error) return;
    this.#error = reason;
    this.#heartbeat.stop();
    this.#wake?.resolve();
    this.#outbox.fail(reason);
    this.#closed.resolve(reason);
  }
}

const NOBODY: HeartbeatHooks = { onSilent: () => undefined, onBack: () => undefined };

/** Pages with four bytes of index each, and an engine's own header. */
function maxRamSection(ramBytes: number): number {
  return ramBytes + (ramBytes / 4096) * 8 + 64 * 1024;
}
