/** Replication: stages, routes, refusals, the seven internal errors, and both sides as checkpoint participants. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Deferred } from '../../../src/base/async.ts';
import { IoError } from '../../../src/base/errors.ts';
import type { BlockDriver } from '../../../src/block/driver.ts';
import { QuorumDriver } from '../../../src/block/drivers/quorum.ts';
import {
  ReplicationDriver,
  findReplications,
  isReplication,
  openReplication,
} from '../../../src/block/drivers/replication.ts';
import { ROUTES } from '../../../src/block/drivers/replication/routing.ts';
import { DelayFilter, GateFilter } from '../../../src/block/filters/delay.ts';
import { ErrorFilter } from '../../../src/block/filters/error.ts';
import { BlockNode } from '../../../src/block/node.ts';
import { OptionReader, nestOptions } from '../../../src/block/options.ts';
import type { OptionTree, OptionValue } from '../../../src/block/options.ts';
import type { OpenContext } from '../../../src/block/registry.ts';
import { CLUSTER, EventLog, bytesOf, filled, isPending, memory } from './jobs-helpers.ts';
import { rawBytes, secondaryChain } from './replication-chain.ts';
import type { Chain, Layer } from './replication-chain.ts';

const LENGTH = 4 * CLUSTER;
const EIO = (error: unknown): boolean => error instanceof IoError && error.errno === 'EIO';

function primary(wrap: (driver: BlockDriver) => BlockDriver = (driver) => driver): {
  file: BlockNode;
  replication: ReplicationDriver;
  node: BlockNode;
} {
  const file = memory('nbd', LENGTH, { wrap });
  const replication = new ReplicationDriver({
    nodeName: 'replication0',
    mode: 'primary',
    file,
    emit: () => undefined,
  });
  return { file, replication, node: new BlockNode('replication0', replication) };
}

function withFaults(layer: Layer): { chain: Chain; faults: ErrorFilter } {
  const box: { faults: ErrorFilter | null } = { faults: null };
  const chain = secondaryChain(LENGTH, (name, driver) =>
    name === layer ? (box.faults = new ErrorFilter(driver)) : driver,
  );
  return { chain, faults: box.faults ?? assert.fail() };
}

describe('replication: the primary', () => {
  it('refuses reads always and writes before it runs', async () => {
    const { node, replication } = primary();
    await assert.rejects(bytesOf(node, 0, 512), EIO);
    await assert.rejects(node.write(0, filled(512, 1)), EIO);
    await replication.start('primary');
    await assert.rejects(bytesOf(node, 0, 512), EIO);
  });

  it('forwards writes and zeroes while it runs, and refuses them when it is done', async () => {
    const { file, node, replication } = primary();
    await replication.start('primary');
    await node.write(0, filled(1024, 1));
    await node.writeZeroes(512, 512);
    assert.deepEqual(await bytesOf(file, 0, 1024), Buffer.concat([filled(512, 1), filled(512, 0)]));
    await node.flush();
    assert.equal((file.driver as unknown as { flushes: number }).flushes, 1);
    // Zeros are sent as a wish for zeros.
    assert.deepEqual(replication.traffic, { writes: 2, bytes: 1024, inFlight: 0, waiting: 0 });
    await replication.stopReplication(false);
    assert.equal(replication.stage, 'done');
    await assert.rejects(node.write(0, filled(512, 1)), EIO);
  });

  it('error 2: a failed forward is hidden from the guest, remembered, and the last one sent', async () => {
    const box: { faults: ErrorFilter | null } = { faults: null };
    const { file, node, replication } = primary((driver) => (box.faults = new ErrorFilter(driver)));
    await replication.start('primary');
    assert.equal(replication.getError(), null);
    box.faults?.add({ op: 'write', times: 1 });
    await node.write(0, filled(512, 1));
    assert.equal(replication.getError()?.message, 'I/O error occurred');
    assert.equal(replication.participant.error()?.message, 'I/O error occurred');
    await node.write(512, filled(512, 1));
    assert.deepEqual(await bytesOf(file, 0, 1024), Buffer.alloc(1024));
    await replication.stopReplication(false);
    assert.equal(replication.getError(), null);
  });

  it('makes writes of the next epoch wait until the checkpoint is confirmed', async () => {
    const { file, node, replication } = primary();
    const { participant } = replication;
    await participant.start('primary');
    await node.write(0, filled(512, 1));
    assert.deepEqual(participant.stopped('primary'), []);
    const next = node.write(0, filled(512, 2));
    assert.equal(await isPending(next), true);
    assert.equal(replication.waitingWrites, 1);
    assert.equal((await bytesOf(file, 0, 1))[0], 1);
    await node.flush();
    await participant.commit('primary');
    await next;
    assert.equal((await bytesOf(file, 0, 1))[0], 2);
  });

  it('a stop lets waiting writes fail, and a quorum hides that from the guest', async () => {
    const { node, replication } = primary();
    const disk = memory('disk', LENGTH);
    const log = new EventLog();
    const quorum = new QuorumDriver({
      nodeName: 'q',
      children: [disk],
      voteThreshold: 1,
      readPattern: 'fifo',
      emit: log.emit,
    });
    quorum.addChild(node);
    const top = new BlockNode('q', quorum);
    await replication.participant.start('primary');
    replication.participant.stopped('primary');
    const write = top.write(0, filled(512, 2));
    assert.equal(await isPending(write), true);
    await replication.participant.stop('primary', true);
    await write;
    assert.equal(log.of('QUORUM_REPORT_BAD')[0]?.['node-name'], 'replication0');
    assert.equal((await bytesOf(top, 0, 1))[0], 2);
  });

  it('one failed forward frees those who wait at the gate', async () => {
    const gate: { filter: GateFilter | null } = { filter: null };
    const { node, replication } = primary(
      (driver) => (gate.filter = new GateFilter(new ErrorFilter(driver, [{ op: 'write' }]))),
    );
    await replication.start('primary');
    gate.filter?.gate.close();
    const old = node.write(0, filled(512, 1));
    replication.participant.stopped('primary');
    const next = node.write(512, filled(512, 1));
    assert.equal(await isPending(next), true);
    gate.filter?.gate.open();
    await Promise.all([old, next]);
  });
});

describe('replication: the secondary', () => {
  it('routes as its table says: refuse, overlay, and the secondary disk after a failover', async () => {
    const { top, active, secondary, replication, raw } = secondaryChain(LENGTH);
    await secondary.write(0, filled(LENGTH, 1));
    await assert.rejects(bytesOf(top, 0, 512), EIO);
    await assert.rejects(top.write(0, filled(512, 1)), EIO);
    await assert.rejects(top.blockStatus(0, 512), EIO);
    await replication.start('secondary');
    await top.write(0, filled(512, 2));
    assert.equal((await bytesOf(active, 0, 1))[0], 2);
    assert.equal((await bytesOf(secondary, 0, 1))[0], 1);
    assert.equal((await bytesOf(top, 512, 1))[0], 1);
    assert.ok((await top.blockStatus(0, LENGTH)).every((extent) => extent.allocated && extent.data));
    await replication.stopReplication(true);
    await replication.commitJob?.ended;
    assert.equal(replication.stage, 'done');
    assert.equal(top.driver.children().get('file'), secondary);
    assert.ok(secondary.users.has('childs0/file'));
    await top.write(512, filled(512, 3));
    assert.deepEqual(
      (await rawBytes(raw.secondary)).subarray(0, 1024),
      Buffer.concat([filled(512, 2), filled(512, 3)]),
    );
  });

  it('has a route for every stage of both modes', () => {
    for (const rows of Object.values(ROUTES)) {
      assert.deepEqual(Object.keys(rows).sort(), ['done', 'failover', 'failover-failed', 'none', 'running']);
    }
  });

  it('forgets its own writes at a checkpoint and takes the secondary disk as it is', async () => {
    const { top, secondary, replication } = secondaryChain(LENGTH);
    await replication.start('secondary');
    await top.write(0, filled(512, 9));
    await secondary.write(0, filled(1024, 5));
    assert.deepEqual(await bytesOf(top, 0, 1024), Buffer.concat([filled(512, 9), filled(512, 0)]));
    await replication.participant.commit('secondary');
    assert.deepEqual(await bytesOf(top, 0, 1024), Buffer.alloc(1024, 5));
  });

  it('lets a request of the guest end before the overlays are emptied, and routes later ones after it', async () => {
    const gate: { filter: GateFilter | null } = { filter: null };
    const { top, active, replication } = secondaryChain(LENGTH, (layer, driver) =>
      layer === 'active' ? (gate.filter = new GateFilter(driver, ['write'])) : driver,
    );
    await replication.start('secondary');
    gate.filter?.gate.close();
    const old = top.write(0, filled(512, 1));
    const checkpoint = replication.doCheckpoint();
    assert.equal(await isPending(checkpoint), true);
    const next = top.write(512, filled(512, 2));
    gate.filter?.gate.open();
    await Promise.all([old, checkpoint, next]);
    assert.deepEqual(await bytesOf(active, 0, 1024), Buffer.concat([filled(512, 0), filled(512, 2)]));
  });

  for (const how of ['read', 'write'] as const) {
    it(`does not show a write of the export to a ${how} that is under way`, async () => {
      const letGo = new Deferred<void>();
      let hold = false;
      const { top, secondary, replication } = secondaryChain(
        LENGTH,
        (layer, driver) =>
          layer !== 'secondary'
            ? driver
            : new DelayFilter(driver, async (op, _offset, _length, done) => {
                if (op !== 'read' || done || !hold) return;
                hold = false; // only the guest's own way down, not the copy that the export's write makes
                await letGo.promise;
              }),
        { active: 2 * CLUSTER },
      );
      await secondary.write(0, filled(2 * CLUSTER, 1));
      await replication.start('secondary');
      hold = true;
      // The write copies its whole cluster up, so it reads where the export writes, far from its own bytes.
      const guest = how === 'read' ? bytesOf(top, 0, 512) : top.write(CLUSTER + 1000, filled(10, 9));
      const write = secondary.write(0, filled(512, 2));
      assert.equal(await isPending(write), true);
      letGo.resolve();
      const got = await guest;
      if (got) assert.deepEqual(got, Buffer.alloc(512, 1));
      await write;
      assert.deepEqual(await bytesOf(top, 0, 512), Buffer.alloc(512, 1));
      assert.equal((await bytesOf(secondary, 0, 1))[0], 2);
    });
  }

  it('switches over only when the requests of the guest that are under way have ended, and takes them along', async () => {
    const gate: { filter: GateFilter | null } = { filter: null };
    const { top, replication, raw } = secondaryChain(LENGTH, (layer, driver) =>
      layer === 'active' ? (gate.filter = new GateFilter(driver, ['write'])) : driver,
    );
    await replication.start('secondary');
    gate.filter?.gate.close();
    const old = top.write(0, filled(512, 1));
    await replication.stopReplication(true);
    assert.equal(await isPending(replication.commitJob?.ended ?? assert.fail()), true);
    const next = top.write(512, filled(512, 2));
    gate.filter?.gate.open();
    await Promise.all([old, next, replication.commitJob?.ended]);
    assert.equal(replication.stage, 'done');
    const disk = await rawBytes(raw.secondary);
    assert.deepEqual(disk.subarray(0, 1024), Buffer.concat([filled(512, 1), filled(512, 2)]));
  });

  it('blocks the top node while it runs', async () => {
    const { top, replication } = secondaryChain(LENGTH);
    await replication.start('secondary');
    assert.deepEqual([...top.blockers], [['*', 'Block device is in use by internal backup job']]);
    await replication.stopReplication(true);
    assert.deepEqual([...top.blockers], []);
  });

  it('a stop without failover empties the overlays first', async () => {
    const { top, active, replication } = secondaryChain(LENGTH);
    await replication.start('secondary');
    await top.write(0, filled(512, 9));
    await replication.stopReplication(false);
    assert.equal(replication.stage, 'done');
    assert.equal((await bytesOf(top, 0, 1))[0], 0);
    assert.ok((await active.blockStatus(0, LENGTH)).every((extent) => !extent.allocated));
  });

  it('lists the commit job and lets go of the active disk', async () => {
    const { active, replication } = secondaryChain(LENGTH);
    const seen: string[] = [];
    replication.onJob = (job) => seen.push(job.id);
    replication.onDetach = (node, user) => {
      seen.push(`${node.nodeName} ${user}`);
      return Promise.resolve();
    };
    await replication.start('secondary');
    await replication.stopReplication(true);
    await replication.commitJob?.ended;
    assert.equal(await isPending(Promise.resolve()), false);
    assert.deepEqual(seen, ['failover-childs0', `${active.nodeName} childs0/file`]);
  });

  it('is closed while it runs without leaving a hook or a blocker', async () => {
    const { top, secondary, hidden, replication } = secondaryChain(LENGTH);
    await replication.start('secondary');
    await top.close();
    await secondary.write(0, filled(512, 1));
    assert.ok((await hidden.blockStatus(0, LENGTH)).every((extent) => !extent.allocated));
    assert.equal(top.blockers.size, 0);
  });
});

describe('replication: verbs and their refusals', () => {
  it('answers as QEMU does in each stage', async () => {
    const { replication } = primary();
    assert.equal(replication.getError()?.message, 'Block replication is not running');
    assert.equal(replication.participant.error(), null);
    await assert.rejects(replication.stopReplication(false), { message: 'Block replication is not running' });
    await assert.rejects(replication.start('secondary'), {
      message: "The parameter mode's value is invalid, needs 0, but got 1",
    });
    await replication.start('primary');
    await assert.rejects(replication.start('primary'), { message: 'Block replication is running or done' });
    await replication.doCheckpoint();
    await replication.stopReplication(true);
    await replication.start('secondary');
    await replication.doCheckpoint();
    await replication.stopReplication(false);
    assert.equal(replication.stage, 'done');
  });

  it('a promoted secondary may be the primary of the next pair', async () => {
    const { replication } = secondaryChain(LENGTH);
    await assert.rejects(replication.start('primary'), {
      message: "The parameter mode's value is invalid, needs 1, but got 0",
    });
    await replication.participant.start('secondary');
    await replication.participant.stop('secondary', true);
    await replication.commitJob?.ended;
    const { participant } = replication;
    await participant.start('primary');
    participant.stopped('primary');
    await participant.commit('primary');
    assert.equal(participant.error(), null);
    await participant.stop('primary', false);
    assert.equal(replication.stage, 'done');
  });

  const fileOf = (file: BlockNode, top?: BlockNode): ReplicationDriver =>
    new ReplicationDriver({
      nodeName: 'childs0',
      mode: 'secondary',
      file,
      findTop: () => top ?? null,
      emit: () => undefined,
    });
  const drive = (node: BlockNode): BlockNode => {
    node.users.add('drive:parent0');
    return node;
  };

  const refusals: readonly (readonly [string | RegExp, () => ReplicationDriver])[] = [
    ["Active disk doesn't have backing file", () => fileOf(memory('a', LENGTH))],
    [
      "Hidden disk doesn't have backing file",
      () => fileOf(memory('a', LENGTH, { backing: memory('h', LENGTH) })),
    ],
    [
      "The secondary disk doesn't have block backend",
      () => fileOf(memory('a', LENGTH, { backing: memory('h', LENGTH, { backing: memory('s', LENGTH) }) })),
    ],
    [
      "Active disk, hidden disk, secondary disk's length are not the same",
      () => {
        const secondary = drive(memory('s', LENGTH + 512));
        return fileOf(memory('a', LENGTH, { backing: memory('h', LENGTH, { backing: secondary }) }));
      },
    ],
    [
      "Active disk or hidden disk doesn't support make_empty",
      () => {
        const secondary = drive(memory('s', LENGTH));
        const wrap = (driver: BlockDriver): BlockDriver => Object.assign(driver, { makeEmpty: undefined });
        return fileOf(memory('a', LENGTH, { backing: memory('h', LENGTH, { backing: secondary, wrap }) }));
      },
    ],
    [
      "Node 's' is read-only; replication needs it with read-only=off",
      () => {
        const secondary = drive(
          memory('s', LENGTH, { wrap: (driver) => Object.assign(driver, { readOnly: true }) }),
        );
        return fileOf(memory('a', LENGTH, { backing: memory('h', LENGTH, { backing: secondary }) }));
      },
    ],
    [
      'No top_bs or it is invalid',
      () => {
        const secondary = drive(memory('s', LENGTH));
        return fileOf(memory('a', LENGTH, { backing: memory('h', LENGTH, { backing: secondary }) }));
      },
    ],
    [
      'No top_bs or it is invalid',
      () => {
        const secondary = drive(memory('s', LENGTH));
        const active = memory('a', LENGTH, { backing: memory('h', LENGTH, { backing: secondary }) });
        return fileOf(active, memory('elsewhere', LENGTH));
      },
    ],
  ];
  for (const [message, make] of refusals) {
    it(`start is refused: ${String(message)}`, async () => {
      const replication = make();
      await assert.rejects(replication.start('secondary'), { message });
      assert.equal(replication.stage, 'none');
    });
  }

  it('the top node has to be a root above this one, or this one itself', async () => {
    const { top: own, replication, findTop } = secondaryChain(LENGTH);
    const quorum = new QuorumDriver({
      nodeName: 'q',
      children: [own],
      voteThreshold: 1,
      emit: () => undefined,
    });
    const top = new BlockNode('colo-disk0', quorum);
    findTop.node = top;
    top.users.add('above/file');
    await assert.rejects(replication.start('secondary'), { message: 'No top_bs or it is invalid' });
    top.users.delete('above/file');
    await replication.start('secondary');
    assert.ok(top.blockers.has('*'));
  });

  it('is found among nodes, newest first', () => {
    const { top, active, replication } = secondaryChain(LENGTH);
    const other = primary();
    assert.deepEqual(findReplications([top, active, other.node]), [other.replication, replication]);
    assert.equal(isReplication(active.driver), false);
  });
});

describe('replication: options', () => {
  const opened: { value: OptionValue; defaults: OptionTree | undefined }[] = [];
  const context: OpenContext = {
    nodeName: 'childs0',
    openChild: (_role, value, defaults) => {
      opened.push({ value, defaults });
      return Promise.resolve(memory('file', LENGTH));
    },
    find: () => null,
    findLater: () => () => null,
    emit: () => undefined,
  };
  const open = (flat: Record<string, string>): Promise<ReplicationDriver> =>
    openReplication(new OptionReader(nestOptions(flat)), context);

  for (const [message, flat] of [
    ['Missing the option mode', { file: 'x' }],
    ["The option mode's value should be primary or secondary", { file: 'x', mode: 'nix' }],
    ['The primary side does not support option top-id', { file: 'x', mode: 'primary', 'top-id': 'q' }],
    ['Missing the option top-id', { file: 'x', mode: 'secondary' }],
    ['A block device must be specified for "file"', { mode: 'primary' }],
  ] as const) {
    it(`refuses ${JSON.stringify(flat)}`, async () => {
      await assert.rejects(open(flat), { message });
    });
  }

  it('has the hidden disk of a secondary opened for writing, and lets no overlay wait for its disk', async () => {
    opened.length = 0;
    const tree = { 'file.driver': 'qcow2', 'file.backing.driver': 'qcow2' };
    const replication = await open({ mode: 'secondary', 'top-id': 'q', ...tree });
    assert.equal(replication.mode, 'secondary');
    await open({ mode: 'secondary', 'top-id': 'q', 'file.driver': 'qcow2' });
    await open({ mode: 'primary', ...tree });
    assert.deepEqual(
      opened.map(({ defaults }) => defaults),
      [
        { 'copy-barrier': 'off', backing: { 'read-only': 'off', 'copy-barrier': 'off' } },
        { 'copy-barrier': 'off' },
        undefined,
      ],
    );
  });
});

describe('replication: internal errors of the secondary', () => {
  it('error 1: the primary disk fails: the guest is told by the quorum', async () => {
    const { node, replication } = primary();
    await replication.start('primary');
    const disk = memory('disk', LENGTH, {
      wrap: (driver) => new ErrorFilter(driver, [{ op: 'write' }, { op: 'read' }]),
    });
    const log = new EventLog();
    const children = [disk, node];
    const quorum = new QuorumDriver({
      nodeName: 'q',
      children,
      voteThreshold: 2,
      readPattern: 'fifo',
      emit: log.emit,
    });
    const top = new BlockNode('q', quorum);
    await assert.rejects(top.write(0, filled(512, 1)), EIO);
    await assert.rejects(bytesOf(top, 0, 512), EIO);
    assert.deepEqual(log.words, [
      'QUORUM_REPORT_BAD',
      'QUORUM_FAILURE',
      'QUORUM_REPORT_BAD',
      'QUORUM_REPORT_BAD',
    ]);
  });

  it('error 3: copy before write fails: the export is told and the error is kept', async () => {
    const { chain, faults } = withFaults('hidden');
    await chain.replication.start('secondary');
    faults.add({ op: 'write', times: 1 });
    await assert.rejects(chain.secondary.write(0, filled(512, 1)), EIO);
    assert.equal(chain.replication.getError()?.message, 'I/O error occurred');
    assert.equal((await bytesOf(chain.top, 0, 1))[0], 0);
    await assert.rejects(chain.replication.participant.commit('secondary'), {
      message: 'Backup job was cancelled unexpectedly',
    });
  });

  it('error 4: the secondary disk fails: the export is told, the view stays', async () => {
    const { chain, faults } = withFaults('secondary');
    await chain.replication.start('secondary');
    faults.add({ op: 'write' });
    await assert.rejects(chain.secondary.write(0, filled(512, 1)), EIO);
    assert.equal((await bytesOf(chain.top, 0, 1))[0], 0);
    assert.equal(chain.replication.getError(), null);
  });

  it('error 5: the active disk fails: the secondary guest is told', async () => {
    const { chain, faults } = withFaults('active');
    await chain.replication.start('secondary');
    faults.add({ op: 'write' });
    await assert.rejects(chain.top.write(0, filled(512, 1)), EIO);
    assert.equal(chain.replication.getError(), null);
  });

  it('error 6: emptying an overlay fails: the checkpoint frame is told', async () => {
    for (const layer of ['active', 'hidden'] as const) {
      const { chain, faults } = withFaults(layer);
      await chain.replication.start('secondary');
      faults.add({ op: 'makeEmpty' });
      await assert.rejects(chain.replication.participant.commit('secondary'), /Injected makeEmpty error/);
      assert.notEqual(chain.replication.participant.error(), null);
      await chain.secondary.write(0, filled(512, 1)); // nothing is left held
    }
  });

  it('error 6 at the start leaves nothing behind', async () => {
    const { chain, faults } = withFaults('active');
    faults.add({ op: 'makeEmpty', times: 1 });
    await assert.rejects(chain.replication.start('secondary'), /Injected makeEmpty error/);
    assert.equal(chain.replication.stage, 'none');
    assert.equal(chain.top.blockers.size, 0);
    await chain.replication.start('secondary');
  });

  it('error 7: the merge fails: reads go on through the chain, writes go to who owns the range', async () => {
    const { chain, faults } = withFaults('secondary');
    const { top, secondary, replication, raw } = chain;
    await secondary.write(0, filled(LENGTH, 1));
    await replication.start('secondary');
    await top.write(0, filled(CLUSTER, 2)); // owned by the active disk
    await secondary.write(CLUSTER, filled(CLUSTER, 7)); // its old content is owned by the hidden disk
    const expected = await bytesOf(top);
    faults.add({ op: 'write', times: 1 });
    await replication.stopReplication(true);
    await replication.commitJob?.ended;
    assert.equal(await isPending(Promise.resolve()), false);
    assert.equal(replication.stage, 'failover-failed');
    assert.equal(replication.getError()?.message, 'I/O error occurred');
    assert.deepEqual(await bytesOf(top), expected);
    const low = CLUSTER / 2;
    await top.write(low, filled(LENGTH - low, 3));
    expected.fill(3, low);
    assert.deepEqual(await bytesOf(top), expected);
    const disk = await rawBytes(raw.secondary);
    assert.notEqual(disk[CLUSTER], 3, 'a range of the hidden disk is written in the active disk');
    assert.deepEqual(disk.subarray(2 * CLUSTER), Buffer.alloc(LENGTH - 2 * CLUSTER, 3));
    await top.flush();
    await assert.rejects(secondary.write(0, filled(512, 1)), /merged after a failover/);
    await assert.rejects(replication.start('secondary'), { message: 'Block replication is running or done' });
    await assert.rejects(replication.stopReplication(true), { message: 'Block replication is not running' });
  });
});
