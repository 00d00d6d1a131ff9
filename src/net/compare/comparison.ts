/**
 * The judgement of compare.ts: takes classified packets of both sides, holds the primary's, and releases or asks. Knows
 * no chardev and no checkpoint protocol, only their effect: `cut` ends an epoch, `cover` releases what it said.
 *
 * Past a bound a packet is dropped, counted, and a checkpoint asked for: after it both sides agree again, and what was
 * dropped is as a packet lost on the way.
 */
import { MAX_FLOWS } from '../flow-table.ts';
import type { PacketView } from '../packet.ts';
import type { CheckpointCause, CheckpointReason } from './comparer.ts';
import type { Connection } from './connection.ts';
import { ConnectionTable } from './connection-table.ts';
import { FlowKey } from '../flow-key.ts';
import type { HeldPacket } from './held-packet.ts';
import { LatencyHistogram, MAX_SMALL_US } from './latency.ts';
import type { ColoCompareStats } from './options.ts';
import { PacketPool } from './packet-pool.ts';

export interface ComparisonOptions {
  readonly stats: ColoCompareStats;
  readonly maxFlows: number | undefined;
  readonly maxHeldBytes: number;
  /** Lets a packet out; its bytes are valid during the call only. */
  readonly release: (packet: HeldPacket) => void;
  readonly request: (reason: CheckpointReason) => void;
}

export class Comparison {
  readonly pool = new PacketPool();
  readonly table: ConnectionTable;
  readonly heldUntilSaid = new LatencyHistogram();
  readonly heldUntilCheckpoint = new LatencyHistogram();
  readonly maxHeldBytes: number;
  readonly maxFlows: number;
  /** Packets may leave, and checkpoints be asked for. False while one is taken. */
  isOpen = true;
  /** What has been asked for is not there yet. */
  isRequested = false;
  maxQueueSize: number;
  /** Packets of the primary that wait, and what they cost. */
  heldPackets = 0;
  heldBytes = 0;
  /** The time of what is being handled: a field, since a time that is handed on would be an object a packet. */
  #nowMs = 0;
  /** Something of the next epoch was dropped while a checkpoint was taken: that one does not cover it. */
  #isOwed = false;
  readonly #stats: ColoCompareStats;
  readonly #release: (packet: HeldPacket) => void;
  readonly #onRequest: (reason: CheckpointReason) => void;

  constructor(options: ComparisonOptions, maxQueueSize: number) {
    this.#stats = options.stats;
    this.#release = options.release;
    this.#onRequest = options.request;
    this.maxHeldBytes = options.maxHeldBytes;
    this.maxFlows = options.maxFlows ?? MAX_FLOWS;
    this.maxQueueSize = maxQueueSize;
    this.table = new ConnectionTable(this.maxFlows, this.pool);
  }

  /** A packet of the primary, on borrowed bytes. `isClosedEpoch`: it was sent before the last cut. */
  fromPrimary(view: PacketView, packet: HeldPacket, isClosedEpoch: boolean): void {
    this.#nowMs = packet.atMs;
    const connection = this.table.connectionOf(view, packet.flowClass);
    if (connection === null) {
      this.#stats.droppedPrimary++;
      this.#full(null, isClosedEpoch);
      return;
    }
    const { comparer } = connection;
    comparer.notePrimary(packet, isClosedEpoch);
    if (isClosedEpoch) {
      this.#known(connection);
      if (this.isOpen) this.#coverLate(connection, packet);
      else this.#hold(connection, packet, true);
      return;
    }
    if (!connection.hasPrimarySpoken) this.#speaks(connection, true);
    // The usual case where the secondary is ahead: nothing is copied.
    if (this.isOpen) {
      const isFirst = connection.queue.length === 0;
      if (isFirst ? this.#judge(connection, packet) : comparer.mayOvertake(packet)) {
        if (!packet.isSaid && comparer.mayOvertake(packet)) this.#stats.repeated++;
        this.#letOut(connection, packet);
        this.table.count(connection);
        return;
      }
    }
    this.#hold(connection, packet, false);
  }

