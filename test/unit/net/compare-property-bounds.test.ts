/**
 * Bounds as a property: whatever the two guests send, honest or not, what the comparer holds stays within its limits at
 * every moment, each packet of the primary's either left once as it came, waits, or was counted as dropped, and what was
 * dropped asked for a checkpoint. COLO_FUZZ=N makes it N times as long.
 *
 * Mutations that were tried, and that these caught: a drop that is not counted; no bound on bytes; the secondary's bytes
 * kept over a checkpoint. The second test failed on a comparer that took what lies before a connection's first packet
 * for said.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { PROTOCOL, TCP_FLAG, putU16 } from '../../../src/net/packet.ts';
import { Noise, datagramFrame, tcpFrame, udpBody } from './property-frames.ts';
import type { FlowShape, WireFrame } from './property-frames.ts';
import { makePropertyRig, secondaryMark, wholeCheckpoint, wireBytes } from './property-rig.ts';
import { Feed, turns } from './conversation.ts';
import { NETWORKS, chunks, plan, segmentsOf, streamOf } from './tcp-script.ts';

const FUZZ = Math.max(1, Number(process.env['COLO_FUZZ'] ?? 1) || 1);

/** The one that reaches the bound still has a place; in several pieces, if it fills several gaps. */
const ONE_PACKET_BYTES = 4_096;

interface Shot {
  readonly isPrimary: boolean;
  readonly kind: 'tcp' | 'udp' | 'icmp' | 'piece' | 'arp' | 'neighbour' | 'garbage' | 'torn';
  readonly network: FlowShape['network'];
  readonly number: number;
  readonly at: number;
  readonly length: number;
  readonly flags: number;
  readonly letter: number;
}

type Event =
  Shot | { readonly kind: 'stop' | 'commit' | 'scan' } | { readonly kind: 'wait'; readonly ms: number };

const shot: fc.Arbitrary<Shot> = fc.record({
  isPrimary: fc.boolean(),
  kind: fc.constantFrom('tcp', 'tcp', 'tcp', 'udp', 'icmp', 'piece', 'arp', 'neighbour', 'garbage', 'torn'),
  network: fc.constantFrom(...NETWORKS),
  number: fc.nat(4),
  at: fc.nat(60),
  length: fc.oneof(fc.nat(9), fc.nat(300), fc.constantFrom(0, 1, 1_400)),
  flags: fc.oneof(
    { weight: 5, arbitrary: fc.constant(0) },
    {
      weight: 2,
      arbitrary: fc.constantFrom(TCP_FLAG.SYN, TCP_FLAG.FIN, TCP_FLAG.RST, TCP_FLAG.SYN | TCP_FLAG.FIN),
    },
  ),
  letter: fc.nat(2),
});

const event: fc.Arbitrary<Event> = fc.oneof(
  { weight: 30, arbitrary: shot },
  { weight: 1, arbitrary: fc.constantFrom<Event>({ kind: 'stop' }, { kind: 'commit' }, { kind: 'scan' }) },
  { weight: 1, arbitrary: fc.nat(4_000).map((ms): Event => ({ kind: 'wait', ms })) },
);

const limits = fc.record({
  maxQueueSize: fc.integer({ min: 1, max: 6 }),
  maxHeldBytes: fc.oneof(fc.integer({ min: 300, max: 3_000 }), fc.integer({ min: 3_000, max: 100_000 })),
  maxFlows: fc.integer({ min: 1, max: 6 }),
});

