/**
 * The comparer as a whole on one TCP connection, against a model that knows nothing of how it is made (tcp-model.ts).
 * Two guests say the same, each in its own segments, with losses, repetitions, delays and other headers: exactly the
 * primary's packets leave, as soon as they may, unchanged, and nobody asks for a checkpoint. Two guests that differ in
 * one thing: nothing at or behind it leaves, and one checkpoint is asked for. COLO_FUZZ=N makes it N times as long.
 *
 * Mutations of src/net/compare that were tried, and that both of these caught: the last byte of a segment not compared;
 * acknowledgments not compared, or let go one too far; a kept piece of the secondary's stream left a view; a pooled
 * buffer given to two packets, or given back before its packet left; the queue not sorted, or one place off; the first
 * packet overtaken; sequence numbers that do not wrap; a repetition that replaces what was said; FIN, or RST, not
 * compared; a pure ACK that moves the floor; the vnet word or the padding lost. The second alone caught: a SYN that
 * forgets the secondary's RST, a difference mark that stays on a record, silence that is never late.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { CheckpointReason } from '../../../src/net/compare/options.ts';
import { Feed, assertReleased, turns } from './conversation.ts';
import { makePropertyRig, wholeCheckpoint } from './property-rig.ts';
import { TcpModel } from './tcp-model.ts';
import { chunks, plan, segmentsOf, streamOf } from './tcp-script.ts';
import type { Chunk, Plan, Said } from './tcp-script.ts';

const FUZZ = Math.max(1, Number(process.env['COLO_FUZZ'] ?? 1) || 1);
const SAME_RUNS = 600 * FUZZ;
const DIFFERENT_RUNS = 600 * FUZZ;

function sameTwice(plan: Plan, pieces: readonly Chunk[], hasVnet: boolean): void {
  const stream = streamOf(plan);
  const rig = makePropertyRig(hasVnet);
  try {
    const model = new TcpModel<Said>();
    const sent = segmentsOf(plan, 'primary', stream, hasVnet);
    const primary = new Feed(sent);
    const secondary = new Feed(segmentsOf(plan, 'secondary', stream, hasVnet));
    let left = 0;
    for (const { isPrimary, bytes } of turns(pieces, primary, secondary)) {
      const expected: Said[] = [];
      if (isPrimary) {
        for (const said of primary.give(bytes, rig.primary)) expected.push(...model.primary(said));
      } else {
        for (const said of secondary.give(bytes, rig.secondary)) expected.push(...model.secondary(said));
      }
      assertReleased(rig, expected, `after ${left}`);
      left += expected.length;
      assert.deepEqual(rig.requests, [], 'nobody differs');
    }
    assert.equal(left, sent.length, 'the model let all go');
    assert.equal(rig.compare.heldPackets, 0);
  } finally {
    rig.compare.close();
  }
}

test('TCP: two guests that say the same let exactly the primary speak, at once', () => {
  fc.assert(
    fc.property(plan, chunks, fc.boolean(), (drawn, pieces, hasVnet) => sameTwice(drawn, pieces, hasVnet)),
    { numRuns: SAME_RUNS, includeErrorInReport: true },
  );
});

interface Difference {
  readonly kind: 'changed' | 'missing' | 'inserted' | 'short' | 'fin' | 'reset';
  /** Where, as a part of the stream. */
  readonly place: number;
  readonly byte: number;
}

const difference: fc.Arbitrary<Difference> = fc.record({
  kind: fc.constantFrom('changed', 'changed', 'missing', 'inserted', 'short', 'fin', 'reset'),
  place: fc.nat(999),
  byte: fc.integer({ min: 1, max: 255 }),
});

/** The secondary's stream and how it ends. */
function differing(plan: Plan, stream: Uint8Array, { kind, place, byte }: Difference): [Uint8Array, Plan] {
  const at = Math.floor((place * stream.length) / 1_000);
  const [before, behind] = [stream.subarray(0, at), stream.subarray(at + 1)];
  const here = stream[at] ?? 0;
  const isFin = plan.ending.startsWith('fin');
  const isReset = plan.ending.endsWith('reset');
  switch (kind) {
    case 'changed':
      return [Buffer.concat([before, Uint8Array.of(here ^ byte), behind]), plan];
    case 'missing':
      return [Buffer.concat([before, behind]), plan];
    case 'inserted':
      return [Buffer.concat([before, Uint8Array.of(byte), stream.subarray(at)]), plan];
    case 'short':
      return [before, { ...plan, ending: isReset ? 'fin+reset' : 'fin' }];
    case 'fin':
      return [
        stream,
        { ...plan, ending: isFin ? (isReset ? 'reset' : 'open') : isReset ? 'fin+reset' : 'fin' },
      ];
    case 'reset':
      return [
        stream,
        { ...plan, ending: isReset ? (isFin ? 'fin' : 'open') : isFin ? 'fin+reset' : 'reset' },
      ];
  }
}

