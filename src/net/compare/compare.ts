/**
 * colo-compare: holds each packet of the primary guest until the secondary has said the same, or a checkpoint covers
 * it (docs/architecture.md, rule 1). Reads both guests' output from chardevs, writes what is released to a third, and
 * asks for a checkpoint where the two differ or one is late. Facts on QEMU's: docs/qemu-behaviour.md 3. What is compared
 * with what is in classify.ts, how in tcp.ts, datagram.ts and statement.ts, what is held and asked in comparison.ts; the
 * properties are in options.ts. Its part in a checkpoint is in epochs.ts. Nothing leaves uncompared (QEMU lets pass what
 * is not IPv4).
 */
import { loggerFor } from '../../base/logger.ts';
import type { CheckpointParticipant, HeldFrame, Role, StreamMark } from '../../base/participant.ts';
import { FrameInput } from '../frame-input.ts';
import { PacketView } from '../packet.ts';
import { classify } from './classify.ts';
import { Comparison } from './comparison.ts';
import { Epochs } from './epochs.ts';
import type { Mode } from './epochs.ts';
import { HeldPacket } from './held-packet.ts';
import type { LatencyHistogram } from './latency.ts';
import { RecentLatency } from './recent-latency.ts';
import type { RecentSummary } from './recent-latency.ts';
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
  readonly #primary: FrameInput;
  readonly #secondary: FrameInput;
  readonly #out: ReleaseQueue;
  readonly #notify: NotifyDevice | null;
  readonly #comparison: Comparison;
  readonly #epochs: Epochs;
  readonly #recent: RecentLatency;
  readonly #view = new PacketView();
  readonly #packet = new HeldPacket();
  /** The clock is read once for all frames of a chunk; negative: not yet. */
  #chunkMs = -1;
  #scanCycleMs: number;
  #timer: NodeJS.Timeout | null = null;
  #closed = false;

  /** Takes the chardevs, all or none. Throws ChardevInUseError. */
  constructor(id: string, options: ColoCompareOptions) {
    this.id = id;
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.compareTimeoutMs = options.compareTimeoutMs ?? DEFAULT_COMPARE_TIMEOUT_MS;
    this.#scanCycleMs = options.expiredScanCycleMs ?? DEFAULT_EXPIRED_SCAN_CYCLE_MS;
    const vnetHdrSupport = options.vnetHdrSupport ?? false;
    this.#primary = new FrameInput({
      chardev: options.primaryIn,
      vnetHdrSupport,
      onFrame: (bytes, from, to, vnetHdrLen) => this.#fromPrimary(bytes, from, to, vnetHdrLen),
      onError: (error) => this.#failed('primary_in', error),
      onOpen: () => this.#epochs.primaryConnected(),
      onClose: () => this.#epochs.checkDrained(),
      onIdle: () => {
        this.#chunkMs = -1;
        this.#epochs.checkDrained();
      },
    });
    this.#secondary = new FrameInput({
      chardev: options.secondaryIn,
      vnetHdrSupport,
      onFrame: (bytes, from, to, vnetHdrLen) => this.#fromSecondary(bytes, from, to, vnetHdrLen),
      onError: (error) => this.#failed('secondary_in', error),
      onOpen: () => this.#epochs.secondaryConnected(),
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
        release: ({ bytes, start, end, vnetHdrLen }) => this.#letOut(bytes, start, end, vnetHdrLen),
        request: (reason) => this.#request(reason),
      },
      options.maxQueueSize ?? DEFAULT_MAX_QUEUE_SIZE,
    );
    this.#recent = new RecentLatency([this.heldUntilSaid, this.heldUntilCheckpoint], this.#now());
    this.#epochs = new Epochs({
      id,
      options,
      comparison: this.#comparison,
      primary: this.#primary,
      secondary: this.#secondary,
      now: this.#now,
      logger: this.#logger,
    });
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
    return this.#epochs.mode;
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

  /** How long those had waited that were released lately, for either reason. */
  get heldRecently(): RecentSummary {
    return this.#recent.summary(this.#now());
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
    if (this.#epochs.mode === 'comparing') this.#comparison.scan(this.#now() - this.compareTimeoutMs);
    else this.#comparison.isRequested = false;
  }

  /** A checkpoint was taken by somebody else: releases what the primary has said, forgets what the secondary has. */
  flush(): void {
    this.#epochs.flush();
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
    this.#epochs.close();
  }

  // -- CheckpointParticipant, primary side only.

  start(role: Role): Promise<void> {
    if (role === 'primary') this.#epochs.begin();
    return Promise.resolve();
  }

  stopped(role: Role): StreamMark[] {
    if (role === 'primary') this.#epochs.stopped();
    return [];
  }

  peerMarks(role: Role, marks: readonly StreamMark[]): Promise<void> {
    if (role === 'primary') this.#epochs.peerMarks(marks);
    return Promise.resolve();
  }

  heldOutput(): Promise<HeldFrame[]> {
    return this.#epochs.heldOutput();
  }

  resumed(role: Role): void {
    // A frame that calls no `start` is served all the same.
    if (role === 'primary' && this.#epochs.mode === 'passing') this.#epochs.begin();
  }

  async commit(role: Role): Promise<void> {
    if (role === 'primary') await this.#epochs.commit();
  }

  error(): Error | null {
    return null;
  }

  stop(role: Role, failover: boolean): Promise<void> {
    if (role === 'primary') this.#epochs.stop(failover);
    return Promise.resolve();
  }

  /** As in epochs.ts. */
  drainPrimary(): Promise<void> {
    return this.#epochs.drainPrimary();
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

  #failed(input: string, error: Error): void {
    this.#chunkMs = -1;
    this.#logger.error(`colo-compare '${this.id}': ${input}: ${error.message}`);
  }

  #fromPrimary(bytes: Uint8Array, from: number, to: number, vnetHdrLen: number): void {
    this.stats.primaryIn++;
    this.stats.primaryInBytes += to - from;
    if (this.#epochs.mode === 'passing') {
      this.stats.forwarded++;
      this.#letOut(bytes, from, to, vnetHdrLen);
      return;
    }
    const packet = this.#parse(bytes, from, to, vnetHdrLen);
    this.#comparison.fromPrimary(this.#view, packet, this.#epochs.coversPrimary());
  }

  #fromSecondary(bytes: Uint8Array, from: number, to: number, vnetHdrLen: number): void {
    this.stats.secondaryIn++;
    this.stats.secondaryInBytes += to - from;
    if (this.#epochs.mode === 'passing' || this.#epochs.coversSecondary()) {
      this.stats.stale++;
      return;
    }
    this.#comparison.fromSecondary(this.#view, this.#parse(bytes, from, to, vnetHdrLen));
  }

  #letOut(bytes: Uint8Array, from: number, to: number, vnetHdrLen: number): void {
    this.stats.releasedBytes += to - from;
    this.#out.send(bytes, from, to, vnetHdrLen);
  }

  #parse(bytes: Uint8Array, from: number, to: number, vnetHdrLen: number): HeldPacket {
    if (this.#chunkMs < 0) this.#chunkMs = this.#now();
    this.#view.parse(bytes, vnetHdrLen, from, to);
    const packet = this.#packet.fill(bytes, from, to, vnetHdrLen, this.#view);
    packet.atMs = this.#chunkMs;
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