function frameOf(one: Shot, seed: number, hasVnet: boolean): WireFrame {
  const flow: FlowShape = { network: one.network, vlans: [], number: one.number };
  const payload = new Uint8Array(one.length).fill(one.letter);
  const icmpProtocol = one.network === 'ipv4' ? PROTOCOL.ICMP : PROTOCOL.ICMPV6;
  const echo = Buffer.concat([Uint8Array.of(128, 0, 0, 0, 0, 1, 0, 1), payload]);
  switch (one.kind) {
    case 'tcp': {
      const acknowledgment = one.letter === 0 ? null : one.at;
      const sequence = (0xfffffff0 + one.at) >>> 0;
      return tcpFrame(flow, { sequence, acknowledgment, flags: one.flags, payload }, seed, hasVnet);
    }
    case 'udp':
      return datagramFrame(flow, PROTOCOL.UDP, udpBody(flow, payload), 0, seed, hasVnet);
    case 'icmp':
      return datagramFrame(flow, icmpProtocol, echo, 0, seed, hasVnet);
    case 'piece':
      return datagramFrame(flow, PROTOCOL.UDP, echo, 0x2001, seed, hasVnet);
    case 'neighbour': {
      const solicitation = Buffer.concat([Uint8Array.of(135, 0, 0, 0, 0, 0, 0, one.letter), payload]);
      return datagramFrame({ ...flow, network: 'ipv6' }, PROTOCOL.ICMPV6, solicitation, 0, seed, hasVnet);
    }
    case 'arp': {
      const bytes = new Uint8Array(14 + 28);
      bytes.set([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 0, 1, 0x08, 0x06]);
      bytes.set(
        [0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 0, 0, 1, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2],
        14,
      );
      bytes[41] = one.number * 3 + one.letter;
      return { bytes, vnetHdrLen: hasVnet ? 0 : null };
    }
    case 'garbage': {
      const bytes = new Uint8Array(1 + one.length);
      new Noise(seed).fill(bytes, 0, bytes.length);
      // Its vnet header is as long as a peer says, which may be longer than the frame.
      return { bytes, vnetHdrLen: hasVnet ? one.at * 2 : null };
    }
    case 'torn': {
      // A header that speaks of more than is there.
      const { bytes, vnetHdrLen } = tcpFrame(
        flow,
        { sequence: 0, acknowledgment: 0, flags: 0, payload },
        seed,
        hasVnet,
      );
      const start = vnetHdrLen ?? 0;
      putU16(bytes, start + (one.network === 'ipv4' ? 16 : 18), 40_000 + one.at);
      return { bytes: bytes.subarray(0, Math.max(start + 18, bytes.length - one.at)), vnetHdrLen };
    }
  }
}

async function storm(
  events: readonly Event[],
  options: { readonly maxQueueSize: number; readonly maxHeldBytes: number; readonly maxFlows: number },
  hasVnet: boolean,
  seed: number,
): Promise<void> {
  const noise = new Noise(seed);
  const rig = makePropertyRig(hasVnet, options);
  const { compare } = rig;
  try {
    /** Frames that have come and have not left; some were dropped. */
    const present = new Map<string, number>();
    let left = 0;
    let dropped = 0;
    const asked = { before: 0 };
    const check = (what: string): void => {
      for (const frame of rig.released()) {
        const name = nameOf(frame);
        const count = present.get(name) ?? 0;
        assert.ok(count > 0, `${what}: a frame left that had not come, or twice`);
        if (count === 1) present.delete(name);
        else present.set(name, count - 1);
        left++;
      }
      const { stats } = compare;
      assert.equal(stats.primaryIn, left + compare.heldPackets + stats.droppedPrimary, `${what}: accounts`);
      assert.equal(stats.released + stats.releasedByCheckpoint, left);
      assert.ok(compare.connections <= options.maxFlows, `${what}: connections`);
      const bytes = compare.heldBytes + compare.secondaryBytes;
      assert.ok(
        bytes <= options.maxHeldBytes + ONE_PACKET_BYTES,
        `${what}: ${bytes} bytes, ${options.maxHeldBytes} are allowed`,
      );
      assert.ok(compare.heldPackets <= 2 * options.maxQueueSize * options.maxFlows, `${what}: packets`);
      if (compare.mode === 'comparing' && stats.droppedPrimary + stats.droppedSecondary > dropped) {
        assert.ok(rig.requests.length > asked.before, `${what}: dropped, and nothing was asked for`);
      }
      dropped = stats.droppedPrimary + stats.droppedSecondary;
    };
    for (const one of events) {
      switch (one.kind) {
        case 'stop':
          if (compare.mode === 'closing') break;
          compare.stopped('primary');
          await compare.peerMarks('primary', secondaryMark(rig.secondary.bytesIn));
          compare.resumed('primary');
          break;
        case 'commit':
          if (compare.mode === 'closing') asked.before = rig.requests.length;
          await compare.commit('primary');
          break;
        case 'scan':
          asked.before = rig.requests.length;
          compare.scan();
          break;
        case 'wait':
          rig.clock.ms += one.ms;
          break;
        default: {
          const frame = frameOf(one, noise.next(), hasVnet);
          if (one.isPrimary) present.set(nameOf(frame), (present.get(nameOf(frame)) ?? 0) + 1);
          (one.isPrimary ? rig.primary : rig.secondary).give(wireBytes(frame));
        }
      }
      check(one.kind);
    }
    if (compare.mode === 'closing') await compare.commit('primary');
    check('end');
    await wholeCheckpoint(rig);
    check('checkpoint');
    assert.equal(compare.heldPackets, 0);
    assert.equal(compare.heldBytes, 0);
    assert.equal(compare.secondaryBytes, 0);
    assert.equal(compare.secondaryPackets, 0);
  } finally {
    compare.close();
  }
}

