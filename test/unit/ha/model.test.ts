/**
 * Who may go on alone cannot split: every state that two sides, an arbiter and what may happen between them can reach
 * is looked at (test/helpers/ha-world.ts says what may happen). And the same walk finds each of the mistakes that one
 * could make, so that it can be believed when it finds none. docs/arbiter.md quotes the figures.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { judge } from '../../../src/ha/arbiter/arbiter.ts';
import {
  TABLE,
  arm,
  askToBeAlone,
  becomePrimary,
  goAlone,
  startFromDisk,
  type Handler,
  type Rules,
  type Side,
  type Step,
} from '../../../src/ha/side.ts';
import { explore } from '../../helpers/ha-model.ts';
import type { Bounds, Judge } from '../../helpers/ha-world.ts';

const BOUNDS = { ahead: 1 };

test('no state that can be reached has two speakers, a lost word, or no way back to service', (t) => {
  const { states, moves, fault } = explore(BOUNDS, TABLE);
  assert.equal(fault, null, JSON.stringify(fault, null, 2));
  t.diagnostic(
    `${states} states, ${moves} moves: any number of deaths, freezes, failovers and lost, late or repeated ` +
      `messages; the guest at most ${BOUNDS.ahead} step ahead of what the world was told`,
  );
  assert.ok(states > 10_000, `${states} states: the model has lost something`);
});

/** Speaks, with the record as it would be. */
function speakNow(side: Side): Step {
  const { side: asking } = askToBeAlone(side);
  const { swap } = asking;
  if (!swap) return { side, actions: [] };
  const epoch = swap.expected.epoch + 1;
  return goAlone(asking, {
    type: 'won',
    record: { version: 1, vm: 'vm', epoch, ...swap.next },
  });
}

function wonAnyway(side: Side): Step {
  if (!side.swap) return { side, actions: [] };
  const { expected, next } = side.swap;
  const event = {
    type: 'won',
    record: { version: 1, vm: 'vm', epoch: expected.epoch + 1, ...next },
  } as const;
  return side.phase === 'pairing' ? becomePrimary(side, event) : goAlone(side, event);
}

const mutated = (changes: Partial<Rules>): Rules => ({ ...TABLE, ...changes });
const goBackToAlone: Handler<'unreachable'> = (side) => ({
  side: { ...side, phase: 'alone', peer: null, swap: null },
  actions: [],
});

const epochOnly: Judge = (vm, current, expected, next) => {
  const isThere = current !== null && current.epoch === expected?.epoch;
  return judge(vm, current, isThere ? current : expected, next);
};
const alwaysWon: Judge = (vm, current, expected, next) => judge(vm, current, current ?? expected, next);

const MISTAKES: Record<string, { rules?: Rules; arbiter?: Judge; bounds?: Bounds; found: RegExp }> = {
  'a secondary speaks before its swap is won': {
    rules: mutated({ secondary: { ...TABLE.secondary, 'peer-lost': speakNow } }),
    found: /the record does not say so|both/,
  },
  'a primary speaks before its swap is won': {
    rules: mutated({ primary: { ...TABLE.primary, 'peer-lost': speakNow } }),
    found: /the record does not say so|both/,
  },
  'out of reach counts as won': {
    rules: mutated({ asking: { ...TABLE.asking, unreachable: wonAnyway } }),
    found: /the record does not say so|both/,
  },
  'the loser goes on': {
    rules: mutated({ asking: { ...TABLE.asking, lost: wonAnyway } }),
    found: /the record does not say so|both/,
  },
  'the loser asks again, from the record that it lost to': {
    rules: mutated({
      asking: {
        ...TABLE.asking,
        lost: (side) => ({ side: { ...side, phase: 'reading' }, actions: [{ type: 'read' }] }),
      },
      reading: {
        ...TABLE.reading,
        record: (side, event) =>
          event.record
            ? askToBeAlone({ ...side, phase: 'asking', known: event.record })
            : { side, actions: [] },
      },
    }),
    found: /lacks|half a guest|two stories/,
  },
  'a stale copy starts from its disk': {
    rules: mutated({
      reading: {
        ...TABLE.reading,
        record: (side, event) =>
          startFromDisk(side, {
            type: 'record',
            record: event.record && { ...event.record, members: [side.id] },
          }),
      },
    }),
    found: /lacks|half a guest/,
  },
  'the record says that the pair is whole before the peer has the guest': {
    rules: mutated({
      alone: {
        ...TABLE.alone,
        'peer-ready': (side, event) => {
          const { side: arming, actions } = arm(side, event);
          if (!arming.swap) return { side, actions: [] };
          const { expected, next } = arming.swap;
          return {
            side: { ...arming, phase: 'pairing' },
            actions: [...actions, { type: 'swap', expected, next }],
          };
        },
      },
    }),
    found: /lacks what the world was told/,
  },
  'a pair that may have come to be is forgotten': {
    rules: mutated({ pairing: { ...TABLE.pairing, unreachable: goBackToAlone } }),
    found: /the record does not say so|both|lacks/,
  },
  'a revived primary believes old answers': {
    rules: mutated({ primary: withoutRevived(TABLE.primary), pairing: withoutRevived(TABLE.pairing) }),
    found: /before it knew/,
  },
  'records are told apart by their epochs alone': { arbiter: epochOnly, found: /./ },
  'the arbiter lets every swap win': { arbiter: alwaysWon, found: /both|the record does not say so/ },
  'nobody asks again': {
    rules: mutated({ asking: { won: TABLE.asking.won!, lost: TABLE.asking.lost! } }),
    // Whether there is a way back is asked when all states are known.
    bounds: { ahead: 0 },
    found: /never does|ever serve/,
  },
};

function withoutRevived(row: Rules['primary']): Rules['primary'] {
  const { revived, ...others } = row;
  assert.ok(revived);
  return others;
}

describe('the walk finds', () => {
  for (const [name, { rules = TABLE, arbiter, bounds = BOUNDS, found }] of Object.entries(MISTAKES)) {
    test(name, (t) => {
      const { states, fault } = explore(bounds, rules, arbiter);
      assert.ok(fault, `not found in ${states} states`);
      assert.match(fault.what, found);
      t.diagnostic(`${fault.what}, after ${fault.way.length} moves: ${fault.way.join(', ')}`);
    });
  }
});