  /** A packet of the secondary, on borrowed bytes. */
  fromSecondary(view: PacketView, packet: HeldPacket): void {
    this.#nowMs = packet.atMs;
    const connection = this.table.connectionOf(view, packet.flowClass);
    const hasRoom = this.#hasRoomFor(packet.payloadBytes);
    if (connection === null || !hasRoom || !connection.comparer.addSecondary(packet, this.maxQueueSize)) {
      this.#stats.droppedSecondary++;
      this.#full(connection, false);
      if (connection === null) return;
    }
    if (!connection.hasSecondarySpoken) this.#speaks(connection, false);
    if (this.isOpen) this.#compare(connection);
    connection.comparer.own();
    this.table.count(connection);
  }

  /** Releases from the front of the queue as far as the secondary has come. */
  #compare(connection: Connection): void {
    const { queue } = connection;
    for (let packet = queue.first(); packet !== null; packet = queue.first()) {
      if (!this.#judge(connection, packet)) break;
      connection.dequeue();
      this.#letOut(connection, packet);
      this.#drop(packet);
    }
    this.table.count(connection);
  }

  compareAll(nowMs: number): void {
    this.#nowMs = nowMs;
    for (const connection of this.table.all()) {
      this.#compare(connection);
      if (connection.hasOtherName) this.#request('new-connection', connection, null);
    }
    if (this.#isOwed) this.#request('queue-full', null, null);
    this.#isOwed = false;
  }

  /** Asks again for what has not come, and for what has waited since before `deadlineMs`. */
  scan(deadlineMs: number): void {
    this.isRequested = false;
    for (const connection of this.table.all()) this.#scan(connection, deadlineMs);
  }

  /** An epoch ends here: what waits will leave by the checkpoint, and what the secondary said is void. */
  cut(): void {
    for (const connection of this.table.all()) {
      connection.comparer.cut();
      connection.close();
      this.table.count(connection);
      this.table.siblings.forget(connection);
      connection.hasSecondarySpoken = connection.hasPrimarySpoken;
    }
  }

  /** The secondary holds the checkpoint: what was said before the cut leaves. */
  cover(nowMs: number): void {
    this.#nowMs = nowMs;
    for (const connection of this.table.all()) {
      const { closed, comparer } = connection;
      for (let packet = closed.shift(); packet !== null; packet = closed.shift()) {
        this.#stats.releasedByCheckpoint++;
        this.#recordTime(this.heldUntilCheckpoint, packet);
        comparer.released(packet);
        this.#release(packet);
        this.#drop(packet);
      }
      comparer.adopt();
      this.table.count(connection);
    }
    this.isRequested = false;
  }

  /** Forgets everything. What waits is lost. */
  clear(): void {
    for (const connection of this.table.all()) {
      connection.comparer.cut();
      connection.close();
      for (let packet = connection.closed.shift(); packet !== null; packet = connection.closed.shift()) {
        this.#drop(packet);
      }
    }
    this.table.clear();
  }

  /** What is compared in place needs none, and several pieces for one segment need more; close enough for a bound. */
  #hasRoomFor(bytes: number): boolean {
    const cost = this.pool.costOf(bytes);
    return this.heldBytes + this.table.secondaryBytes + cost <= this.maxHeldBytes;
  }

