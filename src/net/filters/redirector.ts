/**
 * filter-redirector: takes packets out of the chain and writes them to `outdev`; injects what comes from `indev` behind
 * its own place in the chain. Facts: docs/qemu-behaviour.md 2.5, 2.7 (QEMU net/filter-mirror.c), with one fault mended:
 * after a reconnect `indev` is read again.
 *
 * On a secondary it also cuts its streams at checkpoints. While the guest stands still `indev` is not read. Of what
 * then waits there, the frames before the primary's mark were the primary guest's input before its state was captured,
 * so the loaded state has seen them: they are discarded. That holds only once the state has been loaded (`commit`); a
 * secondary that fails over from its previous state still needs them.
 *
 * Before the first state (`start` until `peerMarks`) the primary runs on for as long as its RAM travels, and what it
 * mirrors meanwhile is all in that state: it is read and discarded, so that the mirror does not fill up. That is safe
 * because after its first capture the primary stands still until this side has loaded.
 *
 * At failover it turns itself off and says again what the dead primary may not have released (see replay-ring.ts), but
 * for what opens connections. The netdev's wire must be enabled before the event.
 */
import { loggerFor } from '../../base/logger.ts';
import type { CheckpointParticipant, HeldFrame, Role, StreamMark } from '../../base/participant.ts';
import type { Chardev } from '../../chardev/chardev.ts';
import type { Direction, FilterEvent, FilterHost, FilterQueue, FilterTraffic, NetFilter } from '../filter.ts';
import { FrameInput } from '../frame-input.ts';
import { FrameOutput, RateLimitedWarning } from '../frame-output.ts';
import { PacketView, TCP_FLAG } from '../packet.ts';
import { ReplayRing } from './replay-ring.ts';

export interface RedirectorOptions {
  readonly queue: FilterQueue;
  readonly enabled: boolean;
  readonly indev: Chardev | null;
  readonly outdev: Chardev | null;
  readonly vnetHdrSupport: boolean;
  /** Monotonic milliseconds. */
  readonly now?: () => number;
}

export interface RedirectorStats {
  redirected: number;
  injected: number;
  /** Frames that the loaded checkpoint already contained. */
  discarded: number;
  replayed: number;
}

export class RedirectorFilter implements NetFilter, CheckpointParticipant {
  readonly typeName = 'filter-redirector';
  readonly id: string;
  queue: FilterQueue;
  enabled: boolean;
  readonly participant: CheckpointParticipant = this;
  readonly stats: RedirectorStats = { redirected: 0, injected: 0, discarded: 0, replayed: 0 };
  readonly #input: FrameInput | null;
  readonly #output: FrameOutput | null;
  readonly #vnetHdrSupport: boolean;
  readonly #now: () => number;
  readonly #logger = loggerFor('filter-redirector');
  readonly #warning = new RateLimitedWarning(this.#logger);
  readonly #replay = new ReplayRing();
  /** The primary's held output of the checkpoint that is being loaded, and of the one that has been. */
  #pendingHeld: readonly HeldFrame[] = [];
  #held: readonly HeldFrame[] = [];
  #host: FilterHost | null = null;
  /** Set while this side is a protected secondary: only then is there something to replay. */
  #isSecondary = false;
  /** The primary's mark of a checkpoint that is not loaded yet. */
  #pendingMark: StreamMark | null = null;
  /** Frames of the current connection that end at or before this byte are discarded. */
  #discardUpTo = 0;
  /** The first state is on its way: all that is mirrored is in it. */
  #isJoining = false;
  #closed = false;
  #injectedBytes = 0;

