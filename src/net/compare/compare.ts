/**
 * colo-compare: holds each packet of the primary guest until the secondary has said the same, or a checkpoint covers
 * it (docs/architecture.md, rule 1). Reads both guests' output from chardevs, writes what is released to a third, and
 * asks for a checkpoint where the two differ or one is late. Facts on QEMU's: docs/qemu-behaviour.md 3. What is compared
 * with what is in classify.ts, how in tcp.ts, datagram.ts and statement.ts, what is held and asked in comparison.ts; the
 * properties are in options.ts. Nothing leaves uncompared (QEMU lets pass what is not IPv4).
 *
 * Checkpoints. `stopped` ends an epoch: the primary's packets up to that byte of `primary_in` wait for `commit`, which
 * releases them: the secondary then holds their cause. What comes later, from either side, is of the next epoch: it is
 * kept apart and not judged before the commit. Both streams are cut by position (epoch-cut.ts), so the guest may run
 * again at once and nothing waits for the loopback, except the commit itself, to keep the order.
 */
import { Deferred, withDeadline } from '../../base/async.ts';
import { messageOf } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';
import type { CheckpointParticipant, HeldFrame, Role, StreamMark } from '../../base/participant.ts';
import { FrameInput } from '../frame-input.ts';
import { RateLimitedWarning } from '../frame-output.ts';
import { PacketView } from '../packet.ts';
import { classify } from './classify.ts';
import { Comparison } from './comparison.ts';
import { EpochCut } from './epoch-cut.ts';
import { HeldPacket } from './held-packet.ts';
import type { LatencyHistogram } from './latency.ts';
import { NotifyDevice } from './notify-device.ts';
import {
  DEFAULT_COMPARE_TIMEOUT_MS,
  DEFAULT_EXPIRED_SCAN_CYCLE_MS,
  DEFAULT_MAX_QUEUE_SIZE,
  MAX_HELD_BYTES,
  emptyStats,
} from './options.ts';
import type { CheckpointReason, ColoCompareOptions, ColoCompareStats } from './options.ts';
import { ReleaseQueue } from './release-queue.ts';

const DRAIN_DEADLINE_MS = 1_000;

/**
 * `comparing`; `closing`: a checkpoint is being taken; `passing`: there is no pair, everything leaves at once.
 */
type Mode = 'comparing' | 'closing' | 'passing';

export class ColoCompare implements CheckpointParticipant {
  readonly typeName = 'colo-compare';
  readonly id: string;
  readonly stats: ColoCompareStats = emptyStats();
  /** Called when a checkpoint is needed; not again before one, or before the next scan finds the need unmet. */
  onCheckpointRequest: ((reason: CheckpointReason) => void) | null = null;
  /** Told why, each time one is asked for, whoever takes it (notify_dev or this process). */
  onAsked: ((reason: CheckpointReason) => void) | null = null;
  compareTimeoutMs: number;
  readonly #options: ColoCompareOptions;
  readonly #now: () => number;
  readonly #logger = loggerFor('colo-compare');
  readonly #warning = new RateLimitedWarning(this.#logger);
  readonly #primary: FrameInput;
  readonly #secondary: FrameInput;
  readonly #out: ReleaseQueue;
  readonly #notify: NotifyDevice | null;
  readonly #comparison: Comparison;
  readonly #view = new PacketView();
  readonly #packet = new HeldPacket();
  /** The clock is read once for all frames of a chunk; negative: not yet. */
  #chunkMs = -1;
  readonly #primaryCut = new EpochCut();
  readonly #secondaryCut = new EpochCut();
  #mode: Mode;
  #scanCycleMs: number;
  #timer: NodeJS.Timeout | null = null;
  /** A checkpoint has been committed since `start`: there is a secondary that may take over. */
  #isPaired = false;
  #drained: Deferred<void> | null = null;
  #closed = false;

