/**
 * Rule 1 as a property: whatever the two guests say and in whatever order it arrives, no packet of the primary's leaves
 * before the secondary has said the same bytes and acknowledged as much in this epoch, or a checkpoint covers it; and
 * in the end every packet leaves exactly once. The oracle keeps its own account, byte by byte.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { PacketView } from '../../../src/net/packet.ts';
import { makeRig } from './compare-rig.ts';
import { tcp, udp } from './frames.ts';

/** Streams cross the wrap of the sequence numbers. */
const INITIAL = 0xfffffff0;
const INITIAL_ACK = 0xfffffffa;

const STREAM = Buffer.from(Array.from({ length: 4096 }, (_, at) => (at * 7 + (at >> 3)) & 0xff));

interface Step {
  readonly kind: 'primary' | 'secondary' | 'stop' | 'commit';
  readonly length: number;
  /** How far before the side's own position it begins: a retransmission. */
  readonly back: number;
  /** How far ahead of it the secondary begins: a segment out of order. */
  readonly ahead: number;
  readonly ack: number;
  /** The secondary says something else. */
  readonly isWrong: boolean;
}

const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom(
    'primary',
    'secondary',
    'primary',
    'secondary',
    'primary',
    'secondary',
    'stop',
    'commit',
  ),
  length: fc.nat(6),
  back: fc.oneof(fc.constant(0), fc.nat(5)),
  ahead: fc.oneof({ weight: 5, arbitrary: fc.constant(0) }, fc.nat(4)),
  ack: fc.nat(3),
  isWrong: fc.oneof({ weight: 12, arbitrary: fc.constant(false) }, fc.constant(true)),
});

async function run(steps: readonly Step[]): Promise<{ requests: number }> {
  const rig = makeRig();
  try {
    /** Offsets into STREAM, and into the client's stream for the acknowledgments. */
    let primaryAt = 0;
    let primaryAck = 0;
    let secondaryAt = 0;
    let secondaryAck = 0;
    let coveredEnd = 0;
    let coveredAck = -1;
    const epoch = { isClosing: false };
    let saidAck = -1;
    let said = new Map<number, number>();
    let sent = 0;
    let left = 0;
    const view = new PacketView();

    const check = (isCommit: boolean): void => {
      for (const frame of rig.released()) {
        left++;
        if (isCommit) continue;
        view.parse(frame);
        const at = (view.sequence - INITIAL) | 0;
        const ack = (view.acknowledgment - INITIAL_ACK) | 0;
        assert.ok(ack <= Math.max(saidAck, coveredAck), `acknowledged ${ack} too early`);
        for (let index = 0; index < view.payloadBytes; index++) {
          if (at + index < coveredEnd) continue;
          assert.equal(
            said.get(at + index),
            frame[view.payloadAt + index],
            `byte ${at + index} left too early`,
          );
        }
      }
    };
    const stop = async (): Promise<void> => {
      rig.compare.stopped('primary');
      await rig.compare.peerMarks('primary', rig.secondaryMark());
      rig.compare.resumed('primary');
      epoch.isClosing = true;
      said = new Map();
      saidAck = -1;
      coveredEnd = primaryAt;
      coveredAck = primaryAck;
    };
    const commit = async (): Promise<void> => {
      if (!epoch.isClosing) return;
      // What the primary has said since is of the next epoch and has no twin yet.
      await rig.compare.commit('primary');
      epoch.isClosing = false;
      secondaryAt = coveredEnd;
      secondaryAck = coveredAck;
      check(true);
    };
    const secondarySays = (at: number, length: number, isWrong: boolean): void => {
      const payload = Buffer.from(STREAM.subarray(at, at + length));
      if (isWrong && length > 0) payload[length - 1]! ^= 0xff;
      for (const [index, byte] of payload.entries()) if (!said.has(at + index)) said.set(at + index, byte);
      saidAck = Math.max(saidAck, secondaryAck);
      rig.secondary.giveFrame(
        tcp({ seq: (INITIAL + at) >>> 0, ack: (INITIAL_ACK + secondaryAck) >>> 0, payload, id: 3 }),
      );
    };

    for (const { kind, length, back, ahead, ack, isWrong } of steps) {
      if (kind === 'primary') {
        const at = Math.max(0, primaryAt - back);
        primaryAck += ack;
        sent++;
        rig.primary.giveFrame(
          tcp({
            seq: (INITIAL + at) >>> 0,
            ack: (INITIAL_ACK + primaryAck) >>> 0,
            payload: STREAM.subarray(at, at + length),
          }),
        );
        primaryAt = Math.max(primaryAt, at + length);
      } else if (kind === 'secondary') {
        // A secondary that is being loaded is silent.
        if (epoch.isClosing) continue;
        const at = Math.max(0, secondaryAt - back) + ahead;
        secondaryAck += ack;
        secondarySays(at, length, isWrong);
        if (ahead === 0) secondaryAt = Math.max(secondaryAt, at + length);
      } else if (kind === 'stop') {
        if (!epoch.isClosing) await stop();
      } else {
        await commit();
      }
      check(false);
    }
    const requests = rig.requests.length;
    await commit();
    if (requests === 0) {
      // The secondary catches up: all leaves without a checkpoint, unless it has said something wrong.
      const isRight = [...said].every(([at, byte]) => STREAM[at] === byte);
      secondaryAck = Math.max(secondaryAck, primaryAck);
      secondarySays(0, Math.max(primaryAt, secondaryAt), false);
      check(false);
      if (isRight && rig.requests.length === 0) assert.equal(left, sent, 'a packet with a twin was kept');
    }
    await stop();
    await commit();
    assert.equal(left, sent);
    assert.equal(rig.compare.heldPackets, 0);
    return { requests };
  } finally {
    rig.compare.close();
  }
}

test('TCP: no byte and no acknowledgment leaves before its twin or its checkpoint', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      await run(steps);
    }),
    { numRuns: 1500 },
  );
});

test('TCP: two guests that say the same never need a checkpoint', async () => {
  const quiet = step.map((one) => ({
    ...one,
    isWrong: false,
    kind: one.kind === 'stop' || one.kind === 'commit' ? ('secondary' as const) : one.kind,
  }));
  await fc.assert(
    fc.asyncProperty(fc.array(quiet, { maxLength: 60 }), async (steps) => {
      assert.equal((await run(steps)).requests, 0);
    }),
    { numRuns: 500 },
  );
});

test('UDP: a datagram leaves once, in its own order, and only when the secondary has sent its like', () => {
  const sides = fc.array(fc.tuple(fc.boolean(), fc.nat(3)), { maxLength: 60 });
  fc.assert(
    fc.property(sides, (steps) => {
      const rig = makeRig();
      try {
        const said = new Map<number, number>();
        const sent: number[] = [];
        const left: number[] = [];
        for (const [isPrimary, letter] of steps) {
          if (isPrimary) {
            sent.push(letter);
            rig.primary.giveFrame(udp(Uint8Array.of(letter)));
          } else {
            said.set(letter, (said.get(letter) ?? 0) + 1);
            rig.secondary.giveFrame(udp(Uint8Array.of(letter), { id: 4 }));
          }
          for (const frame of rig.released()) {
            const value = frame.at(-1)!;
            left.push(value);
            const remaining = (said.get(value) ?? 0) - 1;
            assert.ok(remaining >= 0);
            said.set(value, remaining);
          }
          assert.deepEqual(left, sent.slice(0, left.length));
        }
      } finally {
        rig.compare.close();
      }
    }),
    { numRuns: 500 },
  );
});
