/**
 * Two guests that speak on one TCP connection: the same streams, cut, repeated, lost, delayed and acknowledged by each in
 * its own way. A `Plan` is drawn by fast-check; `segmentsOf` turns one side of it into segments.
 */
import fc from 'fast-check';
import { TCP_FLAG } from '../../../src/net/packet.ts';
import { Noise, tcpFrame } from './property-frames.ts';
import type { FlowShape, WireFrame } from './property-frames.ts';
import type { Spec } from './tcp-model.ts';

export interface SideStep {
  readonly kind: 'data' | 'ack' | 'repeat';
  readonly length: number;
  /** How far before its own position it begins: a retransmission, in part or in whole. */
  readonly back: number;
  /** It does not get through; what it carried is sent again in the end. */
  readonly isLost: boolean;
  /** By how many segments it is overtaken. */
  readonly late: number;
  readonly ack: number;
  /** Which of the earlier segments is repeated. */
  readonly pick: number;
  readonly seed: number;
}

export interface Plan {
  readonly flow: FlowShape;
  /** Sequence number of the byte before the stream's first; of the secondary's own SYN; of the other direction. */
  readonly initial: number;
  readonly secondaryInitial: number;
  readonly ackInitial: number;
  /** `middle`: the comparer sees it first when it is long established. */
  readonly opening: 'passive' | 'active' | 'middle';
  readonly ending: 'open' | 'fin' | 'reset' | 'fin+reset';
  readonly totalBytes: number;
  readonly totalAck: number;
  /** 1: all bytes are alike. */
  readonly alphabet: number;
  readonly seed: number;
  readonly primary: readonly SideStep[];
  readonly secondary: readonly SideStep[];
}

/** A segment on its way, with the frame that carries it. */
export interface Said extends Spec {
  readonly frame: WireFrame;
}

const MAX_SEGMENT_BYTES = 1_400;

const seed = fc.nat(0x7fffffff);
const rarely = (weight: number): fc.Arbitrary<boolean> =>
  fc.oneof({ weight, arbitrary: fc.constant(false) }, { weight: 1, arbitrary: fc.constant(true) });

export const sideStep: fc.Arbitrary<SideStep> = fc.record({
  kind: fc.constantFrom('data', 'data', 'data', 'data', 'ack', 'repeat'),
  length: fc.oneof(fc.nat(8), fc.nat(120), fc.nat(MAX_SEGMENT_BYTES)),
  back: fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(90) }),
  isLost: rarely(6),
  late: fc.oneof({ weight: 5, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(4) }),
  ack: fc.nat(60),
  pick: fc.nat(1_000),
  seed,
});

/** Some cross the wrap of the numbers at once, some later, some not. */
const sequenceNumber = fc.oneof(
  fc.integer({ min: 0xffffff00, max: 0xffffffff }),
  fc.integer({ min: 0x7fffff00, max: 0x800000ff }),
  fc.integer({ min: 0, max: 0xffffffff }),
);

export const NETWORKS: readonly FlowShape['network'][] = ['ipv4', 'ipv6'];
export const VLANS: readonly (readonly number[])[] = [[], [], [5], [6], [5, 6]];

export const flowShape: fc.Arbitrary<FlowShape> = fc.record({
  network: fc.constantFrom(...NETWORKS),
  vlans: fc.constantFrom(...VLANS),
  number: fc.nat(200),
});

export const plan: fc.Arbitrary<Plan> = fc.record({
  flow: flowShape,
  initial: sequenceNumber,
  secondaryInitial: sequenceNumber,
  ackInitial: sequenceNumber,
  opening: fc.constantFrom('passive', 'active', 'middle'),
  ending: fc.constantFrom('open', 'fin', 'reset', 'fin+reset'),
  totalBytes: fc.oneof(fc.nat(40), fc.nat(600), fc.nat(5_000)),
  totalAck: fc.oneof(fc.nat(10), fc.nat(600)),
  alphabet: fc.constantFrom(256, 256, 2, 1),
  seed,
  primary: fc.array(sideStep, { minLength: 1, maxLength: 14 }),
  secondary: fc.array(sideStep, { minLength: 1, maxLength: 14 }),
});

export function streamOf({ totalBytes, alphabet, seed }: Plan): Uint8Array {
  const noise = new Noise(seed);
  return Uint8Array.from({ length: totalBytes }, () => noise.below(alphabet));
}

interface Draft extends Spec {
  readonly seed: number;
}