function nameOf({ bytes, vnetHdrLen }: WireFrame): string {
  return `${vnetHdrLen} ${Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1')}`;
}

test('whatever is sent, what is held has bounds and every packet is accounted for', async () => {
  const property = fc.asyncProperty(
    fc.array(event, { minLength: 1, maxLength: 120, size: 'max' }),
    limits,
    fc.boolean(),
    fc.nat(),
    storm,
  );
  await fc.assert(property, { numRuns: 300 * FUZZ, includeErrorInReport: true });
});

test('what was dropped for want of room is not taken for said when it is repeated', async () => {
  const property = fc.asyncProperty(
    plan,
    fc.record({ dropped: fc.integer({ min: 1, max: 20 }), unsaid: fc.nat(999) }),
    chunks,
    fc.boolean(),
    async (drawn, { dropped, unsaid }, pieces, hasVnet) => {
      const stream = streamOf(drawn);
      const from = Math.floor((unsaid * stream.length) / 1_000) + 1;
      const rig = makePropertyRig(hasVnet, { maxFlows: 1 });
      try {
        const other = { ...drawn.flow, number: 250 };
        const said = tcpFrame(
          other,
          { sequence: 1, acknowledgment: null, flags: 0, payload: Uint8Array.of(1) },
          1,
          hasVnet,
        );
        // It has the only place.
        rig.primary.give(wireBytes(said));
        const sent = segmentsOf(drawn, 'primary', stream, hasVnet);
        for (const { frame } of sent.slice(0, dropped)) rig.primary.give(wireBytes(frame));
        assert.ok(rig.requests.length > 0);
        rig.secondary.give(wireBytes(said));
        assert.equal(rig.released().length, 1);
        // The secondary says all but the first bytes, or says others.
        const primary = new Feed([...sent.slice(dropped), ...sent]);
        const secondary = new Feed(
          segmentsOf(drawn, 'secondary', stream, hasVnet).filter(
            ({ at, payload }) => payload.length === 0 || at >= from,
          ),
        );
        for (const { isPrimary, bytes } of turns(pieces, primary, secondary)) {
          if (isPrimary) primary.give(bytes, rig.primary);
          else secondary.give(bytes, rig.secondary);
          for (const frame of rig.released()) {
            const segment = sent.find((one) => nameOf(one.frame) === nameOf(frame));
            assert.ok(
              segment && (segment.payload.length === 0 || segment.at >= from),
              'left though nobody said it',
            );
          }
        }
        await wholeCheckpoint(rig);
        assert.equal(rig.compare.heldPackets, 0);
      } finally {
        rig.compare.close();
      }
    },
  );
  await fc.assert(property, { numRuns: 150 * FUZZ, includeErrorInReport: true });
});
