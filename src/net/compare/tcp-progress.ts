/**
 * How far one side of a TCP connection has come, and what of it has been compared. Sequence numbers are signed and taken
 * as RFC 793 does.
 */
import { laterOf, sequenceDifference } from '../packet.ts';
import type { HeldPacket } from './held-packet.ts';

/**
 * How far back a sender can repeat: the largest window there is (RFC 7323, 2.3). What lies before that, or before the
 * first byte that was compared, is no repetition.
 */
const REPEATED_BYTES = 2 ** 30;

/** What one side has said so far, beyond the bytes. */
export class Progress {
  end: number | null = null;
  ack: number | null = null;
  initial: number | null = null;
  generation = 0;

  note(packet: HeldPacket): void {
    if (packet.isSyn && packet.sequence !== this.initial) {
      this.generation++;
      this.initial = packet.sequence;
      this.end = null;
      this.ack = null;
    }
    // The number of a RST need not belong to the stream at all.
    if (packet.isReset) return;
    this.end = this.end === null ? packet.sequenceEnd : laterOf(packet.sequenceEnd, this.end);
    if (!packet.isAck) return;
    this.ack = this.ack === null ? packet.acknowledgment : laterOf(packet.acknowledgment, this.ack);
  }

  copy(other: Progress): void {
    this.end = other.end;
    this.ack = other.ack;
    this.initial = other.initial;
    this.generation = other.generation;
  }
}

/** The part of the primary's stream that has been released: said by both, or covered by a checkpoint. */
export class ReleasedRange {
  /** Of the connection that it belongs to (HeldPacket.generation). */
  generation = 0;
  start = 0;
  /** Null before the first byte. */
  end: number | null = null;

  isOf(generation: number): boolean {
    return this.end !== null && this.generation === generation;
  }

  /** Nothing has been released yet, and what comes first stands at `sequence`. */
  beginAt(sequence: number, generation: number): void {
    this.generation = generation;
    this.start = sequence;
    this.end = sequence;
  }

  /** All that a sender can still repeat has been released, up to `end`. */
  coverTo(end: number | null, generation: number): void {
    this.generation = generation;
    this.end = end;
    if (end !== null) this.start = (end - REPEATED_BYTES) | 0;
  }

  /** The packet follows without a gap, or begins the range. */
  add(packet: HeldPacket): number {
    const { generation, sequenceEnd } = packet;
    if (this.end === null || this.generation !== generation) this.beginAt(packet.sequence, generation);
    this.end = this.end === null ? sequenceEnd : laterOf(sequenceEnd, this.end);
    this.start = laterOf((this.end - REPEATED_BYTES) | 0, this.start);
    return this.end;
  }

  /** All of the packet lies in it. */
  includes(packet: HeldPacket): boolean {
    return (
      this.end !== null &&
      this.generation === packet.generation &&
      sequenceDifference(packet.sequence, this.start) >= 0 &&
      sequenceDifference(packet.sequenceEnd, this.end) <= 0
    );
  }
}
