/** A rewriter between a guest and a client that are numbers in a test. */
import assert from 'node:assert/strict';
import { RewriterFilter } from '../../../src/net/filters/rewriter.ts';
import { Netdev } from '../../../src/net/netdev.ts';
import { PacketView } from '../../../src/net/packet.ts';
import type { Carrier } from './carriers.ts';
import { carried, carriedToGuest } from './carriers.ts';
import type { TcpFields } from './frames.ts';
import { hasRightChecksum } from './frames.ts';

/** Initial sequence numbers: the primary's, the secondary's, the client's. */
export const P = 0xfffff000;
export const S = 0x00001234;
export const C = 500;

export function setUp(maxFlows?: number, carrier: Carrier = 'ipv4') {
  const netdev = new Netdev({ id: 'hn0' });
  const guest: Uint8Array[] = [];
  const wire: Uint8Array[] = [];
  netdev.guest = (frame) => guest.push(new Uint8Array(frame));
  netdev.wire = (frame) => wire.push(new Uint8Array(frame));
  const rewriter = new RewriterFilter('rew0', {
    queue: 'all',
    enabled: true,
    vnetHdrSupport: false,
    ...(maxFlows !== undefined && { maxFlows }),
  });
  netdev.insert(rewriter);
  const fields = (frames: Uint8Array[]): { seq: number; ack: number } => {
    const frame = frames.at(-1)!;
    assert.ok(hasRightChecksum(frame));
    const view = new PacketView();
    view.parse(frame);
    return { seq: view.sequence, ack: view.acknowledgment };
  };
  return {
    netdev,
    rewriter,
    /** Guest → client; returns what leaves. */
    out: (tcpFields: TcpFields) => {
      netdev.sendFromGuest(carried(carrier, tcpFields));
      return fields(wire);
    },
    /** Client → guest; returns what arrives. */
    in: (tcpFields: TcpFields) => {
      netdev.receiveFromWire(carriedToGuest(carrier, tcpFields));
      return fields(guest);
    },
    guest,
    wire,
  };
}

export function optionsOf(frame: Uint8Array): Uint8Array {
  const view = new PacketView();
  view.parse(frame);
  return new Uint8Array(frame.subarray(view.transportAt + 20, view.payloadAt));
}

/** The client opens a connection: after it the numbers are mapped. */
export function accept(side: ReturnType<typeof setUp>): void {
  side.in({ seq: C, flags: 'S' });
  assert.equal(side.out({ seq: S, ack: C + 1, flags: 'S' }).seq, S, 'a SYN+ACK keeps its number');
  assert.equal(side.in({ seq: C + 1, ack: P + 1 }).ack, S + 1);
}