  /** Late, but covered by a checkpoint that the secondary holds. */
  #coverLate(connection: Connection, packet: HeldPacket): void {
    this.#stats.releasedByCheckpoint++;
    this.heldUntilCheckpoint.recordUs(0);
    connection.comparer.released(packet);
    this.#release(packet);
    connection.comparer.adopt();
    // What was judged before it came was judged too early.
    for (let at = 0; at < connection.queue.length; at++) connection.queue.get(at).isDifferent = false;
    this.table.count(connection);
  }

  #hold(connection: Connection, packet: HeldPacket, isClosedEpoch: boolean): void {
    const list = isClosedEpoch ? connection.closed : connection.queue;
    if (!this.#hasRoomFor(packet.end - packet.start) || list.length >= this.maxQueueSize) {
      this.#stats.droppedPrimary++;
      this.#full(connection, isClosedEpoch);
      return;
    }
    const held = this.pool.keep(packet);
    this.heldPackets++;
    this.heldBytes += held.heldBytes;
    if (isClosedEpoch) {
      list.push(held);
      return;
    }
    connection.enqueue(held);
    // It may have come before one that waits for it.
    if (this.isOpen && list.length > 1 && list.first() === held) this.#compare(connection);
    else this.table.count(connection);
  }

  /** True when it may leave. */
  #judge(connection: Connection, packet: HeldPacket): boolean {
    const { comparer } = connection;
    const verdict = comparer.judge(packet);
    if (verdict !== 'mismatch') return verdict === 'release';
    if (!packet.isDifferent) {
      packet.isDifferent = true;
      this.#stats.mismatches++;
      this.#request(comparer.cause, connection, packet);
    }
    return false;
  }

  #scan(connection: Connection, deadlineMs: number): void {
    const { comparer } = connection;
    if (comparer.forgetsSurplus && comparer.secondaryItems > 0) {
      this.#stats.ignored += comparer.expire(deadlineMs);
      this.table.count(connection);
    }
    if (this.isRequested) return;
    const first = connection.queue.first();
    if (first?.isDifferent === true) this.#askAgain(connection, first);
    else if (connection.hasOtherName) this.#request('new-connection', connection, null);
    else this.#askIfLate(connection, deadlineMs);
  }

  /** About a difference that has been counted. */
  #askAgain(connection: Connection, packet: HeldPacket): void {
    packet.isDifferent = false;
    if (connection.comparer.judge(packet) !== 'mismatch') return;
    packet.isDifferent = true;
    this.#request(connection.comparer.cause, connection, packet);
  }

  #letOut(connection: Connection, packet: HeldPacket): void {
    this.#stats.released++;
    this.#recordTime(this.heldUntilSaid, packet);
    connection.comparer.released(packet);
    this.#release(packet);
  }

  /** How long it was held. Whole microseconds are handed on: see latency.ts. */
  #recordTime(histogram: LatencyHistogram, packet: HeldPacket): void {
    const us = (this.#nowMs - packet.atMs) * 1000 + 0.5;
    if (us < MAX_SMALL_US) histogram.recordUs(us > 0 ? us | 0 : 0);
    else histogram.record(this.#nowMs - packet.atMs);
  }

  #drop(packet: HeldPacket): void {
    this.heldPackets--;
    this.heldBytes -= packet.heldBytes;
    this.pool.drop(packet);
  }

  /** A packet was dropped. `isClosedEpoch`: the checkpoint that is taken covers it. */
  #full(connection: Connection | null, isClosedEpoch: boolean): void {
    if (!this.isOpen && !isClosedEpoch) this.#isOwed = true;
    this.#request('queue-full', connection, null);
  }

  /** Both sides know it: the checkpoint that is taken contains it. */
  #known(connection: Connection): void {
    connection.hasPrimarySpoken = true;
    connection.hasSecondarySpoken = true;
    this.table.siblings.forget(connection);
  }

  #speaks(connection: Connection, isPrimary: boolean): void {
    if (isPrimary) connection.hasPrimarySpoken = true;
    else connection.hasSecondarySpoken = true;
    if (connection.hasPrimarySpoken && connection.hasSecondarySpoken) {
      this.table.siblings.forget(connection);
      return;
    }
    const lost = this.table.siblings.spoke(connection, isPrimary);
    if (lost !== null) this.#request('new-connection', lost, null);
  }

  #askIfLate(connection: Connection, deadlineMs: number): void {
    const oldest = connection.oldestMs;
    if (oldest === null || oldest >= deadlineMs) return;
    this.#stats.timeouts++;
    const isHeld = connection.queue.length > 0;
    if (isHeld && !connection.hasSecondarySpoken) this.#request('new-connection', connection, null);
    else if (isHeld && connection.comparer.cause === 'ack') this.#request('ack', connection, null);
    else this.#request('timeout', connection, null);
  }

  /** `packet`: which was found to differ, right now. */
  #request(cause: CheckpointCause, connection: Connection | null, packet: HeldPacket | null): void {
    // The one that is being taken answers it.
    if (this.isRequested || !this.isOpen) return;
    this.isRequested = true;
    this.#stats.requests++;
    this.#stats.requestsByCause[cause]++;
    this.#onRequest({
      cause,
      flow: connection?.text ?? '(connections)',
      key: connection === null ? null : new FlowKey().copy(connection.key),
      difference: packet === null || connection === null ? null : differenceOf(packet, connection),
    });
  }
}

function differenceOf(packet: HeldPacket, { comparer }: Connection): CheckpointReason['difference'] {
  const at = comparer.differenceAt;
  if (at < 0) return null;
  return {
    packetOffset: at - packet.ethernetAt,
    payloadOffset: at - packet.from,
    primaryByte: packet.bytes[at]!,
    secondaryByte: comparer.secondaryByte,
  };
}
