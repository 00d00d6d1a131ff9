/**
 * Flows without a stream, and many flows at once, as properties. Datagrams leave in the primary's order, one for one of
 * the secondary's like; no flow takes notice of another, however alike their addresses are; and whatever is sent, what is
 * held stays within its bounds, every packet is accounted for, and what is dropped asks for a checkpoint. COLO_FUZZ=N
 * makes it N times as long.
 *
 * Mutations that were tried, and that these caught: one word of the secondary's serves two datagrams; a mark that stays
 * on a record; a fragment's place not compared; a VLAN not part of the flow; a queue that wraps wrongly when it grows.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { PROTOCOL } from '../../../src/net/packet.ts';
import { Feed, assertReleased, turns } from './conversation.ts';
import { DatagramModel } from './datagram-model.ts';
import type { Datagram } from './datagram-model.ts';
import { Noise, datagramFrame, udpBody } from './property-frames.ts';
import type { FlowShape, WireFrame } from './property-frames.ts';
import { makePropertyRig, wholeCheckpoint } from './property-rig.ts';
import { TcpModel } from './tcp-model.ts';
import { NETWORKS, VLANS, chunks, flowShape, plan, segmentsOf, streamOf } from './tcp-script.ts';
import type { Plan, Said } from './tcp-script.ts';

const FUZZ = Math.max(1, Number(process.env['COLO_FUZZ'] ?? 1) || 1);

interface Sent extends Datagram {
  readonly frame: WireFrame;
  readonly flow: string;
}

const GRE = 47;

/** A datagram before either side has put it into a frame of its own. */
interface Shape {
  readonly kind: 'udp' | 'icmp' | 'other' | 'udp-piece' | 'icmp-piece' | 'tcp-piece';
  readonly flow: FlowShape;
  readonly letter: number;
  readonly length: number;
  readonly fragment: number;
}

const datagram: fc.Arbitrary<Shape> = fc.record({
  kind: fc.constantFrom('udp', 'udp', 'icmp', 'other', 'udp-piece', 'icmp-piece', 'tcp-piece'),
  flow: fc.tuple(flowShape, fc.nat(1)).map(([shape, number]) => ({ ...shape, number })),
  letter: fc.nat(2),
  length: fc.constantFrom(1, 1, 1, 2, 60),
  // The same bits stand for a place in both headers.
  fragment: fc.constantFrom(0x2001, 0x2008, 0x0010),
});

function sent(shape: Shape, seed: number, hasVnet: boolean): Sent {
  const { kind, flow, letter, length } = shape;
  const payload = new Uint8Array(length).fill(letter);
  const isPiece = kind.endsWith('-piece');
  const fragment = isPiece ? shape.fragment : 0;
  const icmpProtocol = flow.network === 'ipv4' ? PROTOCOL.ICMP : PROTOCOL.ICMPV6;
  const name = kind.replace('-piece', '');
  const protocol =
    name === 'udp' ? PROTOCOL.UDP : name === 'tcp' ? PROTOCOL.TCP : name === 'icmp' ? icmpProtocol : GRE;
  const body = kind === 'udp' ? udpBody(flow, payload) : Buffer.concat([new Uint8Array(8), payload]);
  // Pieces are of a flow of their own: they have no ports.
  const flowName = `${protocol} ${isPiece} ${JSON.stringify(flow)}`;
  return {
    frame: datagramFrame(flow, protocol, body, fragment, seed, hasVnet),
    content: `${fragment} ${letter} ${length}`,
    flow: flowName,
  };
}

