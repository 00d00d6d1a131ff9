/**
 * Replication between ours and a stock QEMU 7.2, either as primary: resync by drive-mirror, epochs with writes on both
 * sides, the death of the primary, failover; qemu-img compares what is on the disks. The pair of two QEMUs proves the
 * script; that of two of ours is the comparison.
 */
import assert from 'node:assert/strict';
import { copyFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, it } from 'node:test';
import { until } from '../../helpers/colo.ts';
import { inFolder, tool } from '../qcow2/helpers.ts';
import { ReplicatedPair } from './pair.ts';
import { STEP_MS, missingQemu } from './program.ts';
import type { Program } from './program.ts';

async function ok(program: Program, ...commands: string[]): Promise<void> {
  for (const command of commands) {
    assert.match(
      await program.io('colo-disk0', command),
      /^(read|wrote) \d+\/\d+ bytes at offset \d+$/,
      command,
    );
  }
}

for (const [primary, secondary] of [
  ['qemu', 'colo'],
  ['colo', 'qemu'],
  ['colo', 'colo'],
  ['qemu', 'qemu'],
] as const) {
  describe(`primary ${primary}, secondary ${secondary}`, { skip: missingQemu }, () => {
    it('mirror, replicate, fail over', async (t) => {
      await inFolder(async (folder) => {
        const pair = await ReplicatedPair.start(t, folder, { primary, secondary });
        const { images } = pair;
        const [p, s] = [pair.primary, pair.secondary];
        await ok(p, 'write -P 1 0 1M', 'write -P 2 3M 100k');

        // Resync, with a write in the middle and one when it is ready.
        await pair.exportDisk();
        const from = p.qmp.events.length;
        await p.execute('drive-mirror', {
          device: 'colo-disk0',
          'job-id': 'resync',
          target: `nbd+unix:///parent0?socket=${pair.socket}`,
          mode: 'existing',
          format: 'raw',
          sync: 'full',
        });
        await ok(p, 'write -P 3 512k 8k');
        await p.qmp.event('BLOCK_JOB_READY', from, STEP_MS);
        await ok(p, 'write -P 4 100 1000');
        await p.execute('block-job-cancel', { device: 'resync' });
        const end = await p.qmp.event('BLOCK_JOB_COMPLETED', from, STEP_MS);
        assert.equal(end.data?.['error'], undefined);
        await tool(
          'qemu-img',
          'compare',
          '-q',
          '-U',
          '-f',
          'raw',
          '-F',
          'raw',
          images.primary,
          images.secondary,
        );

        // Neither side sees the other's writes until the checkpoint. The primary's are whole sectors, as a guest's are:
        // QEMU's primary zeroes the rest of a sector on the other side.
        await pair.replicate();
        await ok(s, 'read -P 4 100 1000', 'write -P 50 64k 64k', 'read -P 50 64k 64k');
        await ok(p, 'write -P 5 100k 64k', 'write -z 2M 64k', 'read -P 1 64k 36k', 'write -P 6 1k 512');
        await ok(s, 'read -P 50 64k 64k', 'read -P 1 128k 36k', 'read -P 4 1k 76');
        await pair.checkpoint();
        await ok(s, 'read -P 1 64k 36k', 'read -P 5 100k 64k', 'read -P 6 1k 512', 'read -P 2 3M 100k');
        assert.deepEqual(await p.execute('query-xen-replication-status'), { error: false });
        assert.deepEqual(await s.execute('query-xen-replication-status'), { error: false });
        const expected = path.join(folder, 'expected.raw');
        await copyFile(images.primary, expected);

        // The primary dies in the middle of an epoch; what it wrote since is not to be seen.
        await ok(s, 'write -P 51 104k 8k', 'write -P 52 3500k 100k');
        await ok(p, 'write -P 7 0 2M', 'write -P 8 3M 1M');
        await ok(s, 'read -P 6 1k 512', 'read -P 51 104k 8k', 'read -P 52 3500k 100k', 'read -P 2 3M 100k');
        await p.kill();
        await s.execute('nbd-server-stop');
        await pair.failover();
        await ok(s, 'write -P 53 1M 64k');
        for (const write of ['write -P 51 104k 8k', 'write -P 52 3500k 100k', 'write -P 53 1M 64k']) {
          await tool('qemu-io', '-f', 'raw', '-c', write, expected);
        }
        // Ours has a job to wait for; QEMU's is hidden, so the disk itself has to tell.
        const compare = ['compare', '-q', '-U', '-f', 'raw', '-F', 'raw', expected, images.secondary];
        await until('the merge', STEP_MS, () =>
          tool('qemu-img', ...compare).then(
            () => true,
            () => false,
          ),
        );
        await until('the end of it', STEP_MS, async () => {
          return JSON.stringify(await s.execute('query-xen-replication-status')) === '{"error":false}';
        });
        await ok(s, 'read -P 53 1M 64k', 'write -P 54 2M 64k', 'read -P 54 2M 64k');
        await s.quit();
        await tool('qemu-io', '-f', 'raw', '-c', 'write -P 54 2M 64k', expected);
        await tool('qemu-img', 'compare', '-q', '-f', 'raw', '-F', 'raw', expected, images.secondary);
        await tool('qemu-img', 'check', '-q', images.active);
        await tool('qemu-img', 'check', '-q', images.hidden);
      });
    });
  });
}

describe('what the other side learns of a failure', { skip: missingQemu }, () => {
  const FAILED = { error: true, desc: 'I/O error occurred' };

  it('a QEMU primary, of our disks that fail; its guest does not', async (t) => {
    for (const layer of ['hid', 'sec']) {
      await inFolder(async (folder) => {
        const pair = await ReplicatedPair.start(t, folder, { primary: 'qemu', secondary: 'colo' });
        await pair.exportDisk();
        await pair.replicate();
        const rule = { event: 'none', iotype: 'write', errno: 28 };
        await pair.secondary.execute('x-blkdebug', { 'node-name': layer, 'inject-error': [rule] });
        await ok(pair.primary, 'write -P 1 0 64k');
        assert.deepEqual(await pair.primary.execute('query-xen-replication-status'), FAILED);
        assert.deepEqual(pair.primary.events('QUORUM_REPORT_BAD', 'QUORUM_FAILURE'), []);
        await ok(pair.secondary, 'read -P 0 0 64k');
        await Promise.all([pair.primary.kill(), pair.secondary.kill()]);
      });
    }
  });

  it('our primary, of a QEMU that dies; its guest does not', async (t) => {
    await inFolder(async (folder) => {
      const pair = await ReplicatedPair.start(t, folder, { primary: 'colo', secondary: 'qemu' });
      await pair.exportDisk();
      await pair.replicate();
      await ok(pair.primary, 'write -P 1 0 64k');
      await pair.secondary.kill();
      await ok(pair.primary, 'write -P 2 0 64k', 'read -P 2 0 64k');
      assert.deepEqual(await pair.primary.execute('query-xen-replication-status'), FAILED);
      assert.deepEqual(pair.primary.events('QUORUM_REPORT_BAD', 'QUORUM_FAILURE'), []);
    });
  });
});
