/**
 * colo-compare: holds each packet of the primary guest until the secondary has said the same, or a checkpoint covers
 * it (docs/architecture.md, rule 1). Reads both guests' output from chardevs, writes what is released to a third, and
 * asks for a checkpoint where the two differ or one is late. Facts on QEMU's: docs/qemu-behaviour.md 3. What is
 * compared, and how, is in tcp.ts and datagram.ts; the properties are in options.ts.
 *
 * Not held, as in QEMU: ARP, IPv6, VLAN-tagged and malformed frames of the primary leave at once, uncompared. In
 * theory that breaks rule 1; in practice they carry no connection that is protected (IPv6 is not).
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
import { MAX_FLOWS } from '../flow-table.ts';
import { FrameInput } from '../frame-input.ts';
import { RateLimitedWarning } from '../frame-output.ts';
import { PacketView } from '../packet.ts';
import type { CheckpointCause } from './comparer.ts';
import type { Connection } from './connection.ts';
import { ConnectionTable } from './connection-table.ts';
import { EpochCut } from './epoch-cut.ts';
import { HeldPacket } from './held-packet.ts';
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
  compareTimeoutMs: number;
  maxQueueSize: number;
  readonly #options: ColoCompareOptions;
  readonly #now: () => number;
  readonly #logger = loggerFor('colo-compare');
  readonly #warning = new RateLimitedWarning(this.#logger);
  readonly #primary: FrameInput;
  readonly #secondary: FrameInput;
  readonly #out: ReleaseQueue;
  readonly #notify: NotifyDevice | null;
  readonly #table: ConnectionTable;
  readonly #view = new PacketView();
  readonly #packet = new HeldPacket();
  readonly #primaryCut = new EpochCut();
  readonly #secondaryCut = new EpochCut();
  #mode: Mode;
  #scanCycleMs: number;
  #timer: NodeJS.Timeout | null = null;
  /** Bytes of primary packets in queues. */
  #heldBytes = 0;
  #isRequested = false;
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
    this.maxQueueSize = options.maxQueueSize ?? DEFAULT_MAX_QUEUE_SIZE;
    this.#scanCycleMs = options.expiredScanCycleMs ?? DEFAULT_EXPIRED_SCAN_CYCLE_MS;
    this.#mode = options.bypassUntilStarted ? 'passing' : 'comparing';
    this.#table = new ConnectionTable(options.maxFlows ?? MAX_FLOWS);
    const vnetHdrSupport = options.vnetHdrSupport ?? false;
    this.#primary = new FrameInput({
      chardev: options.primaryIn,
      vnetHdrSupport,
      onFrame: (bytes, from, to, vnetHdrLen, position) =>
        this.#fromPrimary(bytes.subarray(from, to), vnetHdrLen, position),
      onError: (error) => this.#logger.error(`colo-compare '${id}': primary_in: ${error.message}`),
      onOpen: () => {
        this.#primaryCut.reconnected(this.#primary.stream);
        this.#checkDrained();
      },
      onClose: () => this.#checkDrained(),
      onIdle: () => this.#checkDrained(),
    });
    this.#secondary = new FrameInput({
      chardev: options.secondaryIn,
      vnetHdrSupport,
      onFrame: (bytes, from, to, vnetHdrLen, position) =>
        this.#fromSecondary(bytes.subarray(from, to), vnetHdrLen, position),
      onError: (error) => this.#logger.error(`colo-compare '${id}': secondary_in: ${error.message}`),
      onOpen: () => this.#secondaryCut.reconnected(this.#secondary.stream),
    });
    this.#out = new ReleaseQueue(options.outdev, vnetHdrSupport);
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

  /** Packets of the primary that wait. */
  get heldPackets(): number {
    let count = 0;
    for (const connection of this.#table.all()) count += connection.queue.length + connection.closed.length;
    return count;
  }

  get connections(): number {
    return this.#table.size;
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

  /** Asks for a checkpoint when something has waited longer than `compare_timeout`. The timer calls it. */
  scan(): void {
    this.#isRequested = false;
    if (this.#mode !== 'comparing') return;
    const deadline = this.#now() - this.compareTimeoutMs;
    for (const connection of this.#table.all()) {
      const oldest = connection.oldestMs;
      if (oldest === null || oldest >= deadline) continue;
      this.stats.timeouts++;
      const isAckHeld = connection.queue.length > 0 && connection.comparer.cause === 'ack';
      this.#request(isAckHeld ? 'ack' : 'timeout', connection.text);
      return;
    }
  }

  /** A checkpoint was taken by somebody else: releases what the primary has said, forgets what the secondary has. */
  flush(): void {
    for (const connection of this.#table.all()) {
      connection.comparer.cut();
      this.#close(connection);
      this.#releaseClosed(connection);
      connection.comparer.adopt();
      this.#table.count(connection);
    }
    this.#isRequested = false;
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
    this.#table.clear();
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
    this.#mode = 'closing';
    this.#primaryCut.at(this.#saidByPrimary());
    this.#secondaryCut.open();
    for (const connection of this.#table.all()) {
      connection.comparer.cut();
      this.#close(connection);
      this.#table.count(connection);
    }
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
    for (const connection of this.#table.all()) {
      for (const { frame } of connection.closed) frames.push({ netdev, frame });
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
    for (const connection of this.#table.all()) {
      this.#releaseClosed(connection);
      connection.comparer.adopt();
    }
    this.#mode = 'comparing';
    this.#isRequested = false;
    this.#isPaired = true;
    for (const connection of this.#table.all()) this.#compare(connection);
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
      this.#table.clear();
      this.#heldBytes = 0;
      this.#mode = 'passing';
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
    this.#mode = 'comparing';
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

  #fromPrimary(frame: Uint8Array, vnetHdrLen: number, position: number): void {
    this.stats.primaryIn++;
    const view = this.#view;
    view.parse(frame, this.#options.vnetHdrSupport ? vnetHdrLen : 0);
    if (!view.isComparable || this.#mode === 'passing') {
      this.stats.forwarded++;
      this.#out.send(frame, 0, frame.length, vnetHdrLen);
      return;
    }
    const isClosedEpoch = this.#primaryCut.covers(position);
    const connection = this.#table.connectionOf(view);
    if (connection === null) {
      this.stats.droppedPrimary++;
      this.#request('queue-full', '(connections)');
      return;
    }
    const packet = this.#packet.fill(frame, vnetHdrLen, view, this.#now());
    connection.comparer.notePrimary(packet, isClosedEpoch);
    if (isClosedEpoch && this.#mode === 'comparing') {
      // Late, but covered by a checkpoint that the secondary holds.
      this.stats.releasedByCheckpoint++;
      this.#out.send(frame, 0, frame.length, vnetHdrLen);
      connection.comparer.adopt();
      return;
    }
    // The usual case where the secondary is ahead: nothing is copied.
    if (this.#mode === 'comparing' && connection.queue.length === 0) {
      if (this.#judge(connection, packet) === 'release') {
        this.#release(packet);
        this.#table.count(connection);
        return;
      }
    }
    this.#hold(connection, packet, isClosedEpoch);
  }

  #fromSecondary(frame: Uint8Array, vnetHdrLen: number, position: number): void {
    this.stats.secondaryIn++;
    if (this.#mode === 'passing' || this.#secondaryCut.covers(position)) {
      this.stats.stale++;
      return;
    }
    const view = this.#view;
    view.parse(frame, this.#options.vnetHdrSupport ? vnetHdrLen : 0);
    if (!view.isComparable) {
      this.stats.ignored++;
      return;
    }
    const connection = this.#table.connectionOf(view);
    const isFull = this.#heldBytes + this.#table.secondaryBytes >= this.#maxHeldBytes;
    const packet = this.#packet.fill(frame, vnetHdrLen, view, this.#now());
    if (connection === null || isFull || !connection.comparer.addSecondary(packet, this.maxQueueSize)) {
      this.stats.droppedSecondary++;
      this.#request('queue-full', connection?.text ?? '(connections)');
      return;
    }
    if (this.#mode === 'comparing') this.#compare(connection);
    connection.comparer.own();
    this.#table.count(connection);
  }

  get #maxHeldBytes(): number {
    return this.#options.maxHeldBytes ?? MAX_HELD_BYTES;
  }

  #hold(connection: Connection, packet: HeldPacket, isClosedEpoch: boolean): void {
    const list = isClosedEpoch ? connection.closed : connection.queue;
    const isFull = this.#heldBytes + this.#table.secondaryBytes >= this.#maxHeldBytes;
    if (isFull || list.length >= this.maxQueueSize) {
      this.stats.droppedPrimary++;
      this.#request('queue-full', connection.text);
      return;
    }
    const held = packet.held();
    this.#heldBytes += held.frame.length;
    if (isClosedEpoch) {
      connection.closed.push(held);
      return;
    }
    connection.enqueue(held);
    // It may have come before one that waits for it.
    if (this.#mode === 'comparing' && connection.queue.length > 1 && connection.queue[0] === held) {
      this.#compare(connection);
    }
  }

  /** Releases from the front of the queue as far as the secondary has come. */
  #compare(connection: Connection): void {
    const queue = connection.queue;
    let released = 0;
    for (const packet of queue) {
      if (this.#judge(connection, packet) !== 'release') break;
      this.#heldBytes -= packet.frame.length;
      this.#release(packet);
      released++;
    }
    if (released > 0) queue.splice(0, released);
    this.#table.count(connection);
  }

  #judge(connection: Connection, packet: HeldPacket): 'release' | 'wait' {
    const verdict = connection.comparer.judge(packet);
    if (verdict !== 'mismatch') return verdict;
    this.stats.mismatches++;
    this.#request(connection.comparer.cause, connection.text);
    return 'wait';
  }

  #release(packet: HeldPacket): void {
    this.stats.released++;
    this.#out.send(packet.frame, 0, packet.frame.length, packet.vnetHdrLen);
  }

  #close(connection: Connection): void {
    if (connection.queue.length === 0) return;
    connection.closed = connection.closed.concat(connection.queue);
    connection.queue = [];
  }

  #releaseClosed(connection: Connection): void {
    for (const packet of connection.closed) {
      this.#heldBytes -= packet.frame.length;
      this.stats.releasedByCheckpoint++;
      this.#out.send(packet.frame, 0, packet.frame.length, packet.vnetHdrLen);
    }
    connection.closed = [];
  }

  #request(cause: CheckpointCause, flow: string): void {
    // The one that is being taken answers it.
    if (this.#isRequested || this.#mode !== 'comparing') return;
    this.#isRequested = true;
    this.stats.requests++;
    this.#logger.debug({ cause, flow }, `colo-compare '${this.id}' asks for a checkpoint`);
    if (this.#notify) this.#notify.requestCheckpoint();
    else this.onCheckpointRequest?.({ cause, flow });
  }
}
