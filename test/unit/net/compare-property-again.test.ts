/**
 * What is said again, as properties. Ports that carry one connection after another: bytes of one never vouch for those
 * of the next, and guests in step need no checkpoint. Statements (ARP, neighbour discovery): the first time as any
 * packet, and only what has left before may be repeated without a twin. COLO_FUZZ=N makes it N times as long.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { PROTOCOL } from '../../../src/net/packet.ts';
import { Feed, assertReleased, turns } from './conversation.ts';
import { datagramFrame } from './property-frames.ts';
import type { WireFrame } from './property-frames.ts';
import { makePropertyRig, wholeCheckpoint, wireBytes } from './property-rig.ts';
import { TcpModel } from './tcp-model.ts';
import { chunks, plan, segmentsOf, streamOf } from './tcp-script.ts';
import type { Plan, Said } from './tcp-script.ts';

const FUZZ = Math.max(1, Number(process.env['COLO_FUZZ'] ?? 1) || 1);

/** Connections on the same ports, with initial numbers of their own. */
const successors: fc.Arbitrary<Plan[]> = fc.array(plan, { minLength: 2, maxLength: 4 }).map((drawn) =>
  drawn.map((one, index) => ({
    ...one,
    flow: drawn[0]!.flow,
    opening: one.opening === 'middle' ? ('passive' as const) : one.opening,
    // Never the same twice.
    initial: ((one.initial & ~3) | index) >>> 0,
    secondaryInitial: ((one.secondaryInitial & ~3) | index) >>> 0,
  })),
);

test('one connection after another on the same ports, in step: each is compared by itself', async () => {
  const property = fc.asyncProperty(
    successors,
    fc.array(fc.boolean(), { minLength: 4, maxLength: 4 }),
    chunks,
    fc.boolean(),
    async (plans, checkpoints, pieces, hasVnet) => {
      const rig = makePropertyRig(hasVnet);
      try {
        for (const [index, one] of plans.entries()) {
          const stream = streamOf(one);
          const model = new TcpModel<Said>();
          const sent = segmentsOf(one, 'primary', stream, hasVnet);
          const primary = new Feed(sent);
          const secondary = new Feed(segmentsOf(one, 'secondary', stream, hasVnet));
          let left = 0;
          for (const { isPrimary, bytes } of turns(pieces, primary, secondary)) {
            const expected = isPrimary
              ? primary.give(bytes, rig.primary).flatMap((said) => model.primary(said))
              : secondary.give(bytes, rig.secondary).flatMap((said) => model.secondary(said));
            assertReleased(rig, expected, `connection ${index}, after ${left}`);
            left += expected.length;
            assert.deepEqual(rig.requests, [], 'nobody differs');
          }
          assert.equal(left, sent.length);
          if (checkpoints[index]) await wholeCheckpoint(rig);
        }
      } finally {
        rig.compare.close();
      }
    },
  );
  await fc.assert(property, { numRuns: 150 * FUZZ, includeErrorInReport: true });
});

test('one connection after another on the same ports, at each side’s own pace: none vouches for another', async () => {
  const property = fc.asyncProperty(successors, chunks, fc.boolean(), async (plans, pieces, hasVnet) => {
    const rig = makePropertyRig(hasVnet);
    try {
      const said = plans.map(() => new Map<number, number>());
      const acks = plans.map(() => -1);
      const tagged = (side: 'primary' | 'secondary'): (Said & { index: number })[] =>
        plans.flatMap((one, index) =>
          segmentsOf(one, side, streamOf(one), hasVnet).map((segment) => ({ ...segment, index })),
        );
      const mine = tagged('primary');
      const waiting = new Map(mine.map((segment) => [nameOf(segment.frame), segment]));
      const primary = new Feed(mine);
      const secondary = new Feed(tagged('secondary'));
      let left = 0;
      for (const { isPrimary, bytes } of turns(pieces, primary, secondary)) {
        if (isPrimary) primary.give(bytes, rig.primary);
        else {
          for (const { at, payload, ack, index } of secondary.give(bytes, rig.secondary)) {
            for (const [offset, byte] of payload.entries()) said[index]!.set(at + offset, byte);
            acks[index] = Math.max(acks[index]!, ack ?? -1);
          }
        }
        for (const frame of rig.released()) {
          const segment = waiting.get(nameOf(frame));
          assert.ok(segment, 'a packet that the primary did not say, or one that left twice');
          left++;
          for (const [offset, byte] of segment.payload.entries()) {
            assert.equal(said[segment.index]!.get(segment.at + offset), byte, 'not said on this connection');
          }
          assert.ok((segment.ack ?? -1) <= acks[segment.index]!, 'not acknowledged on this connection');
        }
      }
      await wholeCheckpoint(rig);
      assert.equal(left + rig.released().length, mine.length);
    } finally {
      rig.compare.close();
    }
  });
  await fc.assert(property, { numRuns: 150 * FUZZ, includeErrorInReport: true });
});

