/**
 * Checkpoints and failover as properties: whenever they come, with packets of both guests on their way, late, cut in
 * pieces or lost with their connection, each packet of the primary's that reaches the comparer leaves exactly once, in
 * its flow's order, not before the secondary has said the same in this epoch or holds the checkpoint that ends it.
 * COLO_FUZZ=N makes it N times as long.
 *
 * Mutations that were tried, and that these caught: an epoch ends and the secondary's bytes, or its acknowledgment, stay;
 * what was closed leaves at the stop; the cut is off by one byte, or the secondary's stream is not cut; the floor is
 * not the checkpoint's; a commit that does not wait; a failover that loses the queue; a packet that waits for the way
 * out overwritten; a request for each difference, answered or not.
 */
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import fc from 'fast-check';
import { PairWorld } from './pair-world.ts';
import type { Utterance, WorldFlow } from './pair-speech.ts';
import { plan } from './tcp-script.ts';

const FUZZ = Math.max(1, Number(process.env['COLO_FUZZ'] ?? 1) || 1);

type Happening =
  | 'read-all'
  | 'checkpoint'
  | 'advance'
  | 'deadline'
  | 'scan'
  | 'break-primary'
  | 'break-secondary'
  | 'block'
  | 'unblock';

type Step =
  | { readonly kind: 'primary' | 'secondary' | 'both'; readonly what: Utterance }
  | { readonly kind: 'read-primary' | 'read-secondary'; readonly bytes: number }
  | { readonly kind: Happening };

const utterance = (rightness: number): fc.Arbitrary<Utterance> =>
  fc.record({
    flow: fc.nat(20),
    length: fc.oneof(fc.nat(8), fc.nat(100)),
    back: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(40) }),
    ack: fc.constantFrom(0, 0, 1, 5),
    isWrong: fc.oneof(
      { weight: rightness, arbitrary: fc.constant(false) },
      { weight: 1, arbitrary: fc.constant(true) },
    ),
    catchesUp: fc.constantFrom(true, false, false),
    letter: fc.nat(2),
  });

const speaks = (kind: 'primary' | 'secondary' | 'both', rightness: number): fc.Arbitrary<Step> =>
  utterance(rightness).map((what) => ({ kind, what }));
const reads = (kind: 'read-primary' | 'read-secondary'): fc.Arbitrary<Step> =>
  fc.oneof(fc.nat(30), fc.nat(400), fc.constant(100_000)).map((bytes) => ({ kind, bytes }));
const happens = (kind: Happening) => fc.constant<Step>({ kind });

/** To so many right words of the secondary's there is a wrong one. */
const script = (rightness: number): fc.Arbitrary<Step[]> =>
  fc.array(
    fc.oneof(
      { weight: 6, arbitrary: speaks('both', rightness) },
      { weight: 5, arbitrary: speaks('primary', rightness) },
      { weight: 5, arbitrary: speaks('secondary', rightness) },
      { weight: 6, arbitrary: happens('read-all') },
      { weight: 3, arbitrary: reads('read-primary') },
      { weight: 3, arbitrary: reads('read-secondary') },
      { weight: 3, arbitrary: happens('advance') },
      { weight: 2, arbitrary: happens('checkpoint') },
      { weight: 1, arbitrary: happens('scan') },
      { weight: 1, arbitrary: happens('deadline') },
      { weight: 1, arbitrary: happens('break-primary') },
      { weight: 1, arbitrary: happens('break-secondary') },
      { weight: 1, arbitrary: happens('block') },
      { weight: 2, arbitrary: happens('unblock') },
    ),
    { minLength: 1, maxLength: 80, size: 'max' },
  );

const flows: fc.Arbitrary<WorldFlow[]> = fc
  .array(plan, { minLength: 2, maxLength: 3 })
  .map((drawn) =>
    drawn.map((one, index) => ({ ...one, flow: { ...one.flow, number: index * 7 + (one.flow.number % 7) } })),
  );

