/**
 * A replicated pair on qcow2 images, made from the very options of QEMU's COLO-FT document: resync by a mirror,
 * epochs, a failover, the promoted side as primary of the next pair; then qemu-img checks what is on the disks.
 */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { QuorumDriver } from '../../../src/block/drivers/quorum.ts';
import { ReplicationDriver, findReplications } from '../../../src/block/drivers/replication.ts';
import { BlockGraph } from '../../../src/block/graph.ts';
import { BlockNode } from '../../../src/block/node.ts';
import { BlockJobs } from '../../../src/block/jobs/manager.ts';
import { nestOptions } from '../../../src/block/options.ts';
import { CLUSTER, EventLog, bytesOf, filled } from '../../unit/block/jobs-helpers.ts';
import { inFolder, missingTools, tool } from '../qcow2/helpers.ts';

const LENGTH = 8 * 1024 * 1024;

function parse(options: string): ReturnType<typeof nestOptions> {
  return nestOptions(
    Object.fromEntries(
      options.split(',').map((pair) => {
        const at = pair.indexOf('=');
        return [pair.slice(0, at), pair.slice(at + 1)];
      }),
    ),
  );
}

describe('a replicated pair on qcow2', { skip: missingTools }, () => {
  it('keeps epochs apart, survives a failover and can be the primary of the next pair', async () => {
    await inFolder(async (folder) => {
      const path = (name: string): string => join(folder, name);
      for (const name of ['primary', 'parent', 'active', 'hidden', 'third']) {
        await tool('qemu-img', 'create', '-q', '-f', 'qcow2', path(`${name}.qcow2`), String(LENGTH));
      }
      await tool('qemu-io', '-c', 'write -P 1 0 3M', '-c', 'write -P 2 5M 100k', path('primary.qcow2'));
      const log = new EventLog();
      const jobs = new BlockJobs(log.emit);

      // Primary and secondary stand in one process here; parent0 takes the place of the NBD client.
      const secondary = new BlockGraph({ emit: log.emit });
      const primary = new BlockGraph({ emit: log.emit });
      await primary.addDrive(
        'colo-disk0',
        parse(
          `if=ide,driver=quorum,read-pattern=fifo,vote-threshold=1,children.0.driver=qcow2,` +
            `children.0.file.filename=${path('primary.qcow2')}`,
        ),
      );
      await secondary.addDrive(
        'parent0',
        parse(`if=none,driver=qcow2,file.filename=${path('parent.qcow2')}`),
      );
      await secondary.addDrive(
        'childs0',
        parse(
          `if=none,driver=replication,mode=secondary,file.driver=qcow2,top-id=colo-disk0,` +
            `file.file.filename=${path('active.qcow2')},file.backing.driver=qcow2,` +
            `file.backing.file.filename=${path('hidden.qcow2')},file.backing.backing=parent0`,
        ),
      );
      await secondary.addDrive(
        'colo-disk0',
        parse('if=ide,driver=quorum,read-pattern=fifo,vote-threshold=1,children.0=childs0'),
      );
      const pvm = primary.require('colo-disk0');
      const svm = secondary.require('colo-disk0');
      const parent = secondary.require('parent0');

      const job = jobs.startMirror({ id: 'resync', source: pvm, target: parent, sync: 'full' });
      await job.becameReady;
      jobs.cancel('resync');
      await job.ended;
      assert.equal(job.failure, null);

      // The primary's replication node forwards to parent0, as its NBD client would.
      const forward = new ReplicationDriver({
        nodeName: 'replication0',
        mode: 'primary',
        file: parent,
        emit: log.emit,
      });
      const replication0 = new BlockNode('replication0', forward);
      assert.ok(pvm.driver instanceof QuorumDriver);
      assert.equal(pvm.driver.addChild(replication0), 'children.1');

      const [back] = findReplications(secondary.list().nodes);
      assert.ok(back);
      back.onDetach = (node, user) => secondary.detach(node, user);
      await back.participant.start('secondary');
      await forward.participant.start('primary');
      assert.equal(svm.blockers.get('*'), 'Block device is in use by internal backup job');
      assert.ok((await bytesOf(svm)).equals(await bytesOf(pvm)));

      let expected = await bytesOf(svm);
      for (let epoch = 3; epoch < 6; epoch++) {
        // Both guests write, overlapping and off any border; neither sees the other's.
        await Promise.all([
          pvm.write(CLUSTER * epoch + 100, filled(3 * CLUSTER, epoch)),
          pvm.writeZeroes(LENGTH - CLUSTER * epoch, CLUSTER),
          svm.write(CLUSTER * epoch - 1000, filled(CLUSTER + 7, 0x80 + epoch)),
        ]);
        expected.fill(0x80 + epoch, CLUSTER * epoch - 1000, CLUSTER * epoch - 1000 + CLUSTER + 7);
        assert.ok((await bytesOf(svm)).equals(expected), `epoch ${epoch}: the secondary's own view`);
        forward.participant.stopped('primary');
        await back.participant.commit('secondary');
        await forward.participant.commit('primary');
        expected = await bytesOf(pvm);
        assert.ok((await bytesOf(svm)).equals(expected), `epoch ${epoch}: the checkpoint`);
      }

      // The primary dies in the middle of an epoch; what it wrote since is not to be seen.
      await Promise.all([pvm.write(0, filled(2 * CLUSTER, 0x77)), svm.write(CLUSTER, filled(5000, 0x99))]);
      expected.fill(0x99, CLUSTER, CLUSTER + 5000);
      await back.participant.stop('secondary', true);
      await svm.write(4 * CLUSTER + 11, filled(100, 0x9a));
      expected.fill(0x9a, 4 * CLUSTER + 11, 4 * CLUSTER + 111);
      await back.commitJob?.ended;
      assert.equal(back.stage, 'done');
      assert.ok((await bytesOf(svm)).equals(expected), 'after the failover');
      assert.ok((await bytesOf(parent)).equals(expected), 'on the secondary disk');

      // A resync from the promoted side, without stopping it.
      await secondary.addDrive('third', parse(`if=none,driver=qcow2,file.filename=${path('third.qcow2')}`));
      const again = jobs.startMirror({
        id: 'resync',
        source: svm,
        target: secondary.require('third'),
        sync: 'full',
      });
      await again.becameReady;
      await svm.write(12345, filled(54321, 0x9b));
      expected.fill(0x9b, 12345, 12345 + 54321);
      jobs.cancel('resync');
      await again.ended;

      await primary.closeAll();
      await secondary.closeAll();
      for (const name of ['primary', 'parent', 'active', 'hidden', 'third']) {
        await tool('qemu-img', 'check', '-q', path(`${name}.qcow2`));
      }
      await tool('qemu-img', 'compare', '-q', path('parent.qcow2'), path('third.qcow2'));
      await tool('qemu-img', 'convert', '-O', 'raw', path('third.qcow2'), path('third.raw'));
      assert.ok((await readFile(path('third.raw'))).equals(expected));
      assert.deepEqual(log.of('QUORUM_REPORT_BAD'), []);
    });
  });
});
