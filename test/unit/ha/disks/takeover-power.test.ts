/**
 * The host of a secondary that took over loses power, at any moment from when its guest may be heard: before, while and
 * after its overlays are merged. Its three images then hold any part of what was not flushed. Merged offline they give
 * what the guest had seen at the takeover, with all that it has flushed since. (What qcow2 promises alone:
 * test/unit/block/qcow2-power.test.ts.)
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { openQcow2 } from '../../../../src/block/drivers/qcow2/open.ts';
import { ReplicationDriver } from '../../../../src/block/drivers/replication.ts';
import { BlockNode } from '../../../../src/block/node.ts';
import { OptionReader } from '../../../../src/block/options.ts';
import { mergeOverlays } from '../../../../src/ha/disks/merge.ts';
import { Dice } from '../../../helpers/dice.ts';
import { BufferDisk, FUZZ, Recorder, afterPowerFailure, emptyImage } from '../../block/qcow2-recorder.ts';

const BYTES = 400 * 1024;
const LAYOUT = { guestBytes: BYTES, clusterBits: 12 };
const NAMES = ['parent', 'hidden', 'active'] as const;
type Name = (typeof NAMES)[number];
type Disks = Readonly<Record<Name, BufferDisk>>;

interface Act {
  readonly kind: 'write' | 'flush';
  readonly from: number;
  readonly to: number;
  readonly value: number;
  readonly begin: number;
  end: number;
}

/** Log lengths of the three disks. */
type Moment = readonly number[];

interface Run {
  readonly disks: Readonly<Record<Name, Recorder>>;
  readonly moments: readonly Moment[];
  /** The first one at which the guest may be heard. */
  readonly heardAt: number;
  readonly view: Buffer;
  readonly acts: readonly Act[];
}

async function openChain(disks: Disks, isOffline: boolean): Promise<Readonly<Record<Name, BlockNode>>> {
  const open = async (name: Name, backing: BlockNode | null): Promise<BlockNode> => {
    const file = new BlockNode(`${name}-file`, disks[name]);
    const options = {
      file: 'file',
      backing: backing ? 'backing' : '',
      'read-only': isOffline && backing ? 'on' : 'off',
    };
    const driver = await openQcow2(new OptionReader(options), {
      nodeName: name,
      openChild: (role) => Promise.resolve(role === 'file' ? file : (backing ?? assert.fail())),
      find: () => null,
      findLater: () => () => null,
      emit: () => undefined,
    });
    return new BlockNode(name, driver);
  };
  const parent = await open('parent', null);
  const hidden = await open('hidden', parent);
  return { parent, hidden, active: await open('active', hidden) };
}

