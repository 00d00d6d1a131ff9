import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeMappings } from '../../../src/net/filters/mapping-marks.ts';
import { RewriterFilter } from '../../../src/net/filters/rewriter.ts';
import { Netdev } from '../../../src/net/netdev.ts';
import { PacketView, u32 } from '../../../src/net/packet.ts';
import type { TcpFields } from './frames.ts';
import { hasRightChecksum, tcp, tcpToGuest, udp } from './frames.ts';

/** Initial sequence numbers: the primary's, the secondary's, the client's. */
const P = 0xfffff000;
const S = 0x00001234;
const C = 500;

function setUp(maxFlows?: number) {
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
      netdev.sendFromGuest(tcp(tcpFields));
      return fields(wire);
    },
    /** Client → guest; returns what arrives. */
    in: (tcpFields: TcpFields) => {
      netdev.receiveFromWire(tcpToGuest(tcpFields));
      return fields(guest);
    },
    guest,
    wire,
  };
}

/** The client opens a connection: after it the numbers are mapped. */
function accept(side: ReturnType<typeof setUp>): void {
  side.in({ seq: C, flags: 'S' });
  assert.equal(side.out({ seq: S, ack: C + 1, flags: 'S' }).seq, S, 'a SYN+ACK keeps its number');
  assert.equal(side.in({ seq: C + 1, ack: P + 1 }).ack, S + 1);
}

test('both directions of an accepted connection are mapped, with right checksums', () => {
  const side = setUp();
  accept(side);
  assert.deepEqual(side.out({ seq: S + 1, ack: C + 1, payload: 'hello' }), {
    seq: (P + 1) >>> 0,
    ack: C + 1,
  });
  assert.deepEqual(side.in({ seq: C + 1, ack: P + 6, payload: 'odd' }), { seq: C + 1, ack: S + 6 });
  // Across the wrap of the primary's numbers.
  assert.equal(side.out({ seq: S + 0x2000, ack: C }).seq, (P + 0x2000) >>> 0);
  assert.equal(side.out({ seq: S, ack: C + 1, flags: 'S' }).seq, P, 'a repeated SYN+ACK is mapped by then');
  assert.equal(side.rewriter.stats.rewritten, 5);
});

test('SACK blocks are mapped, at odd offsets too', () => {
  const side = setUp();
  accept(side);
  for (const lead of [1, 2]) {
    const options = Buffer.alloc(lead + 18 + ((4 - ((lead + 18) % 4)) % 4), 1);
    options[lead] = 5;
    options[lead + 1] = 18;
    for (const [index, edge] of [P + 10, P + 20, P + 30, P + 40].entries()) {
      options.writeUInt32BE(edge >>> 0, lead + 2 + index * 4);
    }
    side.in({ seq: C + 1, ack: P + 1, options });
    const arrived = side.guest.at(-1)!;
    const at = 14 + 20 + 20 + lead + 2;
    assert.deepEqual(
      [0, 4, 8, 12].map((step) => u32(arrived, at + step)),
      [S + 10, S + 20, S + 30, S + 40],
    );
  }
});

test('a connection that the guest opens is mapped', () => {
  const side = setUp();
  assert.equal(side.out({ seq: S, flags: 'S' }).seq, S);
  assert.equal(side.in({ seq: C, ack: P + 1, flags: 'S' }).ack, S + 1);
  assert.equal(side.out({ seq: S + 1, ack: C + 1 }).seq, (P + 1) >>> 0);
});

test('equal numbers, unknown connections and other protocols pass as they are', () => {
  const side = setUp();
  side.in({ seq: C, flags: 'S' });
  side.out({ seq: P, ack: C + 1, flags: 'S' });
  side.in({ seq: C + 1, ack: P + 1 });
  assert.equal(side.out({ seq: P + 1, ack: C + 1 }).seq, (P + 1) >>> 0);
  assert.equal(side.out({ seq: 77, ack: 1, sourcePort: 9 }).seq, 77);
  side.netdev.sendFromGuest(udp('x'));
  assert.deepEqual(side.wire.at(-1), udp('x'));
  assert.equal(side.rewriter.stats.rewritten, 0);
});