/** One side's segments in the order in which they arrive; in the end all of `stream` has come through. */
export function segmentsOf(
  plan: Plan,
  side: 'primary' | 'secondary',
  stream: Uint8Array,
  hasVnet: boolean,
  finAt: number | null = plan.ending.startsWith('fin') ? stream.length : null,
): Said[] {
  const end = finAt ?? stream.length;
  const drafts: Draft[] = [];
  const lost: Draft[] = [];
  const delays: number[] = [];
  const steps = plan[side];
  const noise = new Noise(plan.seed ^ (side === 'primary' ? 1 : 2));
  let at = 0;
  let ack = 0;
  const push = (draft: Draft, step: SideStep | null): void => {
    // A SYN is the first; a connection that is seen first in its middle begins with its lowest byte.
    const isFixed =
      draft.isSyn === true || (plan.opening === 'middle' && drafts.every((one) => one.payload.length === 0));
    if (step?.isLost && !isFixed) {
      lost.push(draft);
      return;
    }
    drafts.push(draft);
    delays.push(isFixed ? 0 : (step?.late ?? 0));
  };
  const data = (from: number, to: number): Draft => ({
    at: from,
    ack,
    payload: stream.subarray(from, to),
    isFin: finAt !== null && to === end && noise.below(2) === 0,
    seed: noise.next(),
  });
  if (plan.opening !== 'middle') {
    push(
      {
        at: 0,
        ack: plan.opening === 'passive' ? 0 : null,
        payload: NOTHING,
        isSyn: true,
        seed: noise.next(),
      },
      null,
    );
  }
  for (const step of steps) {
    ack = Math.min(plan.totalAck, ack + step.ack);
    const earlier = drafts[step.pick % Math.max(1, drafts.length)];
    // A SYN is not repeated once its sender has gone on: nothing may overtake it, also no filling of a gap.
    if (step.kind === 'repeat' && earlier && (at === 0 || !earlier.isSyn)) {
      push({ ...earlier, seed: step.seed }, step);
    } else if (step.kind === 'ack') {
      push({ at, ack, payload: NOTHING, seed: step.seed }, step);
    } else {
      const from = Math.max(0, at - step.back);
      const to = Math.min(end, from + step.length);
      push({ ...data(from, to), seed: step.seed }, step);
      at = Math.max(at, to);
    }
  }
  for (; at < end; at = Math.min(end, at + MAX_SEGMENT_BYTES)) {
    push(data(at, Math.min(end, at + MAX_SEGMENT_BYTES)), null);
  }
  const arrived = reordered(drafts, delays);
  for (const draft of lost) arrived.push({ ...draft, seed: noise.next() });
  ack = plan.totalAck;
  arrived.push({ at, ack, payload: NOTHING, isFin: finAt !== null, seed: noise.next() });
  if (plan.ending.endsWith('reset')) {
    arrived.push({
      at: at + (finAt === null ? 0 : 1),
      ack: noise.below(2) ? ack : null,
      payload: NOTHING,
      isReset: true,
      seed: noise.next(),
    });
  }
  return arrived.map((draft) => ({ ...draft, frame: frameOf(plan, side, draft, hasVnet) }));
}

export function frameOf(
  plan: Pick<Plan, 'flow' | 'initial' | 'secondaryInitial' | 'ackInitial'>,
  side: 'primary' | 'secondary',
  spec: Spec & { readonly seed: number },
  hasVnet: boolean,
): WireFrame {
  const initial = spec.isSyn && side === 'secondary' ? plan.secondaryInitial : plan.initial;
  const sequence = spec.isSyn ? initial : initial + 1 + spec.at;
  const flags =
    (spec.isSyn ? TCP_FLAG.SYN : 0) | (spec.isFin ? TCP_FLAG.FIN : 0) | (spec.isReset ? TCP_FLAG.RST : 0);
  const acknowledgment = spec.ack === null ? null : (plan.ackInitial + 1 + spec.ack) >>> 0;
  return tcpFrame(
    plan.flow,
    { sequence: sequence >>> 0, acknowledgment, flags, payload: spec.payload },
    spec.seed,
    hasVnet,
  );
}

/** Each moves back by its delay. */
function reordered<T>(items: readonly T[], delays: readonly number[]): T[] {
  return items
    .map((item, index) => ({ item, place: index + (delays[index] ?? 0) + (delays[index] ? 0.5 : 0) }))
    .sort((a, b) => a.place - b.place)
    .map(({ item }) => item);
}

const NOTHING = new Uint8Array(0);

/** One chunk of one side's stream. */
export interface Chunk {
  readonly isPrimary: boolean;
  readonly bytes: number;
}

export const chunks: fc.Arbitrary<Chunk[]> = fc.array(
  fc.record({
    isPrimary: fc.boolean(),
    bytes: fc.oneof(
      fc.integer({ min: 1, max: 6 }),
      fc.integer({ min: 1, max: 200 }),
      fc.integer({ min: 1, max: 5_000 }),
    ),
  }),
  { minLength: 1, maxLength: 24 },
);
