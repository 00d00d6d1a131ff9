/**
 * Failures of a replicated disk while COLO runs, with the real replication drivers below the checkpoint frame: what the
 * frame does with each (docs/storage.md, the seven failures), and that the side it leaves can go on.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { withDeadline } from '../../../src/base/async.ts';
import { ReplicationDriver } from '../../../src/block/drivers/replication.ts';
import { Blkdebug } from '../../../src/block/filters/blkdebug.ts';
import { NodeAsDriver } from '../../../src/block/filters/pass-through.ts';
import { BlockNode } from '../../../src/block/node.ts';
import { socketPair } from '../../helpers/socket-pair.ts';
import { CLUSTER, bytesOf, filled } from '../block/jobs-helpers.ts';
import { secondaryChain } from '../block/replication-chain.ts';
import type { Chain, Layer } from '../block/replication-chain.ts';
import type { Pair } from './frame-pair.ts';
import { end, protect } from './frame-pair.ts';

const LENGTH = 4 * CLUSTER;
const SOON_MS = 20_000;

interface Protected {
  readonly pair: Pair;
  readonly chain: Chain;
  /** The primary's replication node, as its guest's quorum writes to it. */
  readonly forward: BlockNode;
  readonly faults: Readonly<Record<Layer | 'wire', Blkdebug>>;
}

/** A pair whose disks are replicated for real; one checkpoint taken, pattern 1 on both. */
async function replicated(): Promise<Protected> {
  const faults: Partial<Record<Layer | 'wire', Blkdebug>> = {};
  const chain = secondaryChain(LENGTH, (layer, driver) => (faults[layer] = new Blkdebug(driver)));
  const wire = new BlockNode('nbd', (faults.wire = new Blkdebug(new NodeAsDriver(chain.secondary))));
  const primary = new ReplicationDriver({
    nodeName: 'replication0',
    mode: 'primary',
    file: wire,
    emit: () => undefined,
  });
  const pair = await protect(await socketPair(), {
    prepare: (p, s) => {
      p.guest.disks = () => [primary.participant];
      s.guest.disks = () => [chain.replication.participant];
    },
  });
  const forward = new BlockNode('replication0', primary);
  await forward.write(0, filled(LENGTH, 1));
  await withDeadline(pair.checkpoint(), SOON_MS, 'a checkpoint');
  assert.deepEqual(await bytesOf(chain.top), Buffer.alloc(LENGTH, 1));
  return { pair, chain, forward, faults: faults as Required<typeof faults> };
}

/** Both loops end, nothing is released, and both guests run, unheard (since the failure, if the primary knows of it). */
async function refused({ pair }: Protected, why: RegExp, heard: readonly boolean[] = [false]): Promise<void> {
  pair.lines.length = 0;
  pair.primary.request('mismatch');
  await withDeadline(Promise.all([pair.primary.ended, pair.secondary.ended]), SOON_MS, 'the end of both');
  assert.deepEqual([...pair.exits].sort(), ['primary error', 'secondary error']);
  assert.match(String(pair.errors.find((error) => error !== null)), why);
  assert.equal(pair.p.engine.state, 'running');
  assert.deepEqual(pair.heard, heard);
}

describe('COLO with a disk that fails', () => {
  it('2: a lost forward: no checkpoint; the primary goes on, and so could the secondary from its last one', async () => {
    const rig = await replicated();
    const { pair, chain, forward, faults } = rig;
    faults.wire.add({ op: 'write', times: 1 });
    await forward.write(0, filled(CLUSTER, 2)); // the guest sees nothing
    assert.deepEqual(pair.heard, [false]);
    await refused(rig, /replication0: .* Injected write error/, [false, false]);
    assert.ok(!pair.lines.includes('primary net commit'), 'nothing was released');
    assert.equal(pair.s.engine.state, 'running');
    assert.deepEqual(await bytesOf(chain.top), Buffer.alloc(LENGTH, 1));
    await pair.primary.failover();
    assert.deepEqual(pair.heard, [false, false, true]);
    await pair.secondary.failover();
    await chain.replication.commitJob?.ended;
    assert.deepEqual(await bytesOf(chain.top), Buffer.alloc(LENGTH, 1));
    await end(pair);
  });

  it('3: a failed copy before a write: told by the write, which is then 2', async () => {
    const rig = await replicated();
    const { pair, chain, forward, faults } = rig;
    faults.hidden.add({ op: 'write', times: 1 });
    await forward.write(0, filled(CLUSTER, 2));
    await refused(rig, /replication0: .*Copy before write to 'secondary' failed/, [false, false]);
    assert.deepEqual(await bytesOf(chain.top), Buffer.alloc(LENGTH, 1));
    await end(pair);
  });

  it('3: ... by a write that the primary does not know: the secondary says no before anything is loaded', async () => {
    const rig = await replicated();
    const { pair, chain, faults } = rig;
    const kept = pair.s.engine.ram.slice();
    pair.p.engine.ram.fill(0x33);
    faults.hidden.add({ op: 'write', times: 1 });
    await assert.rejects(chain.secondary.write(0, filled(512, 2)), { errno: 'EIO' });
    await refused(rig, /I\/O error occurred/);
    assert.ok(!pair.lines.includes('primary net commit'), 'nothing was released');
    assert.deepEqual(pair.s.engine.ram, kept);
    assert.equal(pair.s.engine.state, 'running');
    await pair.secondary.failover();
    await chain.replication.commitJob?.ended;
    assert.equal(chain.replication.stage, 'done');
    assert.deepEqual(await bytesOf(chain.top), Buffer.alloc(LENGTH, 1));
    await end(pair);
  });

  for (const layer of ['active', 'hidden'] as const) {
    it(`6: the ${layer} disk cannot be emptied: the secondary has no whole state, the primary goes on`, async () => {
      const rig = await replicated();
      const { pair, chain, faults } = rig;
      await chain.top.write(0, filled(CLUSTER, 9));
      faults[layer].add({ op: 'makeEmpty', times: 1 });
      await refused(rig, /Injected makeEmpty error/);
      assert.notEqual(pair.s.engine.state, 'running');
      await assert.rejects(pair.secondary.failover(), /no whole state/);
      await pair.primary.failover();
      assert.deepEqual(pair.heard, [false, true]);
      await end(pair);
    });
  }

  it('7: a merge that fails after the takeover: the survivor runs, its disk is whole, and it says so', async () => {
    const { pair, chain, forward, faults } = await replicated();
    await chain.top.write(CLUSTER, filled(CLUSTER, 9));
    await forward.write(2 * CLUSTER, filled(CLUSTER, 2)); // not to be seen
    pair.close();
    await pair.secondary.ended;
    faults.secondary.add({ op: 'write', times: 1 });
    await withDeadline(pair.secondary.failover(), SOON_MS, 'failover');
    await chain.replication.commitJob?.ended;
    const want = Buffer.alloc(LENGTH, 1).fill(9, CLUSTER, 2 * CLUSTER);
    assert.deepEqual(await bytesOf(chain.top), want);
    assert.equal(chain.replication.stage, 'failover-failed');
    assert.equal(chain.replication.getError()?.message, 'I/O error occurred');
    await chain.top.write(0, filled(100, 7));
    assert.deepEqual(await bytesOf(chain.top), want.fill(7, 0, 100));
    await end(pair);
  });
});
