// A quorum whose replica leads: the own disk is written when the forward has ended, and only then.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { BlockDriver } from '../../../src/block/driver.ts';
import { QuorumDriver } from '../../../src/block/drivers/quorum.ts';
import { ReplicationDriver } from '../../../src/block/drivers/replication.ts';
import { GateFilter } from '../../../src/block/filters/delay.ts';
import { ErrorFilter } from '../../../src/block/filters/error.ts';
import { BlockNode } from '../../../src/block/node.ts';
import { PARTED_BITMAP, recordParting } from '../../../src/block/parted.ts';
import { CLUSTER, EventLog, bytesOf, filled, isPending, memory } from './jobs-helpers.ts';

const LENGTH = 4 * CLUSTER;

interface Rig {
  readonly top: BlockNode;
  readonly quorum: QuorumDriver;
  readonly disk: BlockNode;
  readonly far: BlockNode;
  readonly replication: ReplicationDriver;
  readonly log: EventLog;
}

function rig(
  wrap: { disk?: (driver: BlockDriver) => BlockDriver; far?: (driver: BlockDriver) => BlockDriver } = {},
): Rig {
  const disk = memory('disk', LENGTH, { wrap: wrap.disk ?? ((driver) => driver) });
  const far = memory('nbd', LENGTH, { wrap: wrap.far ?? ((driver) => driver) });
  const log = new EventLog();
  const replication = new ReplicationDriver({
    nodeName: 'replication0',
    mode: 'primary',
    file: far,
    emit: log.emit,
  });
  const quorum = new QuorumDriver({
    nodeName: 'q',
    children: [disk, new BlockNode('replication0', replication)],
    voteThreshold: 1,
    readPattern: 'fifo',
    emit: log.emit,
  });
  const top = new BlockNode('q', quorum);
  replication.onParted = () => recordParting([top]);
  return { top, quorum, disk, far, replication, log };
}

const first = async (node: BlockNode): Promise<number | undefined> => (await bytesOf(node, 0, 1))[0];

describe('a quorum on the primary', () => {
  it('writes the disk when the forward has ended', async () => {
    const box: { gate?: GateFilter } = {};
    const { top, disk, far, replication } = rig({
      far: (driver) => (box.gate = new GateFilter(driver, ['write'])),
    });
    await replication.start('primary');
    box.gate?.gate.close();
    const write = top.write(0, filled(512, 1));
    assert.equal(await isPending(write), true);
    assert.deepEqual([await first(disk), await first(far)], [0, 0]);
    box.gate?.gate.open();
    await write;
    assert.deepEqual([await first(disk), await first(far)], [1, 1]);
  });

  it('keeps the disk back with a write that waits for a checkpoint', async () => {
    const { top, disk, far, replication } = rig();
    await replication.start('primary');
    replication.participant.stopped('primary');
    const write = top.write(0, filled(512, 1));
    assert.equal(await isPending(write), true);
    assert.equal(await first(disk), 0);
    await replication.participant.commit('primary');
    await write;
    assert.deepEqual([await first(disk), await first(far)], [1, 1]);
  });

  it('goes on with the disk alone when the replica is taken out, and knows what that lacks', async () => {
    const box: { gate?: GateFilter } = {};
    const { top, quorum, disk, replication } = rig({
      far: (driver) => (box.gate = new GateFilter(driver, ['write'])),
    });
    await replication.start('primary');
    box.gate?.gate.close();
    const write = top.write(CLUSTER, filled(512, 1));
    assert.equal(await isPending(write), true);
    quorum.removeChild('children.1');
    replication.takenOut();
    await write;
    assert.equal((await bytesOf(disk, CLUSTER, 1))[0], 1);
    await top.write(3 * CLUSTER, filled(512, 1));
    const parted = top.dirtyBitmaps.require(PARTED_BITMAP);
    assert.deepEqual(
      [0, 1, 2, 3].map((chunk) => parted.has(chunk * CLUSTER)),
      [false, true, false, true],
    );
    assert.ok(replication.participant.error(), 'no checkpoint covers what was not forwarded');
  });

  it('goes on when the forward fails, and remembers that from the first failure on', async () => {
    const box: { faults?: ErrorFilter } = {};
    const { top, disk, replication } = rig({ far: (driver) => (box.faults = new ErrorFilter(driver)) });
    await replication.start('primary');
    await top.write(0, filled(512, 1));
    await top.flush();
    await top.write(CLUSTER, filled(512, 1));
    box.faults?.add({ op: 'write', times: 1 });
    await top.write(2 * CLUSTER, filled(512, 1));
    assert.equal((await bytesOf(disk, 2 * CLUSTER, 1))[0], 1);
    const parted = top.dirtyBitmaps.require(PARTED_BITMAP);
    assert.deepEqual(
      [0, 1, 2, 3].map((chunk) => parted.has(chunk * CLUSTER)),
      [false, true, true, false],
      'flushed, not flushed, failed, not written',
    );
    await replication.stopReplication(true);
    assert.equal(top.dirtyBitmaps.find(PARTED_BITMAP), parted, 'one parting, one bitmap');
  });

  it('fails a write that only the replica could store, and then no checkpoint is taken', async () => {
    const { top, disk, far, replication, log } = rig({
      disk: (driver) => new ErrorFilter(driver, [{ op: 'write', errno: 'ENOSPC' }]),
    });
    await replication.start('primary');
    await assert.rejects(top.write(0, filled(512, 1)), { errno: 'ENOSPC' });
    assert.deepEqual([await first(disk), await first(far)], [0, 1]);
    assert.deepEqual(log.words, ['QUORUM_REPORT_BAD', 'QUORUM_FAILURE']);
    assert.match(String(replication.participant.error()?.cause), /could not be written here/);
    assert.equal(top.dirtyBitmaps.require(PARTED_BITMAP).has(0), true);
  });

  it('lets a replica that does not run yet stand aside', async () => {
    const { top, disk, far, log } = rig();
    await top.write(0, filled(512, 1));
    assert.deepEqual([await first(disk), await first(far)], [1, 0]);
    assert.deepEqual(log.words, ['QUORUM_REPORT_BAD']);
    assert.equal(top.dirtyBitmaps.find(PARTED_BITMAP), null);
  });
});
