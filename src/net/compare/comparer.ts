/**
 * What compares the two sides of one flow. The primary's packets are queued by the connection and judged one at a time,
 * in order; the secondary's are digested at once into whatever the comparer remembers of them.
 */
import type { FlowKey } from '../flow-key.ts';
import type { HeldPacket } from './held-packet.ts';

/** `wait`: the secondary has not said enough yet. `mismatch`: what it has said does not fit. */
export type Verdict = 'release' | 'wait' | 'mismatch';

/** Why a checkpoint was asked for. */
export type CheckpointCause =
  'payload' | 'length' | 'timeout' | 'queue-full' | 'new-connection' | 'protocol' | 'ack';

/** The first byte that differs. */
export interface FirstDifference {
  /** From the first byte of the Ethernet header of the primary's packet. */
  readonly packetOffset: number;
  /** From the first byte of it that is compared. */
  readonly payloadOffset: number;
  /** What the primary says there, 0 to 255. */
  readonly primaryByte: number;
  /** What the secondary says there, 0 to 255. */
  readonly secondaryByte: number;
}

export interface CheckpointReason {
  readonly cause: CheckpointCause;
  /** `protocol/source:port>destination:port` (net/flow-text.ts), or a word in parentheses. */
  readonly flow: string;
  /** A copy of the flow's key; null when it is about no flow. */
  readonly key: FlowKey | null;
  /** When two bytes were found to differ. */
  readonly difference: FirstDifference | null;
}

export interface FlowComparer {
  /** After a verdict other than `release`: what it was about; `timeout` for one that only waits. */
  readonly cause: CheckpointCause;
  /** After a mismatch: the offset in the judged packet's `bytes` of the first byte that differs, or -1. */
  readonly differenceAt: number;
  /** What the secondary has said there. */
  readonly secondaryByte: number;
  /** Memory and things kept of the secondary's. */
  readonly secondaryBytes: number;
  readonly secondaryItems: number;
  /** When the oldest unmatched thing of the secondary's arrived that must be matched, or null. */
  readonly secondaryOldestMs: number | null;
  /** Nothing is lost when what it keeps is forgotten. */
  readonly isIdle: boolean;
  /** A primary packet arrives. `isClosedEpoch`: it was sent before the checkpoint that is being taken. */
  notePrimary(packet: HeldPacket, isClosedEpoch: boolean): void;
  /** True when `packet` must stand before `queued`, which arrived earlier. */
  goesBefore(packet: HeldPacket, queued: HeldPacket): boolean;
  /** A secondary packet arrives, on borrowed bytes. False: the bound is reached, it was dropped. */
  addSecondary(packet: HeldPacket, maxItems: number): boolean;
  /** Copies what is still borrowed. */
  own(): void;
  /** Judges the first packet in the queue. On `release` its twin has been used up. */
  judge(packet: HeldPacket): Verdict;
  /** True when the packet may leave though others wait. */
  mayOvertake(packet: HeldPacket): boolean;
  /** The packet leaves: the secondary has said it, or a checkpoint covers it. */
  released(packet: HeldPacket): void;
  /** What the secondary has said and the primary has not is no difference: it expires. */
  readonly forgetsSurplus: boolean;
  /** Forgets what the secondary has said before then. Returns how many. */
  expire(beforeMs: number): number;
  /** A checkpoint is being taken: what the secondary said so far is void. */
  cut(): void;
  /** The checkpoint is held by the secondary: it equals the primary as of the cut. */
  adopt(): void;
  /** Gives back all that it keeps. It is not used again. */
  dispose(): void;
}
