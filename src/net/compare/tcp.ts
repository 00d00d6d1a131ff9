/**
 * Compares one TCP connection as two byte streams. Facts on QEMU's rules: docs/qemu-behaviour.md 3.5; the sequence
 * arithmetic is RFC 793's. How the two sides cut their streams into segments, what they send twice, windows, options,
 * time stamps and IP header fields are held against nobody. A primary packet is released when
 *
 *  - every byte it carries, and its FIN, has been said by the secondary at the same place of the stream (or was
 *    released before: a retransmission);
 *  - a SYN or SYN+ACK: the secondary has said the same kind (its initial number is its own: the rewriter maps it);
 *  - a RST: the secondary has reset the connection too;
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

/** Unmatched bytes of a secondary on one connection: more than any window a guest is given. */
export const MAX_SECONDARY_BYTES = 8 * 1024 * 1024;

/** What one side has said so far, beyond the bytes. */
class Progress {
  end: number | null = null;
  ack: number | null = null;
  initial: number | null = null;
  generation = 0;

  note(packet: HeldPacket): void {
    if (packet.has('SYN') && packet.sequence !== this.initial) {
      this.generation++;
      this.initial = packet.sequence;
      this.end = null;
      this.ack = null;
    }
    // The number of a RST need not belong to the stream at all.
    if (packet.has('RST')) return;
    this.end = this.end === null ? packet.sequenceEnd : laterOf(packet.sequenceEnd, this.end);
    if (!packet.has('ACK')) return;
    this.ack = this.ack === null ? packet.acknowledgment : laterOf(packet.acknowledgment, this.ack);
  }

  copy(other: Progress): void {
    this.end = other.end;
    this.ack = other.ack;
    this.initial = other.initial;
    this.generation = other.generation;
  }
}

export class TcpComparer implements FlowComparer {
  cause: CheckpointCause = 'payload';
  readonly #primary = new Progress();
  /** The primary's progress at the last cut. */
  readonly #closed = new Progress();
  readonly #store = new ByteStore();
  /** Everything before it has been released, in generation `#matchedGeneration`; null before the first byte. */
  #matchedEnd: number | null = null;
  #matchedGeneration = 0;
  /** The secondary's side of the current epoch. */
  #secondaryAck: number | null = null;
  #secondaryInitial: number | null = null;
  #secondaryGeneration = 0;
  #saidSyn = false;
  #saidSynAck = false;
  #saidReset = false;
  /** When a SYN or RST arrived that the primary has not answered with its own. */
  #signalAtMs: number | null = null;
  #primaryReset = false;

  get secondaryBytes(): number {
    return this.#store.byteLength;
  }

  get secondaryItems(): number {
    return this.#store.pieces;
  }