interface Statement {
  readonly kind: 'arp-request' | 'arp-reply' | 'solicitation' | 'advertisement';
  readonly station: number;
  readonly target: number;
}

const statement: fc.Arbitrary<Statement> = fc.record({
  kind: fc.constantFrom('arp-request', 'arp-reply', 'solicitation', 'advertisement'),
  station: fc.nat(1),
  target: fc.nat(6),
});

function statementFrame({ kind, station, target }: Statement, seed: number, hasVnet: boolean): WireFrame {
  if (kind === 'solicitation' || kind === 'advertisement') {
    const flow = { network: 'ipv6' as const, vlans: [], number: station };
    const body = Uint8Array.of(kind === 'solicitation' ? 135 : 136, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0x80, target);
    return datagramFrame(flow, PROTOCOL.ICMPV6, body, 0, seed, hasVnet);
  }
  const bytes = new Uint8Array(14 + 28 + (seed % 3));
  bytes.set([0x52, 0x54, 0, 0, 0, 2 + station, 0x52, 0x54, 0, 0, 0, 1, 0x08, 0x06]);
  bytes.set([0, 1, 8, 0, 6, 4, 0, kind === 'arp-request' ? 1 : 2, 0x52, 0x54, 0, 0, 0, 1, 10, 0, 2, 15], 14);
  bytes.set([0, 0, 0, 0, 0, 0, 10, 0, 2, target], 32);
  return { bytes, vnetHdrLen: hasVnet ? 0 : null };
}

type StatementStep =
  | { readonly kind: 'both' | 'primary' | 'secondary'; readonly what: Statement }
  | { readonly kind: 'checkpoint' }
  | { readonly kind: 'wait' };

test('a statement leaves when the secondary has said it, or when it has left before', async () => {
  const steps = fc.array<StatementStep>(
    fc.oneof(
      {
        weight: 8,
        arbitrary: fc.record({
          kind: fc.constantFrom<'both' | 'primary' | 'secondary'>('both', 'primary', 'secondary'),
          what: statement,
        }),
      },
      { weight: 1, arbitrary: fc.constantFrom<StatementStep>({ kind: 'checkpoint' }, { kind: 'wait' }) },
    ),
    { maxLength: 60, size: 'max' },
  );
  const property = fc.asyncProperty(steps, fc.boolean(), async (script, hasVnet) => {
    const rig = makePropertyRig(hasVnet);
    try {
      const said = new Set<string>();
      const hasLeft = new Set<string>();
      const pending: { name: string; frame: WireFrame }[] = [];
      let seed = 1;
      const check = (isCovered: boolean): void => {
        for (const frame of rig.released()) {
          const at = pending.findIndex((one) => nameOf(one.frame) === nameOf(frame));
          const [one] = at < 0 ? [] : pending.splice(at, 1);
          assert.ok(one, 'a frame that the primary did not say, or one that left twice');
          assert.ok(isCovered || said.has(one.name) || hasLeft.has(one.name), `${one.name} left too early`);
          hasLeft.add(one.name);
        }
      };
      for (const step of script) {
        if (step.kind === 'checkpoint') {
          await wholeCheckpoint(rig);
          said.clear();
          check(true);
          assert.equal(pending.length, 0);
          continue;
        }
        if (step.kind === 'wait') {
          const count = rig.requests.length;
          rig.clock.ms += rig.compare.compareTimeoutMs + 1;
          rig.compare.scan();
          assert.equal(
            rig.requests.length - count,
            pending.length > 0 ? 1 : 0,
            'asked when it waits, only then',
          );
          continue;
        }
        const { what } = step;
        const name = JSON.stringify(what);
        if (step.kind !== 'secondary') {
          const frame = statementFrame(what, seed++, hasVnet);
          pending.push({ name, frame });
          rig.primary.give(wireBytes(frame));
          check(false);
        }
        if (step.kind !== 'primary') {
          said.add(name);
          rig.secondary.give(wireBytes(statementFrame(what, seed++, hasVnet)));
          check(false);
        }
        if (step.kind === 'both' && pending.length === 1)
          assert.notEqual(pending[0]!.name, name, 'both said it');
      }
      await wholeCheckpoint(rig);
      check(true);
      assert.equal(pending.length, 0);
    } finally {
      rig.compare.close();
    }
  });
  await fc.assert(property, { numRuns: 200 * FUZZ, includeErrorInReport: true });
});

function nameOf({ bytes, vnetHdrLen }: WireFrame): string {
  return `${vnetHdrLen} ${Buffer.from(bytes).toString('latin1')}`;
}