test('datagrams leave in the primary’s order, one for one of the secondary’s like', async () => {
  const sides = fc.tuple(
    fc.array(datagram, { maxLength: 30, size: 'max' }),
    fc.nat(3),
    fc.array(fc.nat(29), { maxLength: 6 }),
  );
  const property = fc.asyncProperty(
    sides,
    chunks,
    fc.boolean(),
    fc.nat(),
    async ([shapes, window, missing], pieces, hasVnet, seed) => {
      const noise = new Noise(seed);
      const mine = shapes.map((shape) => sent(shape, noise.next(), hasVnet));
      const others = shapes
        .map((shape, index) => ({ shape, place: index + noise.below(window + 1) * 1.5, index }))
        .sort((a, b) => a.place - b.place)
        .filter(({ index }) => !missing.includes(index))
        .map(({ shape }) => sent(shape, noise.next(), hasVnet));
      const rig = makePropertyRig(hasVnet);
      try {
        const models = new Map<string, DatagramModel<Sent>>();
        const modelOf = (one: Sent): DatagramModel<Sent> => {
          const model = models.get(one.flow) ?? new DatagramModel<Sent>();
          models.set(one.flow, model);
          return model;
        };
        const primary = new Feed(mine);
        const secondary = new Feed(others);
        let left = 0;
        for (const { isPrimary, bytes } of turns(pieces, primary, secondary)) {
          const said = isPrimary ? primary.give(bytes, rig.primary) : secondary.give(bytes, rig.secondary);
          const expected = said.flatMap((one) =>
            isPrimary ? modelOf(one).primary(one) : modelOf(one).secondary(one),
          );
          assertReleased(rig, expected, `after ${left}`);
          left += expected.length;
          const mayDiffer = [...models.values()].some((model) => model.hasConflict);
          assert.ok(rig.requests.length <= (mayDiffer ? 1 : 0), 'nobody differs');
        }
        if (missing.length === 0) assert.equal(left, mine.length, 'all had their like');
        rig.clock.ms += rig.compare.compareTimeoutMs + 1;
        rig.compare.scan();
        if (left < mine.length) assert.ok(rig.requests.length > 0, 'what waits asks in time');
        await wholeCheckpoint(rig);
        assert.equal(left + rig.released().length, mine.length);
      } finally {
        rig.compare.close();
      }
    },
  );
  await fc.assert(property, { numRuns: 300 * FUZZ, includeErrorInReport: true });
});

/** Merges without changing anybody's own order. */
function merged<T>(lists: readonly (readonly T[])[], noise: Noise): T[] {
  const all: T[] = [];
  const next = lists.map(() => 0);
  for (let count = lists.reduce((sum, list) => sum + list.length, 0); count > 0; count--) {
    let pick = noise.below(lists.length);
    while (next[pick]! >= lists[pick]!.length) pick = (pick + 1) % lists.length;
    all.push(lists[pick]![next[pick]!++]!);
  }
  return all;
}

/** Flows that differ in one thing of their addresses each. */
const kin: fc.Arbitrary<FlowShape[]> = fc.uniqueArray(
  fc.record({
    network: fc.constantFrom(...NETWORKS),
    vlans: fc.constantFrom(...VLANS),
    number: fc.nat(2),
  }),
  { minLength: 2, maxLength: 4, selector: (shape) => JSON.stringify(shape) },
);

test('many flows at once: each leaves as if it were alone', () => {
  const property = fc.property(
    kin,
    fc.array(plan, { minLength: 4, maxLength: 4 }),
    fc.array(fc.option(fc.nat(999), { freq: 3 }), { minLength: 4, maxLength: 4 }),
    chunks,
    fc.boolean(),
    fc.nat(),
    (shapes, plans, differences, pieces, hasVnet, seed) => {
      const noise = new Noise(seed);
      const rig = makePropertyRig(hasVnet);
      try {
        const models = shapes.map(() => new TcpModel<Said>());
        const sides = shapes.map((flow, index) => {
          const one: Plan = { ...plans[index]!, flow };
          const stream = streamOf(one);
          const other = Buffer.from(stream);
          const place = differences[index];
          if (typeof place === 'number' && other.length > 0) other[place % other.length]! ^= 0x11;
          const tag = (said: Said): Said & { index: number } => ({ ...said, index });
          return {
            primary: segmentsOf(one, 'primary', stream, hasVnet).map(tag),
            secondary: segmentsOf(one, 'secondary', other, hasVnet).map(tag),
          };
        });
        const primary = new Feed(
          merged(
            sides.map((side) => side.primary),
            noise,
          ),
        );
        const secondary = new Feed(
          merged(
            sides.map((side) => side.secondary),
            noise,
          ),
        );
        const left = shapes.map(() => 0);
        for (const { isPrimary, bytes } of turns(pieces, primary, secondary)) {
          const said = isPrimary ? primary.give(bytes, rig.primary) : secondary.give(bytes, rig.secondary);
          const expected = said.flatMap((one) => {
            const model = models[one.index]!;
            const released = isPrimary ? model.primary(one) : model.secondary(one);
            left[one.index]! += released.length;
            return released;
          });
          assertReleased(rig, expected, 'together');
        }
        const isDue = models.some((model) => model.isRequestDue);
        assert.equal(rig.requests.length, isDue ? 1 : 0);
        for (const [index, model] of models.entries()) {
          if (!model.hasConflict)
            assert.equal(left[index], sides[index]!.primary.length, `flow ${index} alone`);
        }
      } finally {
        rig.compare.close();
      }
    },
  );
  fc.assert(property, { numRuns: 200 * FUZZ, includeErrorInReport: true });
});