/** A pair, a takeover, and a guest that goes on; `isSettled` false: nothing is flushed for the takeover. */
async function takeOver(seed: number, image: Buffer, isSettled = true): Promise<Run> {
  const dice = new Dice(seed);
  const disks = {
    parent: new Recorder(image, dice),
    hidden: new Recorder(image, dice),
    active: new Recorder(image, dice),
  };
  const moments: Moment[] = [];
  for (const name of NAMES) {
    const { log } = disks[name];
    log.push = (...entries) => {
      const length = Array.prototype.push.apply(log, entries);
      moments.push(NAMES.map((each) => disks[each].log.length));
      return length;
    };
  }
  const nodes = await openChain(disks, false);
  nodes.parent.users.add('drive:parent0');
  const replication = new ReplicationDriver({
    nodeName: 'childs0',
    mode: 'secondary',
    file: nodes.active,
    findTop: () => top,
    emit: () => undefined,
  });
  const top: BlockNode = new BlockNode('colo-disk0', replication);
  const somewhere = (): { from: number; bytes: Buffer } => {
    const from = dice.roll(BYTES - 1);
    const length = Math.min(BYTES - from, 1 + dice.roll(30_000));
    return { from, bytes: Buffer.alloc(length, 1 + dice.roll(255)) };
  };
  const write = (node: BlockNode): Promise<void> => {
    const { from, bytes } = somewhere();
    return node.write(from, bytes);
  };
  for (let times = 0; times < 5; times++) await write(nodes.parent);
  await replication.start('secondary');
  for (let epoch = 0; epoch < 3; epoch++) {
    if (epoch > 0) await replication.doCheckpoint();
    for (let times = 0; times < 4; times++) await Promise.all([write(nodes.parent), write(top)]);
  }
  if (!isSettled) for (const node of Object.values(nodes)) node.flush = () => Promise.resolve();
  await replication.stopReplication(true);
  if (!isSettled) for (const node of Object.values(nodes)) Reflect.deleteProperty(node, 'flush');
  const heardAt = moments.length;
  const view = Buffer.alloc(BYTES);
  await top.read(0, view);

  const acts: Act[] = [];
  const act = async (): Promise<void> => {
    const { from, bytes } = somewhere();
    const kind = dice.roll(4) === 0 ? 'flush' : 'write';
    const to = from + bytes.byteLength;
    const one: Act = { kind, from, to, value: bytes[0]!, begin: moments.length, end: Infinity };
    acts.push(one);
    await (kind === 'flush' ? top.flush() : top.write(from, bytes));
    one.end = moments.length;
  };
  for (let times = 0; times < 8; times++) await act();
  await replication.commitJob?.ended;
  assert.equal(replication.stage, 'done');
  for (let times = 0; times < 8; times++) await act();
  return { disks, moments, heardAt, view, acts };
}

/** Throws when something that was promised is not there. */
async function failAt(run: Run, at: number, dice: Dice): Promise<void> {
  const moment = run.moments[at] ?? assert.fail();
  const left = (name: Name): BufferDisk => {
    const recording = { disk: run.disks[name], below: null, acts: [], guestBytes: BYTES, largest: BYTES };
    return new BufferDisk(afterPowerFailure(recording, moment[NAMES.indexOf(name)] ?? 0, dice));
  };
  const nodes = await openChain(
    { parent: left('parent'), hidden: left('hidden'), active: left('active') },
    true,
  );
  await mergeOverlays(nodes.active, nodes.parent);
  const found = Buffer.alloc(BYTES);
  await nodes.parent.read(0, found);

  const flush = run.acts.findLast(({ kind, end }) => kind === 'flush' && end <= at);
  const settled = flush?.begin ?? run.heardAt;
  const expected = Buffer.from(run.view);
  const isOpen = Buffer.alloc(BYTES);
  for (const { kind, from, to, value, begin, end } of run.acts) {
    if (kind === 'flush' || begin > at) continue;
    if (end <= settled && flush) expected.fill(value, from, to);
    else isOpen.fill(1, from, to);
  }
  for (let byte = 0; byte < BYTES; byte++) {
    if (isOpen[byte] === 1 || found[byte] === expected[byte]) continue;
    assert.fail(`power failure after ${at}: byte ${byte} is ${found[byte]!}, not ${expected[byte]!}`);
  }
}

describe('a host that loses power after a takeover', () => {
  test('has what its guest saw, and all that it flushed since', async (t) => {
    const image = await emptyImage(LAYOUT);
    let states = 0;
    for (let seed = 1; seed <= 3 * FUZZ; seed++) {
      const run = await takeOver(seed, image);
      const dice = new Dice(seed);
      const moments = run.moments.length - run.heardAt;
      for (let at = run.heardAt; at < run.moments.length; at += 1 + dice.roll(3)) {
        await failAt(run, at, dice);
        states++;
      }
      t.diagnostic(`${moments} moments`);
    }
    assert.ok(states > 60, `only ${states} states`);
  });

  test('would not, if the takeover did not flush', async () => {
    const image = await emptyImage(LAYOUT);
    const run = await takeOver(1, image, false);
    const dice = new Dice(1);
    let broken = 0;
    for (let at = run.heardAt; at < run.moments.length; at++) {
      await failAt(run, at, dice).catch(() => broken++);
    }
    assert.ok(broken > 0);
  });
});