  /** Takes the chardevs, all or none. Throws ChardevInUseError. */
  constructor(id: string, options: ColoCompareOptions) {
    this.id = id;
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.compareTimeoutMs = options.compareTimeoutMs ?? DEFAULT_COMPARE_TIMEOUT_MS;
    this.#scanCycleMs = options.expiredScanCycleMs ?? DEFAULT_EXPIRED_SCAN_CYCLE_MS;
    this.#mode = options.bypassUntilStarted ? 'passing' : 'comparing';
    const vnetHdrSupport = options.vnetHdrSupport ?? false;
    this.#primary = new FrameInput({
      chardev: options.primaryIn,
      vnetHdrSupport,
      onFrame: (bytes, from, to, vnetHdrLen, position) =>
        this.#fromPrimary(bytes, from, to, vnetHdrLen, position),
      onError: (error) => this.#failed('primary_in', error),
      onOpen: () => {
        this.#primaryCut.reconnected(this.#primary.stream);
        this.#checkDrained();
      },
      onClose: () => this.#checkDrained(),
      onIdle: () => {
        this.#chunkMs = -1;
        this.#checkDrained();
      },
    });
    this.#secondary = new FrameInput({
      chardev: options.secondaryIn,
      vnetHdrSupport,
      onFrame: (bytes, from, to, vnetHdrLen, position) =>
        this.#fromSecondary(bytes, from, to, vnetHdrLen, position),
      onError: (error) => this.#failed('secondary_in', error),
      onOpen: () => this.#secondaryCut.reconnected(this.#secondary.stream),
      onIdle: () => {
        this.#chunkMs = -1;
      },
    });
    this.#out = new ReleaseQueue(options.outdev, vnetHdrSupport);
    this.#comparison = new Comparison(
      {
        stats: this.stats,
        maxFlows: options.maxFlows,
        maxHeldBytes: options.maxHeldBytes ?? MAX_HELD_BYTES,
        release: (packet) => this.#out.send(packet.bytes, packet.start, packet.end, packet.vnetHdrLen),
        request: (reason) => this.#request(reason),
      },
      options.maxQueueSize ?? DEFAULT_MAX_QUEUE_SIZE,
    );
    this.#comparison.isOpen = this.#mode === 'comparing';
    this.#notify = options.notifyDev
      ? new NotifyDevice(options.notifyDev, vnetHdrSupport, () => this.flush())
      : null;
    this.#attach();
    this.#armScan();
  }

  get participantName(): string {
    return this.id;
  }

  get mode(): Mode {
    return this.#mode;
  }

  /** Packets held of each side of a connection. */
  get maxQueueSize(): number {
    return this.#comparison.maxQueueSize;
  }

  set maxQueueSize(packets: number) {
    this.#comparison.maxQueueSize = packets;
  }

  /** How long released packets had waited: until the secondary said the same, or until a checkpoint covered them. */
  get heldUntilSaid(): LatencyHistogram {
    return this.#comparison.heldUntilSaid;
  }

  get heldUntilCheckpoint(): LatencyHistogram {
    return this.#comparison.heldUntilCheckpoint;
  }

  /** Packets of the primary that wait. */
  get heldPackets(): number {
    return this.#comparison.heldPackets;
  }

  /** The memory that they take. */
  get heldBytes(): number {
    return this.#comparison.heldBytes;
  }

  /** Packets, or pieces of streams, of the secondary that the primary has not said. */
  get secondaryPackets(): number {
    return this.#comparison.table.secondaryItems;
  }

  get secondaryBytes(): number {
    return this.#comparison.table.secondaryBytes;
  }

  get connections(): number {
    return this.#comparison.table.size;
  }

  /** Idle connections that were forgotten to make room. */
  get evicted(): number {
    return this.#comparison.table.evicted;
  }

  get maxConnections(): number {
    return this.#comparison.maxFlows;
  }

  /** Of both sides together. */
  get maxHeldBytes(): number {
    return this.#comparison.maxHeldBytes;
  }

  /** Frames of no bytes, from either side. */
  get zeroLengthFrames(): number {
    return this.#primary.zeroLengthFrames + this.#secondary.zeroLengthFrames;
  }

  /** Packets that were released and could not be written to `outdev`. */
  get lostReleases(): number {
    return this.#out.lost;
  }

  get expiredScanCycleMs(): number {
    return this.#scanCycleMs;
  }

  set expiredScanCycleMs(ms: number) {
    this.#scanCycleMs = ms;
    this.#armScan();
  }

  /** As `qom-get` shows them. */
  properties(): Record<string, unknown> {
    return {
      primary_in: this.#options.primaryIn.id,
      secondary_in: this.#options.secondaryIn.id,
      outdev: this.#options.outdev.id,
      iothread: this.#options.iothread ?? '',
      notify_dev: this.#notify?.chardev.id ?? '',
      vnet_hdr_support: this.#options.vnetHdrSupport ?? false,
      compare_timeout: this.compareTimeoutMs,
      expired_scan_cycle: this.#scanCycleMs,
      max_queue_size: this.maxQueueSize,
    };
  }

  /**
   * Asks for a checkpoint when something has waited longer than `compare_timeout`, and again for what was asked for and
   * has not come. The timer calls it.
   */
  scan(): void {
    if (this.#mode === 'comparing') this.#comparison.scan(this.#now() - this.compareTimeoutMs);
    else this.#comparison.isRequested = false;
  }

  /** A checkpoint was taken by somebody else: releases what the primary has said, forgets what the secondary has. */
  flush(): void {
    this.#comparison.cut();
    this.#comparison.cover(this.#now());
  }

  /** Detaches from the chardevs. What is held then is lost; releasing it first is the caller's decision (`flush`). */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#timer) clearInterval(this.#timer);
    this.#timer = null;
    this.#primary.detach();
    this.#secondary.detach();
    this.#out.close();
    this.#notify?.close();
    this.#comparison.clear();
    this.#drained?.resolve();
  }

  // -- CheckpointParticipant, primary side only.

  /** Protection begins: what the primary has said up to here is in the state that the secondary starts from. */
  start(role: Role): Promise<void> {
    if (role === 'primary') this.#begin();
    return Promise.resolve();
  }

  stopped(role: Role): StreamMark[] {
    if (role !== 'primary') return [];
    this.#setMode('closing');
    this.#primaryCut.at(this.#saidByPrimary());
    this.#secondaryCut.open();
    this.#comparison.cut();
    return [];
  }

  peerMarks(role: Role, marks: readonly StreamMark[]): Promise<void> {
    if (role !== 'primary' || this.#mode !== 'closing') return Promise.resolve();
    const mark = this.#secondary.markIn(marks);
    if (mark) this.#secondaryCut.at(mark.bytes);
    else {
      this.#warning.warn(
        `colo-compare '${this.id}': the secondary's mark names no connection of secondary_in: ` +
          'what it sends before the commit is discarded',
      );
      this.#secondaryCut.expect(marks);
    }
    return Promise.resolve();
  }

  /** The closed epoch's packets, once the last of them has come through the loopback. */
  async heldOutput(): Promise<HeldFrame[]> {
    const netdev = this.#options.findOutputNetdev?.();
    if (this.#mode !== 'closing' || netdev === undefined || netdev === null) return [];
    // A packet that is late is only lost to a failover, and comes back by retransmission.
    await this.drainPrimary().catch(() => undefined);
    const frames: HeldFrame[] = [];
    for (const { closed } of this.#comparison.table.all()) {
      for (let at = 0; at < closed.length; at++) {
        const { bytes, start, end } = closed.get(at);
        // They may leave, and their buffers be used again, before this is sent.
        frames.push({ netdev, frame: Buffer.from(bytes.subarray(start, end)) });
      }
    }
    return frames;
  }

  resumed(role: Role): void {
    // A frame that calls no `start` is served all the same.
    if (role === 'primary' && this.#mode === 'passing') this.#begin();
  }

  async commit(role: Role): Promise<void> {
    if (role !== 'primary' || this.#mode !== 'closing') return;
    try {
      await this.drainPrimary();
    } catch (cause) {
      this.#logger.warn(
        `colo-compare '${this.id}': ${messageOf(cause)}; its packets will leave as they come`,
      );
    }
    if (this.#modeNow() !== 'closing') return;
    this.#secondaryCut.settle(this.#secondary.position);
    const nowMs = this.#now();
    this.#comparison.cover(nowMs);
    this.#setMode('comparing');
    this.#isPaired = true;
    this.#comparison.compareAll(nowMs);
  }

  error(): Error | null {
    return null;
  }

  /**
   * `failover`: there is no pair any more; all that waits leaves, and all that comes passes, until `start`. The same
   * holds for a pair that never came to be. Otherwise output stays held: who goes on alone is not decided yet.
   */
  stop(role: Role, failover: boolean): Promise<void> {
    const hasNeverBegun = !this.#isPaired && this.#options.bypassUntilStarted === true;
    if (role === 'primary' && (failover || hasNeverBegun)) {
      this.flush();
      this.#comparison.clear();
      this.#setMode('passing');
      this.#drained?.resolve();
    }
    return Promise.resolve();
  }

  /**
   * Resolves when `primary_in` has read all that its sender had written when the guest stood still. Rejects with
   * TimeoutError after one second. Without a sender in this process there is nothing to wait for.
   */
  async drainPrimary(): Promise<void> {
    if (this.#isDrained()) return;
    this.#drained ??= new Deferred<void>();
    await withDeadline(
      this.#drained.promise,
      DRAIN_DEADLINE_MS,
      'primary_in has not delivered all of the closed epoch',
    );
  }

  #attach(): void {
    const user = `colo-compare ${this.id}`;
    const undo: (() => void)[] = [];
    try {
      this.#primary.attach(user);
      undo.push(() => this.#primary.detach());
      this.#secondary.attach(user);
      undo.push(() => this.#secondary.detach());
      this.#out.attach(user);
      undo.push(() => this.#out.close());
      this.#notify?.attach(user);
    } catch (cause) {
      for (const detach of undo.reverse()) detach();
      throw cause;
    }
  }

  #armScan(): void {
    if (this.#timer) clearInterval(this.#timer);
    this.#timer = setInterval(() => this.scan(), this.#scanCycleMs);
  }

  #begin(): void {
    this.#primaryCut.at(this.#saidByPrimary());
    this.flush();
    this.#isPaired = false;
    this.#setMode('comparing');
  }

  /** Set while `await` was under way, perhaps. */
  #modeNow(): Mode {
    return this.#mode;
  }

  /** How far the guest's output reached at this moment, in bytes of the connection behind `primary_in`. */
  #saidByPrimary(): number {
    const stream = this.#primary.stream;
    const sender = stream === null ? null : this.#options.findSender?.(stream);
    return sender?.connected ? sender.bytesOut : this.#primary.position;
  }

  #isDrained(): boolean {
    return !this.#primary.chardev.connected || this.#primary.position >= this.#primaryCut.upTo;
  }

  #checkDrained(): void {
    if (this.#drained === null || !this.#isDrained()) return;
    this.#drained.resolve();
    this.#drained = null;
  }

  #failed(input: string, error: Error): void {
    this.#chunkMs = -1;
    this.#logger.error(`colo-compare '${this.id}': ${input}: ${error.message}`);
  }

  #setMode(mode: Mode): void {
    this.#mode = mode;
    this.#comparison.isOpen = mode === 'comparing';
  }

  #fromPrimary(bytes: Uint8Array, from: number, to: number, vnetHdrLen: number, position: number): void {
    this.stats.primaryIn++;
    if (this.#mode === 'passing') {
      this.stats.forwarded++;
      this.#out.send(bytes, from, to, vnetHdrLen);
      return;
    }
    const packet = this.#parse(bytes, from, to, vnetHdrLen);
    this.#comparison.fromPrimary(this.#view, packet, this.#primaryCut.covers(position));
  }

  #fromSecondary(bytes: Uint8Array, from: number, to: number, vnetHdrLen: number, position: number): void {
    this.stats.secondaryIn++;
    if (this.#mode === 'passing' || this.#secondaryCut.covers(position)) {
      this.stats.stale++;
      return;
    }
    this.#comparison.fromSecondary(this.#view, this.#parse(bytes, from, to, vnetHdrLen));
  }

  #parse(bytes: Uint8Array, from: number, to: number, vnetHdrLen: number): HeldPacket {
    if (this.#chunkMs < 0) this.#chunkMs = this.#now();
    this.#view.parse(bytes, vnetHdrLen, from, to);
    const packet = this.#packet.fill(bytes, from, to, vnetHdrLen, this.#view, this.#chunkMs);
    classify(this.#view, packet);
    return packet;
  }

  #request(reason: CheckpointReason): void {
    const { cause, flow } = reason;
    this.#logger.debug({ cause, flow }, `colo-compare '${this.id}' asks for a checkpoint`);
    if (this.#notify) this.#notify.requestCheckpoint();
    else this.onCheckpointRequest?.(reason);
    this.onAsked?.(reason);
  }
}
