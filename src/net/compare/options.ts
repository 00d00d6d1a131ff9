/** colo-compare's properties: types, defaults and limits (docs/qemu-behaviour.md 3.1). */
import type { Chardev } from '../../chardev/chardev.ts';
import type { CheckpointCause } from './comparer.ts';

export type { CheckpointReason, FirstDifference } from './comparer.ts';

export const DEFAULT_COMPARE_TIMEOUT_MS = 3_000;
export const DEFAULT_EXPIRED_SCAN_CYCLE_MS = 1_000;
export const DEFAULT_MAX_QUEUE_SIZE = 1_024;
/** Bytes held of both sides together, over all connections. */
export const MAX_HELD_BYTES = 64 * 1024 * 1024;

export interface ColoCompareOptions {
  readonly primaryIn: Chardev;
  readonly secondaryIn: Chardev;
  readonly outdev: Chardev;
  readonly notifyDev?: Chardev | null;
  /** Only shown by qom-get: there are no I/O threads here. */
  readonly iothread?: string;
  readonly vnetHdrSupport?: boolean;
  readonly compareTimeoutMs?: number;
  readonly expiredScanCycleMs?: number;
  /** Packets held of each side of a connection. Each comparer has its own (QEMU: one for the process). */
  readonly maxQueueSize?: number;
  readonly maxHeldBytes?: number;
  readonly maxFlows?: number;
  /** The chardev of this process whose connection is called `incomingStream` by its sender, or null. */
  readonly findSender?: (incomingStream: string) => Chardev | null;
  /** The netdev that what goes to `outdev` ends up on, or null when that is not in this process. */
  readonly findOutputNetdev?: () => string | null;
  /**
   * Until protection has begun, let the primary's packets pass. QEMU (false) holds them, so that a guest's network
   * stands still while its first copy is made.
   */
  readonly bypassUntilStarted?: boolean;
  /** Monotonic milliseconds. */
  readonly now?: () => number;
}

export interface ColoCompareStats {
  /** Frames read from both sides. */
  primaryIn: number;
  secondaryIn: number;
  /** Their bytes. */
  primaryInBytes: number;
  secondaryInBytes: number;
  /** Of all that has left, compared or not. */
  releasedBytes: number;
  /** Released because the secondary said the same. */
  released: number;
  /** Released because a checkpoint covers them. */
  releasedByCheckpoint: number;
  /** Among `released`: statements that had left before and were repeated (statement.ts). */
  repeated: number;
  /** Passed without comparison, since there is no protection. */
  forwarded: number;
  /** Statements of the secondary's that the primary did not say. */
  ignored: number;
  /** Dropped because a bound was reached. */
  droppedPrimary: number;
  droppedSecondary: number;
  /** Secondary frames of an epoch that is over. */
  stale: number;
  mismatches: number;
  timeouts: number;
  requests: number;
  readonly requestsByCause: Record<CheckpointCause, number>;
}

export function emptyStats(): ColoCompareStats {
  return {
    primaryIn: 0,
    secondaryIn: 0,
    primaryInBytes: 0,
    secondaryInBytes: 0,
    releasedBytes: 0,
    released: 0,
    releasedByCheckpoint: 0,
    repeated: 0,
    forwarded: 0,
    ignored: 0,
    droppedPrimary: 0,
    droppedSecondary: 0,
    stale: 0,
    mismatches: 0,
    timeouts: 0,
    requests: 0,
    requestsByCause: {
      payload: 0,
      length: 0,
      timeout: 0,
      'queue-full': 0,
      'new-connection': 0,
      protocol: 0,
      ack: 0,
    },
  };
}