  get secondaryOldestMs(): number | null {
    const stored = this.#store.oldestMs;
    if (this.#signalAtMs === null || stored === null) return this.#signalAtMs ?? stored;
    return Math.min(stored, this.#signalAtMs);
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
    if (packet.has('SYN')) this.#secondarySyn(packet);
    if (packet.has('ACK')) {
      const ack = packet.acknowledgment;
      this.#secondaryAck = this.#secondaryAck === null ? ack : laterOf(ack, this.#secondaryAck);
    }
    if (packet.has('RST')) {
      this.#saidReset = true;
      if (!this.#primaryReset) this.#signalAtMs ??= packet.atMs;
      return true;
    }
    const isFin = packet.has('FIN');
    if (packet.payloadBytes === 0 && !isFin) return true;
    let sequence = packet.payloadSequence;
    let bytes = packet.frame.subarray(packet.from, packet.to);
    const end = (sequence + bytes.length) >>> 0;
    if (this.#isMatching(this.#secondaryGeneration)) {
      const floor = this.#matchedEnd!;
      if (sequenceDifference((end + (isFin ? 1 : 0)) >>> 0, floor) <= 0) return true;
      const spent = sequenceDifference(floor, sequence);
      if (spent > 0) {
        bytes = bytes.subarray(Math.min(spent, bytes.length));
        sequence = floor;
      }
    }
    if (this.#store.pieces >= maxItems || this.#store.byteLength + bytes.length > MAX_SECONDARY_BYTES)
      return false;
    if (bytes.length > 0) this.#store.insert(sequence, bytes, packet.atMs);
    if (isFin) this.#store.setEnd(end, packet.atMs);
    return true;
  }

  own(): void {
    this.#store.own();
  }

  judge(packet: HeldPacket): Verdict {
    if (packet.generation !== this.#secondaryGeneration) {
      this.cause = 'protocol';
      return packet.generation > this.#secondaryGeneration ? 'wait' : 'mismatch';
    }
    if (packet.has('RST')) return this.#judgeReset(packet);
    if (packet.has('SYN') && !this.#isRepeated(packet)) {
      const isSaid = packet.has('ACK') ? this.#saidSynAck : this.#saidSyn;
      this.cause = 'protocol';
      if (!isSaid) return 'wait';
    }
    const verdict = this.#judgeBytes(packet);
    if (verdict !== 'release') return verdict;
    if (!this.#isAcknowledged(packet)) return 'wait';
    this.#advance(packet);
    return 'release';
  }

  cut(): void {
    this.#closed.copy(this.#primary);
    this.#store.clear();
    this.#secondaryAck = null;
    this.#saidSyn = false;
    this.#saidSynAck = false;
    this.#saidReset = false;
    this.#signalAtMs = null;
    this.#primaryReset = false;
    this.#followClosed();
  }

  adopt(): void {
    const closed = this.#closed;
    if (this.#secondaryGeneration <= closed.generation) this.#followClosed();
    if (this.#secondaryGeneration !== closed.generation) return;
    this.#matchedEnd = closed.end;
    if (closed.end !== null) this.#store.dropBefore(closed.end);
    if (closed.ack === null) return;
    this.#secondaryAck = this.#secondaryAck === null ? closed.ack : laterOf(closed.ack, this.#secondaryAck);
  }

  /** The secondary stands where the primary stood, in the same connection. */
  #followClosed(): void {
    this.#secondaryGeneration = this.#closed.generation;
    this.#secondaryInitial = this.#closed.initial;
    this.#matchedGeneration = this.#closed.generation;
    this.#matchedEnd = this.#closed.end;
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
      this.#signalAtMs = packet.atMs;
    }
    if (packet.has('ACK')) this.#saidSynAck = true;
    else this.#saidSyn = true;
  }

  #judgeReset(packet: HeldPacket): Verdict {
    this.cause = 'protocol';
    if (!this.#saidReset || !this.#isAcknowledged(packet)) return 'wait';
    this.#primaryReset = true;
    this.#signalAtMs = null;
    return 'release';
  }

  #judgeBytes(packet: HeldPacket): Verdict {
    const end = packet.sequenceEnd;
    const start = packet.payloadSequence;
    const isFin = packet.has('FIN');
    if (packet.payloadBytes === 0 && !isFin) return 'release';
    if (!this.#isMatching(packet.generation)) {
      // The first bytes since this connection is watched. Behind a SYN nothing can have come before them.
      this.#matchedGeneration = packet.generation;
      this.#matchedEnd = start;
      this.#store.dropBefore(start);
    }
    const matched = this.#matchedEnd!;
    if (sequenceDifference(end, matched) <= 0) return 'release';
    this.cause = 'payload';
    // A gap: what belongs there was lost on its way here and will be sent again. Only in order can it be checked.
    if (sequenceDifference(start, matched) > 0) return 'wait';
    const known = Math.max(sequenceDifference(matched, start), packet.verifiedBytes);
    if (known < packet.payloadBytes) {
      const from = packet.from + known;
      const agreement = this.#store.agree((start + known) >>> 0, packet.frame, from, packet.to);
      packet.verifiedBytes = known + this.#store.agreedBytes;
      if (agreement === 'different') return 'mismatch';
      if (agreement === 'partial') return this.#isCutShort(packet) ? 'mismatch' : 'wait';
    }
    return this.#judgeEnd(packet, isFin);
  }

  /** All bytes agree; where the stream ends must agree as well. */
  #judgeEnd(packet: HeldPacket, isFin: boolean): Verdict {
    const end = this.#store.end;
    const at = (packet.payloadSequence + packet.payloadBytes) >>> 0;
    this.cause = 'length';
    if (!isFin) return end !== null && sequenceDifference(at, end) > 0 ? 'mismatch' : 'release';
    if (end === at) return 'release';
    return end !== null || this.#store.hasFrom(at) ? 'mismatch' : 'wait';
  }

  /** The secondary has closed its stream before the bytes that the primary still sends. */
  #isCutShort(packet: HeldPacket): boolean {
    const end = this.#store.end;
    if (end === null) return false;
    const isBeyond = sequenceDifference((packet.payloadSequence + packet.payloadBytes) >>> 0, end) > 0;
    if (isBeyond) this.cause = 'length';
    return isBeyond;
  }

  #isAcknowledged(packet: HeldPacket): boolean {
    if (!packet.has('ACK')) return true;
    this.cause = 'ack';
    return this.#secondaryAck !== null && sequenceDifference(packet.acknowledgment, this.#secondaryAck) <= 0;
  }

  /** Released before, or in the checkpoint. */
  #isRepeated(packet: HeldPacket): boolean {
    return (
      this.#isMatching(packet.generation) && sequenceDifference(packet.sequenceEnd, this.#matchedEnd!) <= 0
    );
  }

  #isMatching(generation: number): boolean {
    return this.#matchedEnd !== null && this.#matchedGeneration === generation;
  }

  #advance(packet: HeldPacket): void {
    if (packet.has('SYN')) this.#signalAtMs = null;
    const isMatching = this.#isMatching(packet.generation);
    if (!isMatching && packet.payloadBytes === 0 && !packet.has('FIN') && !packet.has('SYN')) return;
    const end = packet.sequenceEnd;
    this.#matchedEnd = isMatching ? laterOf(end, this.#matchedEnd!) : end;
    this.#matchedGeneration = packet.generation;
    this.#store.dropBefore(this.#matchedEnd);
  }
}