  /** Takes both chardevs, or neither. Throws ChardevInUseError. */
  constructor(id: string, options: RedirectorOptions) {
    this.id = id;
    this.queue = options.queue;
    this.enabled = options.enabled;
    this.#vnetHdrSupport = options.vnetHdrSupport;
    this.#now = options.now ?? (() => performance.now());
    this.#output = options.outdev && new FrameOutput(options.outdev, options.vnetHdrSupport);
    this.#input =
      options.indev &&
      new FrameInput({
        chardev: options.indev,
        vnetHdrSupport: options.vnetHdrSupport,
        onFrame: (bytes, from, to) => this.#inject(bytes.subarray(from, to), this.#input?.position ?? 0),
        onError: (error) =>
          this.#logger.error(
            `filter-redirector '${id}': indev '${options.indev?.id ?? ''}': ${error.message}`,
          ),
        onOpen: () => this.#forgetConnection(),
      });
    this.#input?.attach(`filter-redirector ${id}`);
    try {
      this.#output?.attach(`filter-redirector ${id}`);
    } catch (cause) {
      this.#input?.detach();
      throw cause;
    }
  }

  get participantName(): string {
    return this.id;
  }

  get traffic(): FilterTraffic {
    const output = this.#output;
    return {
      framesOut: output?.written ?? 0,
      bytesOut: output?.writtenBytes ?? 0,
      framesLost: output?.lost ?? 0,
      framesIn: this.stats.injected,
      bytesIn: this.#injectedBytes,
    };
  }

  attached(host: FilterHost): void {
    this.#host = host;
  }

  receive(packet: Uint8Array, direction: Direction): boolean {
    if (this.#output === null || this.#closed) return false;
    if (packet.length === 0) return true;
    if (this.#output.write(packet, this.#host?.vnetHeaderBytes ?? 0)) {
      this.stats.redirected++;
    } else {
      const why = this.#output.chardev.connected ? 'its peer does not read' : 'no peer is connected';
      this.#warning.warn(`filter-redirector '${this.id}': a packet was dropped, ${why}`);
    }
    if (this.#isSecondary && direction === 'rx') this.#replay.push(packet, this.#now());
    return true;
  }

  handleEvent(event: FilterEvent): void {
    if (event !== 'failover') return;
    this.enabled = false;
    this.#isSecondary = false;
    // First what the loaded state believes to have said, then what this side has said since.
    const inherited = this.#held.filter(({ netdev }) => netdev === this.#host?.netdevId);
    this.#held = [];
    const own = this.#replay.take(this.#now()).filter((frame) => !this.#opensConnection(frame));
    for (const frame of [...inherited.map(({ frame }) => frame), ...own]) {
      this.stats.replayed++;
      this.#host?.passOn(this, frame, 'rx');
    }
  }

  /**
   * Whether it is a SYN or SYN+ACK: its number is this guest's own, for no rewriter knew another when it was said. A
   * client that has meanwhile got the primary's would find a second beginning within its window (clocks that agree make
   * for numbers that nearly do) and end the connection (RFC 793 3.9; RFC 5961 4 would not, but not every stack has it).
   * One that has not got it loses no more than a packet: the guest repeats its SYN, or the client does.
   */
  #opensConnection(frame: Uint8Array): boolean {
    const view = new PacketView();
    view.parse(frame, this.#host?.vnetHeaderBytes ?? 0);
    return view.isTcp && (view.tcpFlags & TCP_FLAG.SYN) !== 0;
  }

  properties(): Record<string, unknown> {
    return {
      netdev: this.#host?.netdevId ?? '',
      queue: this.queue,
      status: this.enabled ? 'on' : 'off',
      indev: this.#input?.chardev.id ?? '',
      outdev: this.#output?.chardev.id ?? '',
      vnet_hdr_support: this.#vnetHdrSupport,
    };
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#input?.detach();
    this.#output?.detach();
    this.#replay.clear();
  }

  // -- CheckpointParticipant. On the primary there is nothing to do: the comparer cuts the primary's streams.

  start(role: Role): Promise<void> {
    this.#isSecondary = role === 'secondary';
    this.#isJoining = this.#isSecondary;
    return Promise.resolve();
  }

  stopping(role: Role): void {
    if (role !== 'secondary') return;
    this.#isSecondary = true;
    if (!this.#isJoining) this.#input?.chardev.setReading(false);
  }

  stopped(role: Role): StreamMark[] {
    return role === 'secondary' && this.#output ? this.#output.marks() : [];
  }

  peerMarks(role: Role, marks: readonly StreamMark[]): Promise<void> {
    if (role === 'secondary') {
      this.#isJoining = false;
      this.#input?.chardev.setReading(false);
      this.#pendingMark = this.#input?.markIn(marks) ?? null;
    }
    return Promise.resolve();
  }

  peerHeldOutput(frames: readonly HeldFrame[]): void {
    if (this.#output) this.#pendingHeld = frames;
  }

  commit(role: Role): Promise<void> {
    if (role !== 'secondary') return Promise.resolve();
    this.#replay.clear();
    this.#held = this.#pendingHeld;
    this.#pendingHeld = [];
    const mark = this.#pendingMark;
    this.#pendingMark = null;
    // The connection may be another one by now; its frames are all newer than the mark.
    if (mark !== null && mark.stream === this.#input?.stream) this.#discardUpTo = mark.bytes;
    return Promise.resolve();
  }

  resumed(role: Role): void {
    if (role !== 'secondary') return;
    this.#isSecondary = true;
    this.#goOnReading();
  }

  error(): Error | null {
    return null;
  }

  stop(role: Role, failover: boolean): Promise<void> {
    // The ring stays for the failover event, which follows.
    if (role === 'secondary' && !failover) {
      this.#isSecondary = false;
      this.#replay.clear();
    }
    this.#goOnReading();
    return Promise.resolve();
  }

  /** A mark without its commit belongs to a checkpoint that was given up. */
  #goOnReading(): void {
    this.#isJoining = false;
    this.#pendingMark = null;
    this.#input?.chardev.setReading(true);
  }

  #forgetConnection(): void {
    this.#discardUpTo = 0;
    this.#pendingMark = null;
  }

  #inject(frame: Uint8Array, position: number): void {
    if (this.#closed || this.#host === null) return;
    if (this.#isJoining || position <= this.#discardUpTo) {
      this.stats.discarded++;
      return;
    }
    this.stats.injected++;
    this.#injectedBytes += frame.length;
    if (this.queue !== 'rx') this.#host.passOn(this, frame, 'tx');
    if (this.queue !== 'tx') this.#host.passOn(this, frame, 'rx');
  }
}
