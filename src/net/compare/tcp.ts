/**
 * Compares one TCP connection as two byte streams. Facts on QEMU's rules: docs/qemu-behaviour.md 3.5; the sequence
 * arithmetic is RFC 793's. How the two sides cut their streams into segments, what they send twice, windows, options,
 * time stamps and IP header fields are held against nobody. A primary packet is released when
 *
 *  - every byte it carries, and its FIN, has been said by the secondary at the same place of the stream (or was
 *    released before: a retransmission);
 *  - a SYN or SYN+ACK: the secondary has said the same kind (its initial number is its own: the rewriter maps it);
 *  - a RST: the secondary has reset the connection too (one with a payload waits for a checkpoint);
 *  - a segment that says nothing, not even an acknowledgment: the secondary has said such a one;
 *  - and its acknowledgment is not ahead of the secondary's own. An acknowledgment promises the client that the data
 *    is held: were it released before the secondary has them, a failover would lose them for good. QEMU waits for any
 *    packet of the secondary's, and lets an acknowledgment that is ahead pass when segment boundaries are equal.
 *
 * State across a checkpoint. The secondary becomes the primary as of the cut. So whatever the primary sent before it
 * (all bytes up to `#closed.end`) is in the checkpoint, and may be repeated without a twin: whichever side repeats a
 * segment depends on timers, and a stream's byte never changes. For the same reason the secondary holds all that the
 * primary had acknowledged (`#closed.ack`). What the secondary itself said before the cut is void, also where it was
 * ahead of the primary: that guest no longer exists.
 *
 * A second SYN with another number on the same flow begins a new `generation`; packets of different ones are never
 * compared.
 */
import { TCP_FLAG, laterOf, sequenceDifference } from '../packet.ts';
import { ByteStore } from './byte-store.ts';
import type { CheckpointCause, FlowComparer, Verdict } from './comparer.ts';
import type { HeldPacket } from './held-packet.ts';
import type { PacketPool } from './packet-pool.ts';
import { Progress, ReleasedRange } from './tcp-progress.ts';

/** Unmatched bytes of a secondary on one connection: more than any window a guest is given. */
export const MAX_SECONDARY_BYTES = 8 * 1024 * 1024;

const SAYING = TCP_FLAG.SYN | TCP_FLAG.FIN | TCP_FLAG.RST | TCP_FLAG.ACK;

export class TcpComparer implements FlowComparer {
  cause: CheckpointCause = 'timeout';
  differenceAt = -1;
  secondaryByte = 0;
  readonly forgetsSurplus = false;
  readonly #primary = new Progress();
  /** The primary's progress at the last cut. */
  readonly #closed = new Progress();
  readonly #store: ByteStore;
  readonly #matched = new ReleasedRange();
  /** The secondary's side of the current epoch. */
  #secondaryAck: number | null = null;
  #secondaryInitial: number | null = null;
  #secondaryGeneration = 0;
  #saidSyn = false;
  #saidSynAck = false;
  #saidReset = false;
  #saidNothing = false;
  /** When a SYN, and a RST, arrived that the primary has not answered with its own. */
  #synAtMs: number | null = null;
  #resetAtMs: number | null = null;
  #primaryReset = false;

  constructor(pool: PacketPool) {
    this.#store = new ByteStore(pool);
  }

  get secondaryBytes(): number {
    return this.#store.heldBytes;
  }

  get secondaryItems(): number {
    return this.#store.pieces;
  }

  get secondaryOldestMs(): number | null {
    const oldest = Math.min(
      this.#store.oldestMs ?? Infinity,
      this.#synAtMs ?? Infinity,
      this.#resetAtMs ?? Infinity,
    );
    return oldest === Infinity ? null : oldest;
  }

  get isIdle(): boolean {
    return this.#store.pieces === 0;
  }

  notePrimary(packet: HeldPacket, isClosedEpoch: boolean): void {
    this.#primary.note(packet);
    packet.generation = this.#primary.generation;
    // Frames of the closed epoch come before all others on their connection, so a copy is exact.
    if (isClosedEpoch) this.#closed.copy(this.#primary);
  }

