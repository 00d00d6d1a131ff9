/**
 * COLO_COMPARE_REQUEST: a comparer has asked for a checkpoint, and why. An event of ours (QEMU's comparer tells nobody);
 * its members follow QEMU's habits. How often it is sent is events.ts's.
 */
import type { CheckpointReason } from '../net/compare/options.ts';

/** `flow` is what net/flow-table.ts calls it; `difference` is there when two packets were set against each other. */
export function compareRequestData(id: string, reason: CheckpointReason): Record<string, unknown> {
  const { cause, flow, difference } = reason;
  return {
    id,
    cause,
    flow,
    ...(difference
      ? {
          difference: {
            'packet-offset': difference.packetOffset,
            'payload-offset': difference.payloadOffset,
            'primary-byte': difference.primaryByte,
            'secondary-byte': difference.secondaryByte,
          },
        }
      : {}),
  };
}