async function oneDiffers(
  plan: Plan,
  what: Difference,
  pieces: readonly Chunk[],
  hasVnet: boolean,
): Promise<void> {
  const stream = streamOf(plan);
  if (stream.length === 0) return;
  const [otherStream, otherPlan] = differing(plan, stream, what);
  const first = firstDifference(stream, otherStream);
  const rig = makePropertyRig(hasVnet);
  try {
    const model = new TcpModel<Said>();
    const sent = segmentsOf(plan, 'primary', stream, hasVnet);
    const primary = new Feed(sent);
    const secondary = new Feed(segmentsOf(otherPlan, 'secondary', otherStream, hasVnet));
    let left = 0;
    const seen = { isDue: false };
    for (const { isPrimary, bytes } of turns(pieces, primary, secondary)) {
      const expected: Said[] = [];
      const note = (released: Said[]): void => {
        expected.push(...released);
        seen.isDue ||= model.isRequestDue;
      };
      if (isPrimary) for (const said of primary.give(bytes, rig.primary)) note(model.primary(said));
      else for (const said of secondary.give(bytes, rig.secondary)) note(model.secondary(said));
      assertReleased(rig, expected, `after ${left}`);
      left += expected.length;
      for (const { at, payload } of expected) {
        assert.ok(
          payload.length === 0 || at + payload.length <= first,
          'a byte at or behind the difference left',
        );
      }
      if (seen.isDue) assert.equal(rig.requests.length, 1, 'it differs, one checkpoint is asked for');
      else if (model.hasConflict) assert.ok(rig.requests.length <= 1);
      else assert.deepEqual(rig.requests, [], 'no difference has been said yet');
    }
    rig.clock.ms += rig.compare.compareTimeoutMs + 1;
    if (rig.requests.length === 0) rig.compare.scan();
    assert.equal(rig.requests.length, 1, 'a difference that is silence is seen in time');
    assert.equal(rig.requests[0]?.flow, flowName(plan));
    if (what.kind === 'changed') assertNamed(rig.requests[0], first, sent, stream, otherStream);
    await wholeCheckpoint(rig);
    assert.equal(left + rig.released().length, sent.length, 'a checkpoint lets the rest go');
    assert.equal(rig.requests.length, 1);
  } finally {
    rig.compare.close();
  }
}

test('TCP: two guests that differ in one thing say nothing behind it, and one checkpoint is asked for', async () => {
  await fc.assert(fc.asyncProperty(plan, difference, chunks, fc.boolean(), oneDiffers), {
    numRuns: DIFFERENT_RUNS,
    includeErrorInReport: true,
  });
});

/** The request says where the first differing byte is, in one of the primary's packets, and what both have said. */
function assertNamed(
  { cause, difference }: CheckpointReason,
  first: number,
  sent: readonly Said[],
  stream: Uint8Array,
  otherStream: Uint8Array,
): void {
  assert.equal(cause, 'payload');
  assert.equal(difference?.primaryByte, stream[first]);
  assert.equal(difference?.secondaryByte, otherStream[first]);
  const { payloadOffset = -1, packetOffset = -1 } = difference ?? {};
  const holders = sent.filter(({ at, payload }) => at <= first && first < at + payload.length);
  assert.ok(
    holders.some(({ at, payload, frame: { bytes, vnetHdrLen } }) => {
      const offset = (vnetHdrLen ?? 0) + packetOffset - payloadOffset;
      const isPayload = Buffer.compare(bytes.subarray(offset, offset + payload.length), payload) === 0;
      return at + payloadOffset === first && isPayload;
    }),
    `no packet of the primary's holds it at ${payloadOffset}, ${packetOffset}`,
  );
}

function firstDifference(a: Uint8Array, b: Uint8Array): number {
  let at = 0;
  while (at < a.length && at < b.length && a[at] === b[at]) at++;
  return at === a.length && at === b.length ? Infinity : at;
}

/** As a CheckpointReason names it. */
function flowName({ flow }: Plan): string {
  const port = 40_000 + flow.number;
  const ends =
    flow.network === 'ipv4'
      ? `10.0.2.15:80>10.0.3.${flow.number}:${port}`
      : `[fd00::f]:80>[fd00::${flow.number === 0 ? '' : flow.number.toString(16)}]:${port}`;
  return `tcp/${ends}${flow.vlans.map((id) => ` vlan ${id}`).join('')}`;
}
