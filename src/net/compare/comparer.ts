/**
 * What compares the two sides of one flow. The primary's packets are queued by the connection and judged one at a time,
 * in order; the secondary's are digested at once into whatever the comparer remembers of them.
 */
import type { HeldPacket } from './held-packet.ts';

/** `wait`: the secondary has not said enough yet. `mismatch`: what it has said can never fit. */
export type Verdict = 'release' | 'wait' | 'mismatch';

/** Why a checkpoint was asked for. */
export type CheckpointCause =
  'payload' | 'length' | 'timeout' | 'queue-full' | 'new-connection' | 'protocol' | 'ack';

export interface FlowComparer {
  /** After a verdict other than `release`: what it was about. */
  readonly cause: CheckpointCause;
  /** Bytes and things remembered of the secondary's. */
  readonly secondaryBytes: number;
  readonly secondaryItems: number;
  /** When the oldest unmatched thing of the secondary's arrived, or null. */
  readonly secondaryOldestMs: number | null;
  /** A primary packet arrives. `isClosedEpoch`: it was sent before the checkpoint that is being taken. */
  notePrimary(packet: HeldPacket, isClosedEpoch: boolean): void;
  /** True when `packet` must stand before `queued`, which arrived earlier. */
  goesBefore(packet: HeldPacket, queued: HeldPacket): boolean;
  /** A secondary packet arrives, as a view. False: the bound is reached, it was dropped. */
  addSecondary(packet: HeldPacket, maxItems: number): boolean;
  /** Copies what is still a view. */
  own(): void;
  /** Judges the first packet in the queue. On `release` its twin has been used up. */
  judge(packet: HeldPacket): Verdict;
  /** A checkpoint is being taken: what the secondary said so far is void. */
  cut(): void;
  /** The checkpoint is held by the secondary: it equals the primary as of the cut. */
  adopt(): void;
}