test('after a checkpoint the guest has the numbers of the primary', async () => {
  for (const way of ['commit', 'event'] as const) {
    const side = setUp();
    accept(side);
    if (way === 'commit') await side.rewriter.commit('secondary');
    else side.netdev.notify('checkpoint');
    assert.equal(side.out({ seq: P + 1, ack: C + 1 }).seq, (P + 1) >>> 0);
    assert.equal(side.in({ seq: C, ack: P + 9 }).ack, (P + 9) >>> 0);
    // The loaded guest may repeat its SYN+ACK, with the number that the client knows.
    side.out({ seq: P, ack: C + 1, flags: 'S' });
    assert.equal(side.in({ seq: C + 1, ack: P + 1 }).ack, (P + 1) >>> 0);
  }
});

test('after a failover old connections stay mapped, new ones are not', () => {
  const side = setUp();
  accept(side);
  side.netdev.notify('failover');
  assert.equal(side.out({ seq: S + 5, ack: C }).seq, (P + 5) >>> 0);
  side.in({ seq: C, flags: 'S', sourcePort: 41_000 });
  side.out({ seq: 999, ack: C + 1, flags: 'S', destinationPort: 41_000 });
  assert.equal(side.in({ seq: C + 1, ack: 1000, sourcePort: 41_000 }).ack, 1000);
  // A new connection under the old name.
  side.in({ seq: C + 70_000, flags: 'S' });
  side.out({ seq: 5000, ack: C + 70_001, flags: 'S' });
  assert.equal(side.in({ seq: C + 70_001, ack: 5001 }).ack, 5001);
  assert.equal(side.rewriter.flows, 0);
});

test('a stray SYN does not lose the mapping', () => {
  const side = setUp();
  accept(side);
  side.in({ seq: C + 9999, flags: 'S' });
  assert.equal(side.out({ seq: S + 1, ack: C + 1 }).seq, (P + 1) >>> 0);
});

test('a promoted secondary hands its mappings to the next one', async () => {
  const promoted = setUp();
  accept(promoted);
  promoted.netdev.notify('failover');
  const marks = promoted.rewriter.stopped('primary');
  assert.equal(marks.length, 1);
  assert.ok(marks.every((mark) => mark.stream.length <= 256));
  const next = setUp();
  await next.rewriter.peerMarks('secondary', marks);
  await next.rewriter.commit('secondary');
  next.netdev.notify('checkpoint');
  assert.equal(next.out({ seq: S + 1, ack: C + 1 }).seq, (P + 1) >>> 0);
  assert.equal(next.in({ seq: C + 1, ack: P + 1 }).ack, S + 1);
  // One that was given up changes nothing.
  await next.rewriter.peerMarks('secondary', []);
  next.rewriter.resumed();
  assert.equal(next.out({ seq: S + 1, ack: C + 1 }).seq, (P + 1) >>> 0);
});

test('closed connections are not handed on, and a peer cannot break the marks', () => {
  const side = setUp();
  accept(side);
  side.out({ seq: S + 1, ack: C + 1, flags: 'F' });
  side.in({ seq: C + 1, ack: P + 2, flags: 'F' });
  assert.equal(side.rewriter.stopped('primary').length, 1);
  side.out({ seq: S + 2, ack: C + 2 });
  assert.deepEqual(side.rewriter.stopped('primary'), []);
  assert.deepEqual(decodeMappings('hn0', [{ stream: 'rewriter/hn0/zz', bytes: 1 }]), []);
  assert.deepEqual(decodeMappings('hn0', [{ stream: 'rewriter/hn0/', bytes: 1 }]), []);
  const [mapping] = decodeMappings('hn0', [{ stream: `rewriter/hn0/${'0'.repeat(24)}ffffffff`, bytes: 1 }]);
  assert.equal(mapping?.offset, 0xffffffff);
});

test('a full table gives up the mapping that was not used for longest', () => {
  const side = setUp(2);
  accept(side);
  for (const port of [1001, 1002]) {
    side.out({ seq: S + 1, ack: C + 1 });
    side.out({ seq: 1, flags: 'S', destinationPort: port });
  }
  assert.deepEqual([side.rewriter.flows, side.rewriter.stats.evicted], [2, 1]);
  assert.equal(side.out({ seq: S + 1, ack: C + 1 }).seq, (P + 1) >>> 0);
});
