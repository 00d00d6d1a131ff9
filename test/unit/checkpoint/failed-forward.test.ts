/**
 * The output of a primary whose disk is no longer the secondary's (docs/architecture.md, rules 1 and 2): a guest that
 * answers as soon as its write and its flush have ended, on a real quorum, replication node and netdev. From the failure
 * on not a frame leaves until the primary is told to go on alone, whatever the failure was, and the pair ends by itself.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Deferred, withDeadline } from '../../../src/base/async.ts';
import { IoError, TimeoutError } from '../../../src/base/errors.ts';
import { QuorumDriver } from '../../../src/block/drivers/quorum.ts';
import { ReplicationDriver } from '../../../src/block/drivers/replication.ts';
import { Blkdebug } from '../../../src/block/filters/blkdebug.ts';
import { GateFilter } from '../../../src/block/filters/delay.ts';
import { NodeAsDriver } from '../../../src/block/filters/pass-through.ts';
import { BlockNode } from '../../../src/block/node.ts';
import { ForwardFailedError } from '../../../src/checkpoint/disk-watch.ts';
import { endKindOf } from '../../../src/checkpoint/end-kind.ts';
import { Netdev } from '../../../src/net/netdev.ts';
import { RunControl } from '../../../src/vm/run-control.ts';
import { socketPair } from '../../helpers/socket-pair.ts';
import { standStill } from '../../helpers/stand-still.ts';
import { CLUSTER, filled, isPending, memory } from '../block/jobs-helpers.ts';
import { secondaryChain } from '../block/replication-chain.ts';
import type { Pair } from './frame-pair.ts';
import { end, protect } from './frame-pair.ts';

const LENGTH = 4 * CLUSTER;
const SOON_MS = 20_000;

interface World {
  readonly pair: Pair;
  readonly quorum: QuorumDriver;
  readonly replication: ReplicationDriver;
  readonly faults: Readonly<Record<'own' | 'wire', Blkdebug>>;
  /** In front of the wire: what is forwarded waits while it is closed. */
  readonly gate: GateFilter;
  /** The first byte of each frame that has left. */
  readonly left: number[];
  /** The guest writes a line, flushes it, and tells its client. */
  readonly answer: (line: number) => Promise<void>;
}

async function world(): Promise<World> {
  const chain = secondaryChain(LENGTH);
  const wire = new Blkdebug(new NodeAsDriver(chain.secondary));
  const gate = new GateFilter(wire);
  const replication = new ReplicationDriver({
    nodeName: 'replication0',
    mode: 'primary',
    file: new BlockNode('nbd', gate),
    emit: () => undefined,
  });
  const own: { faults: Blkdebug | null } = { faults: null };
  const disk = memory('disk', LENGTH, { wrap: (driver) => (own.faults = new Blkdebug(driver)) });
  assert.ok(own.faults);
  const quorum = new QuorumDriver({
    nodeName: 'colo-disk0',
    children: [disk],
    voteThreshold: 1,
    readPattern: 'fifo',
    emit: () => undefined,
  });
  quorum.addChild(new BlockNode('replication0', replication));
  const top = new BlockNode('colo-disk0', quorum);

  const netdev = new Netdev({ id: 'hn0' });
  const left: number[] = [];
  netdev.guest = () => undefined;
  netdev.wire = (frame) => left.push(frame[0] ?? -1);
  const listener = { onStop: () => undefined, onResume: () => undefined };
  const run = new RunControl(null, new Map([['hn0', netdev]]), 'running', listener);
  const pair = await protect(await socketPair(), {
    onHeard: (isHeard) => run.setHeard(isHeard),
    prepare: (p, s) => {
      p.guest.disks = () => [replication.participant];
      s.guest.disks = () => [chain.replication.participant];
    },
  });
  const answer = async (line: number): Promise<void> => {
    // A guest whose disk has failed has nothing to acknowledge, but may say so.
    await top.write(line * 512, filled(512, line)).catch(() => undefined);
    await top.flush().catch(() => undefined);
    netdev.sendFromGuest(filled(64, line));
  };
  await answer(1);
  assert.deepEqual(left, [1]);
  return { pair, quorum, replication, faults: { own: own.faults, wire }, gate, left, answer };
}

