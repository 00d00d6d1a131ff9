/**
 * COLO_COMPARE_REQUEST: a comparer has asked for a checkpoint, and why. An event of ours (QEMU's comparer tells nobody);
 * its members follow QEMU's habits, ends of a flow those of InetSocketAddress (qapi/sockets.json). How often it is sent
 * is events.ts's.
 */
import type { CheckpointReason } from '../net/compare/options.ts';
import type { FlowKey } from '../net/flow-key.ts';
import { destinationText, protocolText, sourceText, vlansOf } from '../net/flow-text.ts';

/** `flow` is absent when it is about none, `difference` when no two bytes were found to differ. */
export function compareRequestData(id: string, reason: CheckpointReason): Record<string, unknown> {
  const { cause, key, difference } = reason;
  return {
    id,
    cause,
    ...(key ? { flow: flowData(key) } : {}),
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

function flowData(key: FlowKey): Record<string, unknown> {
  const vlans = vlansOf(key);
  const end = (host: string, port: number): Record<string, string> =>
    key.ports === 0 ? { host } : { host, port: String(port) };
  return {
    protocol: protocolText(key),
    source: end(sourceText(key), key.ports >>> 16),
    destination: end(destinationText(key), key.ports & 0xffff),
    ...(vlans.length > 0 ? { vlans } : {}),
  };
}