async function play(world: PairWorld, steps: readonly Step[], tick: (ms: number) => void): Promise<void> {
  for (const step of steps) {
    switch (step.kind) {
      case 'primary':
        world.primarySays(step.what);
        break;
      case 'both':
        world.primarySays(step.what);
        world.secondarySays(step.what);
        break;
      case 'secondary':
        world.secondarySays(step.what);
        break;
      case 'read-primary':
        world.deliverPrimary(step.bytes);
        break;
      case 'read-secondary':
        world.deliverSecondary(step.bytes);
        break;
      case 'read-all':
        world.deliverPrimary(Infinity);
        world.deliverSecondary(Infinity);
        break;
      case 'checkpoint':
        for (let phase = 0; phase < 3; phase++) {
          await world.advance();
          await world.check();
        }
        break;
      case 'advance':
        await world.advance();
        break;
      case 'deadline':
        world.passDeadline(tick);
        break;
      case 'scan':
        world.scan();
        break;
      case 'block':
      case 'unblock':
        world.setBlocked(step.kind === 'block', tick);
        break;
      case 'break-primary':
        world.breakPrimary();
        break;
      case 'break-secondary':
        world.breakSecondary();
        break;
    }
    await world.check();
  }
}

/** The deadline of a commit is the test's to end. */
function mockTimers(t: TestContext): (ms: number) => void {
  t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
  return (ms) => t.mock.timers.tick(ms);
}

test('checkpoints whenever they come: each packet leaves once, in order, compared or covered', async (t) => {
  const tick = mockTimers(t);
  const property = fc.asyncProperty(
    flows,
    script(14),
    fc.boolean(),
    fc.nat(),
    async (drawn, steps, hasVnet, seed) => {
      const world = new PairWorld(drawn, hasVnet, seed);
      try {
        await play(world, [...steps, { kind: 'unblock' }], tick);
        await world.settle();
      } finally {
        world.rig.compare.close();
      }
    },
  );
  await fc.assert(property, { numRuns: 400 * FUZZ, includeErrorInReport: true });
});

test('failover whenever it comes: all that waits leaves in order, everything passes, and a new pair may begin', async (t) => {
  const tick = mockTimers(t);
  const property = fc.asyncProperty(
    flows,
    script(14),
    fc.array(speaks('primary', 1), { maxLength: 5 }),
    script(14),
    fc.boolean(),
    fc.nat(),
    async (drawn, steps, after, again, hasVnet, seed) => {
      const world = new PairWorld(drawn, hasVnet, seed);
      try {
        await play(world, steps, tick);
        await world.failOver();
        await play(world, [{ kind: 'unblock' }, ...after], tick);
        await world.restart();
        await play(world, [...again, { kind: 'unblock' }], tick);
        await world.settle();
      } finally {
        world.rig.compare.close();
      }
    },
  );
  await fc.assert(property, { numRuns: 200 * FUZZ, includeErrorInReport: true });
});

test('with little room: what is dropped is counted, and the rest is compared or covered all the same', async (t) => {
  const tick = mockTimers(t);
  const property = fc.asyncProperty(
    flows,
    script(3),
    fc.record({
      maxQueueSize: fc.integer({ min: 1, max: 5 }),
      maxHeldBytes: fc.integer({ min: 300, max: 6_000 }),
      maxFlows: fc.integer({ min: 1, max: 3 }),
    }),
    fc.boolean(),
    fc.nat(),
    async (drawn, steps, limits, hasVnet, seed) => {
      const world = new PairWorld(drawn, hasVnet, seed, limits);
      try {
        await play(world, [...steps, { kind: 'unblock' }], tick);
        await world.settle();
      } finally {
        world.rig.compare.close();
      }
    },
  );
  await fc.assert(property, { numRuns: 300 * FUZZ, includeErrorInReport: true });
});
