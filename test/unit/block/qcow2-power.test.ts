/**
 * The host of a qcow2 image loses power: of what was written since the last flush any part may have reached the disk.
 * The image then has no errors, and whatever was flushed and not written since is there, also next to what was.
 * Not covered: the time from makeEmpty to the next flush, as docs/nbd-qcow2.md says.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Dice } from '../../helpers/dice.ts';
import {
  afterPowerFailure,
  BufferDisk,
  FUZZ,
  Model,
  emptyImage,
  examine,
  openImage,
  record,
} from './qcow2-recorder.ts';
import type { Act, Layout, LogEntry, Recording } from './qcow2-recorder.ts';

const LAYOUTS: Layout[] = [
  { guestBytes: 100_352, clusterBits: 9 },
  { guestBytes: 100_352, clusterBits: 9, below: 60_000 },
  { guestBytes: 100_352, clusterBits: 9, refcountOrder: 6, below: 140_000 },
  { guestBytes: 100_352, clusterBits: 9, refcountOrder: 0 },
  { guestBytes: 100_352, clusterBits: 10, version: 2, below: 60_000 },
  { guestBytes: 200_704, clusterBits: 12, refcountOrder: 1, below: 60_000 },
];

/** What was promised at a moment: the model of the last flush, and the bytes that were touched since. */
function promise(recording: Recording, moment: number): { model: Model; touched: Uint8Array } | null {
  const flushes = recording.acts.filter(
    ({ verb, end }) => (verb === 'flush' || verb === 'fua') && end <= moment,
  );
  const last = flushes.reduce<Act | null>(
    (best, act) => (best && best.begin >= act.begin ? best : act),
    null,
  );
  const asked = last?.begin ?? 0;
  const emptied = recording.acts.some(
    ({ verb, begin, end }) => verb === 'empty' && begin <= moment && end > asked,
  );
  if (emptied) return null;
  const model = new Model(recording);
  const touched = new Uint8Array(recording.largest);
  for (const act of [...recording.acts].sort((a, b) => a.end - b.end)) {
    if (act.end <= asked || act === last) model.end(act);
    else if (act.begin <= moment) touched.fill(1, act.from, act.to);
  }
  return { model, touched };
}

async function failAt(recording: Recording, moment: number, dice: Dice): Promise<boolean> {
  const promised = promise(recording, moment);
  if (!promised) return false;
  const bytes = afterPowerFailure(recording, moment, dice);
  const what = `power failure after ${moment}`;
  const found = await examine(bytes, recording.below, what);
  const { model, touched } = promised;
  for (let at = 0; at < found.byteLength; at++) {
    if (touched[at] === 1 || found[at] === model.value[at]) continue;
    assert.ok(
      found[at] === 0 && model.maybeZero[at] === 1,
      `${what}: byte ${at} was flushed as ${model.value[at] ?? ''} and is ${found[at] ?? ''}`,
    );
  }
  if (dice.roll(10) === 0) {
    // It can be gone on with.
    const disk = new BufferDisk(Buffer.from(bytes));
    const node = await openImage(disk, recording.below);
    for (let at = 0; at + 7000 < node.lengthBytes; at += 9973) await node.write(at, Buffer.alloc(7000, 3));
    await node.close();
    await examine(disk.bytes, recording.below, `${what}, then written`);
  }
  return true;
}

describe('qcow2 after a power failure', () => {
  for (const layout of LAYOUTS) {
    it(JSON.stringify(layout), async () => {
      const image = await emptyImage(layout);
      let states = 0;
      for (let seed = 1; seed <= 2 * FUZZ; seed++) {
        const recording = await record(layout, seed, 30, image);
        const dice = new Dice(seed);
        for (let moment = 1; moment <= recording.disk.log.length; moment += 1 + dice.roll(5)) {
          if (await failAt(recording, moment, dice)) states++;
        }
      }
      assert.ok(states > 60, `only ${states} states`);
    });
  }

  it('with copy-barrier=off: no errors still, but what was copied may be gone', async () => {
    const layout: Layout = { guestBytes: 100_352, clusterBits: 12, below: 100_352, copyBarrier: false };
    const image = await emptyImage(layout);
    const lost: string[] = [];
    for (let seed = 1; seed <= 2; seed++) {
      const recording = await record(layout, seed, 30, image);
      const dice = new Dice(seed);
      for (let moment = 1; moment <= recording.disk.log.length; moment += 1 + dice.roll(4)) {
        await failAt(recording, moment, dice).catch((error: unknown) => lost.push(String(error)));
      }
    }
    assert.ok(lost.length > 0);
    assert.deepEqual(
      lost.filter((message) => !/was flushed as/.test(message)),
      [],
    );
  });

  it('is found out by this test if no barriers are put up', async () => {
    // The same recordings without their flushes between dependent writes.
    const layout = LAYOUTS[1]!;
    const image = await emptyImage(layout);
    const recording = await record(layout, 1, 30, image);
    const kept = new Set<LogEntry>();
    for (const act of recording.acts) {
      const entry = recording.disk.log.slice(0, act.end).findLast(({ kind }) => kind === 'flush');
      if ((act.verb === 'flush' || act.verb === 'fua') && entry) kept.add(entry);
    }
    for (const [index, entry] of recording.disk.log.entries()) {
      if (entry.kind === 'flush' && !kept.has(entry))
        recording.disk.log[index] = { kind: 'flush', covers: new Set() };
    }
    const dice = new Dice(1);
    let broken = 0;
    for (let moment = 1; moment <= recording.disk.log.length; moment += 2) {
      await failAt(recording, moment, dice).catch(() => broken++);
    }
    assert.ok(broken > 0);
  });
});