  /** Lowest sequence number first, as far as both belong to one connection; signals keep their place. */
  goesBefore(packet: HeldPacket, queued: HeldPacket): boolean {
    if (packet.generation !== queued.generation) return false;
    if ((packet.tcpFlags | queued.tcpFlags) & (TCP_FLAG.RST | TCP_FLAG.SYN)) return false;
    return sequenceDifference(packet.sequence, queued.sequence) < 0;
  }

  addSecondary(packet: HeldPacket, maxItems: number): boolean {
    if (packet.isSyn) this.#secondarySyn(packet);
    if (packet.isAck) {
      const ack = packet.acknowledgment;
      this.#secondaryAck = this.#secondaryAck === null ? ack : laterOf(ack, this.#secondaryAck);
    }
    if (packet.isReset) {
      this.#saidReset = true;
      if (!this.#primaryReset) this.#resetAtMs ??= packet.atMs;
      return true;
    }
    const isFin = packet.isFin;
    if (packet.payloadBytes === 0 && !isFin) {
      if (isNothing(packet)) this.#saidNothing = true;
      return true;
    }
    let sequence = packet.payloadSequence;
    let from = packet.from;
    const end = (sequence + packet.payloadBytes) | 0;
    const floor = this.#matched.isOf(this.#secondaryGeneration) ? this.#matched.end : null;
    if (floor !== null) {
      if (sequenceDifference((end + (isFin ? 1 : 0)) | 0, floor) <= 0) return true;
      const spent = sequenceDifference(floor, sequence);
      if (spent > 0) {
        from += Math.min(spent, packet.payloadBytes);
        sequence = floor;
      }
    }
    const bytes = packet.to - from;
    if (this.#store.pieces >= maxItems || this.#store.byteLength + bytes > MAX_SECONDARY_BYTES) return false;
    if (isFin) this.#store.setEnd(end, packet.atMs);
    return bytes === 0 || this.#store.insert(sequence, packet, from, maxItems);
  }

  own(): void {
    this.#store.own();
  }

  judge(packet: HeldPacket): Verdict {
    // What was stored first stays, so it will not become equal.
    if (packet.isDifferent) return 'mismatch';
    this.differenceAt = -1;
    if (packet.generation !== this.#secondaryGeneration) {
      if (packet.generation > this.#secondaryGeneration) return this.#wait();
      this.cause = 'protocol';
      return 'mismatch';
    }
    if (packet.isReset) return this.#judgeReset(packet);
    if (isNothing(packet)) return this.#saidNothing ? 'release' : this.#wait();
    if (packet.isSyn && !this.#matched.includes(packet)) {
      const isSaid = packet.isAck ? this.#saidSynAck : this.#saidSyn;
      if (!isSaid) return this.#wait();
    }
    const verdict = this.#judgeBytes(packet);
    if (verdict !== 'release') return verdict;
    if (!this.#isAcknowledged(packet)) return 'wait';
    this.#advance(packet);
    return 'release';
  }

  mayOvertake(): boolean {
    return false;
  }

  released(): void {
    return;
  }

  expire(): number {
    return 0;
  }

  cut(): void {
    this.#closed.copy(this.#primary);
    this.#store.clear();
    this.#secondaryAck = null;
    this.#saidSyn = false;
    this.#saidSynAck = false;
    this.#saidReset = false;
    this.#saidNothing = false;
    this.#synAtMs = null;
    this.#resetAtMs = null;
    this.#primaryReset = false;
    this.#followClosed();
  }

  adopt(): void {
    const closed = this.#closed;
    if (this.#secondaryGeneration <= closed.generation) this.#followClosed();
    if (this.#secondaryGeneration !== closed.generation) return;
    this.#matched.coverTo(closed.end, closed.generation);
    if (closed.end !== null) this.#store.dropBefore(closed.end);
    if (closed.ack === null) return;
    this.#secondaryAck = this.#secondaryAck === null ? closed.ack : laterOf(closed.ack, this.#secondaryAck);
  }

  dispose(): void {
    this.#store.clear();
  }

  /** The secondary stands where the primary stood, in the same connection. */
  #followClosed(): void {
    this.#secondaryGeneration = this.#closed.generation;
    this.#secondaryInitial = this.#closed.initial;
    this.#matched.coverTo(this.#closed.end, this.#closed.generation);
  }

  #secondarySyn(packet: HeldPacket): void {
    if (packet.sequence !== this.#secondaryInitial) {
      this.#secondaryInitial = packet.sequence;
      this.#secondaryGeneration++;
      this.#store.clear();
      this.#secondaryAck = null;
      this.#saidSyn = false;
      this.#saidSynAck = false;
      this.#saidReset = false;
      this.#synAtMs = packet.atMs;
      this.#resetAtMs = null;
      this.#primaryReset = false;
    }
    if (packet.isAck) this.#saidSynAck = true;
    else this.#saidSyn = true;
  }

  #judgeReset(packet: HeldPacket): Verdict {
    // The number of a RST need not belong to the stream, so there is nothing to compare its bytes with.
    if (!this.#saidReset || packet.payloadBytes > 0) return this.#wait();
    if (!this.#isAcknowledged(packet)) return 'wait';
    this.#primaryReset = true;
    this.#resetAtMs = null;
    return 'release';
  }

  #judgeBytes(packet: HeldPacket): Verdict {
    const end = packet.sequenceEnd;
    const start = packet.payloadSequence;
    const isFin = packet.isFin;
    if (packet.payloadBytes === 0 && !isFin) return 'release';
    // The first bytes since this connection is watched stand where they like, until some have been released.
    const isBegun = this.#matched.isOf(packet.generation);
    if (isBegun && sequenceDifference(start, this.#matched.start) < 0) return this.#wait();
    const matched = isBegun ? (this.#matched.end ?? start) : start;
    if (isBegun && sequenceDifference(end, matched) <= 0) return 'release';
    // A gap: what belongs there was lost on its way here and will be sent again. Only in order can it be checked.
    if (sequenceDifference(start, matched) > 0) return this.#wait();
    const known = Math.max(sequenceDifference(matched, start), packet.verifiedBytes);
    if (known < packet.payloadBytes) {
      const from = packet.from + known;
      const agreement = this.#store.agree((start + known) | 0, packet.bytes, from, packet.to);
      packet.verifiedBytes = known + this.#store.agreedBytes;
      if (agreement === 'different') {
        this.cause = 'payload';
        this.differenceAt = packet.from + packet.verifiedBytes;
        this.secondaryByte = this.#store.differentByte;
        return 'mismatch';
      }
      if (agreement === 'partial') return this.#isCutShort(packet) ? 'mismatch' : this.#wait();
    }
    return this.#judgeEnd(packet, isFin);
  }

  /** All bytes agree; where the stream ends must agree as well. */
  #judgeEnd(packet: HeldPacket, isFin: boolean): Verdict {
    const end = this.#store.end;
    const at = (packet.payloadSequence + packet.payloadBytes) | 0;
    this.cause = 'length';
    if (!isFin) return end !== null && sequenceDifference(at, end) > 0 ? 'mismatch' : 'release';
    if (end === at) return 'release';
    return end !== null || this.#store.hasFrom(at) ? 'mismatch' : this.#wait();
  }

  #wait(): Verdict {
    this.cause = 'timeout';
    return 'wait';
  }

  /** The secondary has closed its stream before the bytes that the primary still sends. */
  #isCutShort(packet: HeldPacket): boolean {
    const end = this.#store.end;
    if (end === null) return false;
    const isBeyond = sequenceDifference((packet.payloadSequence + packet.payloadBytes) | 0, end) > 0;
    if (isBeyond) this.cause = 'length';
    return isBeyond;
  }

  #isAcknowledged(packet: HeldPacket): boolean {
    if (!packet.isAck) return true;
    this.cause = 'ack';
    return this.#secondaryAck !== null && sequenceDifference(packet.acknowledgment, this.#secondaryAck) <= 0;
  }

  #advance(packet: HeldPacket): void {
    if (packet.isSyn) this.#synAtMs = null;
    // One that carries nothing may stand behind bytes that have not come yet.
    if (packet.payloadBytes === 0 && !packet.isFin && !packet.isSyn) return;
    this.#store.dropBefore(this.#matched.add(packet));
  }
}

/** No bytes, no signal, no acknowledgment. */
function isNothing(packet: HeldPacket): boolean {
  return packet.payloadBytes === 0 && (packet.tcpFlags & SAYING) === 0;
}
