/** What a guest has left to its NIC, done here: checksums and segments, against frames that are whole from the start. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ipv4HeaderChecksum, onesSum, readTcpChecksum, tcpChecksum } from '../../../src/net/checksum.ts';
import {
  GSO_ECN,
  GSO_TCPV4,
  GSO_TCPV6,
  VNET_HEADER_BYTES,
  VNET_NEEDS_CSUM,
  makeWhole,
  withEmptyHeader,
} from '../../../src/net/offload.ts';
import { PROTOCOL, PacketView, putU16, u16 } from '../../../src/net/packet.ts';
import { ipv6, tcp, udp, vlan } from './frames.ts';

interface Header {
  readonly flags?: number;
  readonly gso?: number;
  readonly gsoSize?: number;
  readonly start?: number;
  readonly offset?: number;
}

function withHeader(
  { flags = 0, gso = 0, gsoSize = 0, start = 0, offset = 0 }: Header,
  frame: Uint8Array,
): Buffer {
  const header = Buffer.alloc(VNET_HEADER_BYTES);
  header.set([flags, gso]);
  header.writeUInt16LE(gsoSize, 4);
  header.writeUInt16LE(start, 6);
  header.writeUInt16LE(offset, 8);
  return Buffer.concat([header, frame]);
}

function whole(packet: Uint8Array): Uint8Array[] | null {
  const frames: Uint8Array[] = [];
  return makeWhole(packet, (frame) => frames.push(Uint8Array.from(frame))) ? frames : null;
}

/** The same with the sum of the pseudo header alone in the field, as a driver leaves it. */
function unsummed(frame: Uint8Array): { frame: Uint8Array; start: number; offset: number } {
  const left = Uint8Array.from(frame);
  const view = new PacketView();
  view.parse(left);
  const at = view.transportAt;
  const offset = view.protocol === PROTOCOL.TCP ? 16 : 6;
  const addresses =
    view.network === 'ipv4'
      ? onesSum(left, view.ipAt + 12, view.ipAt + 20)
      : onesSum(left, view.ipAt + 8, view.ipAt + 40);
  const length = view.ipEnd - at;
  putU16(
    left,
    at + offset,
    onesSum(Uint8Array.of(0, view.protocol, length >>> 8, length & 255), 0, 4, addresses),
  );
  return { frame: left, start: at, offset };
}

function tcp6(payload: Uint8Array): Uint8Array {
  const frame = ipv6(PROTOCOL.TCP, tcp({ payload, seq: 7, ack: 9, flags: 'P' }).subarray(34));
  const view = new PacketView();
  view.parse(frame);
  putU16(frame, view.transportAt + 16, tcpChecksum(frame, view));
  return frame;
}

void describe('checksums that a guest has left out', () => {
  it('are what they would have been', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 1400 }),
        fc.boolean(),
        fc.boolean(),
        (payload, isSix, isTagged) => {
          const plain = isSix ? tcp6(payload) : tcp({ payload, seq: 1, ack: 2 });
          const frame = isTagged ? Uint8Array.from(vlan(5, plain)) : plain;
          const { frame: left, start, offset } = unsummed(frame);
          assert.deepEqual(whole(withHeader({ flags: VNET_NEEDS_CSUM, start, offset }, left)), [frame]);
        },
      ),
    );
  });

  it('are never zero for UDP', () => {
    // A payload that brings the sum to 0xffff.
    const frame = udp(new Uint8Array(2), {});
    const { frame: left, start, offset } = unsummed(frame);
    putU16(left, 42, ~onesSum(left, start, left.length) & 0xffff);
    const [made] = whole(withHeader({ flags: VNET_NEEDS_CSUM, start, offset }, left))!;
    assert.equal(u16(made!, start + offset), 0xffff);
  });

  it('are not filled in outside of the frame', () => {
    const frame = tcp({ seq: 1 });
    for (const [start, offset] of [
      [frame.length - 1, 0],
      [0, frame.length - 1],
      [0xffff, 0xffff],
      [frame.length, 0],
    ] as const) {
      assert.equal(whole(withHeader({ flags: VNET_NEEDS_CSUM, start, offset }, frame)), null);
    }
    assert.equal(whole(Buffer.alloc(VNET_HEADER_BYTES)), null);
    assert.equal(whole(Buffer.alloc(3)), null);
  });
});