/** The pair ends by itself, and what was held leaves when the primary goes on alone. */
async function over(
  { pair, left, answer }: World,
  why: RegExp,
  said: readonly number[],
  kind = 'forward-failed',
): Promise<void> {
  await answer(5);
  assert.deepEqual(left, [1], 'nothing leaves from the failure on');
  await withDeadline(Promise.all([pair.primary.ended, pair.secondary.ended]), SOON_MS, 'the end of both');
  assert.deepEqual([...pair.exits].sort(), ['primary error', 'secondary error']);
  const error = pair.errors.find((one) => one !== null);
  assert.ok(error instanceof ForwardFailedError);
  assert.match(error.message, why);
  assert.equal(endKindOf(error), kind);
  assert.equal(pair.p.engine.state, 'running');
  await answer(6);
  assert.deepEqual(left, [1]);
  await pair.primary.failover();
  assert.deepEqual(left, [1, ...said, 5, 6]);
  await end(pair);
}

describe('from the moment at which the two disks part nothing leaves', () => {
  it('a forwarded write fails', async () => {
    const made = await world();
    made.faults.wire.add({ op: 'write', times: 1 });
    await made.answer(2);
    await over(made, /^replication:replication0: .* Injected write error/, [2]);
  });

  it('a forwarded flush fails', async () => {
    const made = await world();
    made.faults.wire.add({ op: 'flush', times: 1 });
    await made.answer(3);
    await over(made, /Injected flush error/, [3]);
  });

  it('the secondary has what this side cannot write', async () => {
    const made = await world();
    made.faults.own.add({ op: 'write', times: 1 });
    await made.answer(3);
    await over(made, /that the other host has could not be written here/, [3], 'failed');
  });

  it('the child is taken out of its quorum while a write of its waits for the other host', async () => {
    const made = await world();
    made.gate.gate.close();
    const waiting = made.answer(3);
    assert.equal(await isPending(waiting), true);
    made.quorum.removeChild('children.1');
    made.replication.takenOut();
    await waiting;
    await over(made, /was taken out of its quorum/, [3]);
    made.gate.gate.open();
  });

  it('the node is told to stop, or closed, by somebody else than the frame', async () => {
    const made = await world();
    await made.replication.stopReplication(false);
    await made.answer(3);
    await over(made, /Replication to 'nbd' has ended/, [3]);
  });

  it('... in the middle of a checkpoint, which releases nothing then', async () => {
    const made = await world();
    const { pair, faults } = made;
    const [loading, go] = [new Deferred<void>(), new Deferred<void>()];
    pair.p.net.onVerb = async (what) => {
      if (what !== 'primary marks secondary-stream') return;
      loading.resolve();
      await go.promise;
    };
    pair.lines.length = 0;
    pair.primary.request('mismatch');
    await loading.promise;
    faults.wire.add({ op: 'flush', times: 1 });
    await made.quorum.flush();
    assert.deepEqual(pair.heard, [false]);
    go.resolve();
    await over(made, /Injected flush error/, []);
    assert.ok(!pair.lines.includes('primary net commit'), 'nothing was released');
  });

  it('... and a secondary that answers after a standstill of this process does not open the output again', async () => {
    const made = await world();
    const { pair, faults } = made;
    const [asked, go] = [new Deferred<void>(), new Deferred<void>()];
    const pause = pair.s.guest.pause.bind(pair.s.guest);
    pair.s.guest.pause = async () => {
      asked.resolve();
      await go.promise;
      await pause();
    };
    standStill();
    await withDeadline(asked.promise, SOON_MS, 'the request after the standstill');
    faults.wire.add({ op: 'write', times: 1 });
    await made.answer(3);
    go.resolve();
    await over(made, /Injected write error/, [3]);
  });
});

describe('why a forward failed', () => {
  it('is told by the channel when the whole peer is gone', async () => {
    const { pair, faults, answer, left } = await world();
    faults.wire.add({ op: 'write', times: 1 });
    await answer(3);
    pair.close();
    await pair.primary.ended;
    assert.deepEqual(left, [1]);
    const error = pair.errors.find((one) => one !== null);
    assert.ok(error);
    assert.match(endKindOf(error), /^(closed|reset)$/);
    await end(pair);
  });

  it('is silence when the other host did not answer in time', () => {
    const failed = (cause: Error): string =>
      endKindOf(new ForwardFailedError({ participantName: 'd0' } as never, cause));
    const late = new IoError('ETIMEDOUT', 'no progress', { cause: new TimeoutError('no progress') });
    assert.equal(failed(late), 'timeout');
    assert.equal(failed(new IoError('ENOSPC', 'full')), 'forward-failed');
  });
});
