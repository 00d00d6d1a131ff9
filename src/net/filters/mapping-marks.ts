/**
 * A rewriter's mappings as stream marks, the one thing of a participant's that travels with a checkpoint. A promoted
 * secondary keeps mapping the connections it took over; when it protects itself with a new secondary, that one loads
 * the same guest and must map the same connections, or they die at the next failover. QEMU has no such transfer.
 *
 * Mark: `rewriter/<netdev>/` and up to six entries of 32 hexadecimal digits (source, destination, ports, offset: u32
 * each, in the guest's output direction); `bytes` is the number of entries.
 */
import type { StreamMark } from '../../base/participant.ts';
import { FlowKey } from '../flow-key.ts';
import { ETHERTYPE, PROTOCOL } from '../packet.ts';
import { TcpMapping } from './tcp-mapping.ts';

const ENTRIES_A_MARK = 6;
const ENTRY_DIGITS = 32;
/** A peer may drop marks past 256; the newest connections are worth most. */
export const MAX_MAPPING_MARKS = 128;

/** `mappings`: oldest first. */
export function encodeMappings(netdevId: string, mappings: Iterable<TcpMapping>): StreamMark[] {
  const entries: string[] = [];
  for (const mapping of mappings) {
    if (mapping.offset === 0 || mapping.isClosed || mapping.state !== 'established') continue;
    const { s3, d3, ports } = mapping.key;
    const fields = [s3, d3, ports, mapping.offset];
    entries.push(fields.map((field) => (field >>> 0).toString(16).padStart(8, '0')).join(''));
  }
  const kept = entries.slice(-MAX_MAPPING_MARKS * ENTRIES_A_MARK);
  const marks: StreamMark[] = [];
  for (let at = 0; at < kept.length; at += ENTRIES_A_MARK) {
    const group = kept.slice(at, at + ENTRIES_A_MARK);
    marks.push({ stream: prefix(netdevId) + group.join(''), bytes: group.length });
  }
  return marks;
}

/** The mappings for `netdevId` among a peer's marks; what is malformed is left out. */
export function decodeMappings(netdevId: string, marks: readonly StreamMark[]): TcpMapping[] {
  const start = prefix(netdevId);
  const mappings: TcpMapping[] = [];
  for (const { stream } of marks.slice(0, MAX_MAPPING_MARKS * 2)) {
    if (!stream.startsWith(start)) continue;
    const digits = stream.slice(start.length);
    if (!/^([0-9a-f]{32})+$/.test(digits)) continue;
    for (let at = 0; at < digits.length; at += ENTRY_DIGITS) {
      const field = (index: number): number => parseInt(digits.slice(at + index * 8, at + index * 8 + 8), 16);
      const key = new FlowKey();
      key.etherType = ETHERTYPE.IPV4;
      key.protocol = PROTOCOL.TCP;
      key.s3 = field(0) | 0;
      key.d3 = field(1) | 0;
      key.ports = field(2) | 0;
      const mapping = new TcpMapping(key);
      mapping.offset = field(3);
      mappings.push(mapping);
    }
  }
  return mappings;
}

function prefix(netdevId: string): string {
  return `rewriter/${netdevId}/`;
}