void describe('a large segment', () => {
  it('becomes segments that say the same, each whole in itself', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 60_000 }),
        fc.integer({ min: 40, max: 9000 }),
        fc.constantFrom('', 'P', 'F', 'FP'),
        fc.boolean(),
        fc.nat(0xffffffff),
        (length, gsoSize, flags, isSix, seq) => {
          const payload = Uint8Array.from({ length }, (_, at) => (at * 7) & 255);
          const large = isSix ? tcp6(payload) : tcp({ payload, seq, ack: 5, flags, id: 0xfffe });
          // CWR, which belongs to the first one only.
          large[isSix ? 67 : 47]! |= 0x80;
          const gso = (isSix ? GSO_TCPV6 : GSO_TCPV4) | GSO_ECN;
          const frames = whole(withHeader({ flags: VNET_NEEDS_CSUM, gso, gsoSize }, large));
          assert.ok(frames);
          assert.equal(frames.length, Math.max(1, Math.ceil(length / gsoSize)));
          const view = new PacketView();
          view.parse(large);
          const { sequence: first, tcpFlags: allFlags } = view;
          let done = 0;
          for (const [number, frame] of frames.entries()) {
            view.parse(frame);
            const isLast: boolean = number === frames.length - 1;
            assert.ok(view.isTcp && view.lengthFits && view.ipEnd === frame.length);
            assert.equal(view.sequence, (first + done) >>> 0);
            assert.deepEqual(
              frame.subarray(view.payloadAt),
              payload.subarray(done, done + view.payloadBytes),
            );
            assert.equal(view.tcpFlags, isLast ? allFlags : allFlags & ~9);
            assert.equal(frame[view.transportAt + 13]! & 0x80, number === 0 ? 0x80 : 0);
            assert.equal(readTcpChecksum(frame, view), tcpChecksum(frame, view));
            if (!isSix) {
              assert.equal(u16(frame, 18), (0xfffe + number) & 0xffff);
              assert.equal(u16(frame, 24), ipv4HeaderChecksum(frame, 14, 20));
            }
            done += view.payloadBytes;
          }
          assert.equal(done, length);
        },
      ),
      { numRuns: 60 },
    );
  });

  it('that is none is refused: of another protocol or family, cut off, in crumbs', () => {
    const payload = new Uint8Array(3000);
    const cases: [string, Buffer][] = [
      ['UDP', withHeader({ gso: GSO_TCPV4, gsoSize: 1000 }, udp(payload, {}))],
      ['the other family', withHeader({ gso: GSO_TCPV6, gsoSize: 1000 }, tcp({ payload }))],
      ['UDP in one piece', withHeader({ gso: 3, gsoSize: 1000 }, udp(payload, {}))],
      ['unknown', withHeader({ gso: 0x7f, gsoSize: 1000 }, tcp({ payload }))],
      ['cut off', withHeader({ gso: GSO_TCPV4, gsoSize: 1000 }, tcp({ payload }).subarray(0, 1000))],
      ['no frame', withHeader({ gso: GSO_TCPV4, gsoSize: 1000 }, new Uint8Array(10))],
      ['crumbs', withHeader({ gso: GSO_TCPV4, gsoSize: 0 }, tcp({ payload }))],
      ['small crumbs', withHeader({ gso: GSO_TCPV4, gsoSize: 39 }, tcp({ payload }))],
    ];
    for (const [what, packet] of cases) assert.equal(whole(packet), null, what);
  });

  it('of random bytes does no harm', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.constantFrom(0, 1, 4, 0x81), (bytes, gso) => {
        const packet = Buffer.from(bytes);
        if (packet.length > 1) packet[1] = gso;
        for (const frame of whole(packet) ?? []) assert.ok(frame.length <= bytes.length);
      }),
    );
  });
});

void it('a frame without wishes passes as it is', () => {
  const frame = tcp({ payload: 'x' });
  const packet = withEmptyHeader(frame, new Uint8Array(2000));
  assert.deepEqual(whole(packet), [frame]);
});
