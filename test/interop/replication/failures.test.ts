/**
 * The seven internal failures of QEMU's docs/block-replication.txt, each provoked in the built program through its public
 * interface: blkdebug nodes of the command line, QMP, the human monitor's qemu-io as the guest, NBD between the two,
 * and QEMU's tools to look at the disks. Who is told, and who is not.
 */
import assert from 'node:assert/strict';
import { copyFile, readFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { until } from '../../helpers/colo.ts';
import { inFolder, missingTools, runTool, tool } from '../qcow2/helpers.ts';
import { ReplicatedPair, SIZE } from './pair.ts';
import { STEP_MS } from './program.ts';
import type { Program } from './program.ts';

const WELL = { error: false };
const FAILED = { error: true, desc: 'I/O error occurred' };
const DONE = /^(read|wrote) \d+\/\d+ bytes at offset \d+$/;
const WRITES = { event: 'none', iotype: 'write' };

/** Other faults for a node of ours; no rules make it whole again. */
async function break_(program: Program, node: string, ...rules: object[]): Promise<void> {
  await program.execute('x-blkdebug', { 'node-name': node, 'inject-error': rules });
}

const status = (program: Program): Promise<unknown> => program.execute('query-xen-replication-status');

/** A replicated pair in its first epoch: pattern 1 everywhere. */
async function replicated(t: TestContext, act: (pair: ReplicatedPair) => Promise<void>): Promise<void> {
  await inFolder(async (folder) => {
    const pair = await ReplicatedPair.start(t, folder, { primary: 'colo', secondary: 'colo' });
    await pair.exportDisk();
    await pair.replicate('wire');
    assert.match(await pair.primary.io('colo-disk0', `write -P 1 0 ${SIZE}`), DONE);
    await pair.checkpoint();
    await act(pair);
  });
}

const told = (program: Program): unknown[] =>
  program
    .events('QUORUM_REPORT_BAD', 'QUORUM_FAILURE')
    .map(({ event, data }) => [event, data?.['node-name'], data?.['type']]);

describe('the seven failures of block replication', { skip: missingTools }, () => {
  it('1 and 5: the primary disk, and the active disk, fail: the guests are told by their quorums', async (t) => {
    await replicated(t, async (pair) => {
      const { primary, secondary } = pair;
      // All writes for a while: a single one might hit what qcow2 prepares ahead, which nobody waits for.
      await break_(secondary, 'act', { ...WRITES, errno: 28 });
      assert.equal(
        await secondary.io('colo-disk0', 'write -P 9 0 64k'),
        'write failed: No space left on device',
      );
      await break_(secondary, 'act');
      assert.deepEqual(told(secondary).map(String).sort(), [
        'QUORUM_FAILURE,,',
        `QUORUM_REPORT_BAD,${nodeOf(secondary)},write`,
      ]);
      assert.deepEqual([await status(primary), await status(secondary)], [WELL, WELL]);
      assert.match(await primary.io('colo-disk0', 'write -P 2 0 64k'), DONE);
      await pair.checkpoint();
      assert.match(await secondary.io('colo-disk0', 'read -P 2 0 64k'), DONE);

      await break_(primary, 'pri', { ...WRITES, errno: 28 });
      await primary.io('colo-disk0', 'write -P 2 0 64k');
      assert.deepEqual(told(primary)[0], ['QUORUM_REPORT_BAD', 'disk0', 'write']);
      await break_(primary, 'pri', { ...WRITES, errno: 28 }, { event: 'none', iotype: 'read' });
      assert.equal(await primary.io('colo-disk0', 'read 0 512'), 'read failed: Input/output error');
      await primary.execute('x-blockdev-change', { parent: 'colo-disk0', child: 'children.1' });
      assert.equal(
        await primary.io('colo-disk0', 'write -P 2 0 64k'),
        'write failed: No space left on device',
      );
      await primary.qmp.event('QUORUM_FAILURE', 0, STEP_MS);
      assert.deepEqual(await status(secondary), WELL);
    });
  });

  it('2: forwarding fails: the manager is told, the guest is not', async (t) => {
    await replicated(t, async ({ primary, secondary, images }) => {
      await break_(primary, 'wire', { ...WRITES, once: true });
      assert.match(await primary.io('colo-disk0', 'write -P 2 0 64k'), DONE);
      assert.deepEqual(await status(primary), FAILED);
      assert.deepEqual(told(primary), []);
      // The other disk lacks a write already, so nothing is sent any more.
      assert.match(await primary.io('colo-disk0', 'write -P 3 64k 64k'), DONE);
      assert.deepEqual((await readFile(images.secondary)).subarray(0, 2 ** 17), Buffer.alloc(2 ** 17, 1));
      assert.deepEqual(await status(secondary), WELL);
      // Way out: take the node away. The same when the other host is gone altogether.
      await secondary.kill();
      await primary.execute('x-blockdev-change', { parent: 'colo-disk0', child: 'children.1' });
      assert.equal(await primary.hmp('drive_del replication0'), '');
      assert.deepEqual(await status(primary), WELL);
      assert.match(await primary.io('colo-disk0', 'read -P 3 64k 64k'), DONE);
    });
  });

  it('2: the other host is gone: the same', async (t) => {
    await replicated(t, async ({ primary, secondary }) => {
      await secondary.kill();
      assert.match(await primary.io('colo-disk0', 'write -P 2 0 64k'), DONE);
      assert.deepEqual(await status(primary), FAILED);
      assert.deepEqual(told(primary), []);
    });
  });

  it('3: the copy before a write fails: the NBD write fails, both managers are told, no further checkpoint', async (t) => {
    await replicated(t, async ({ primary, secondary, socket }) => {
      await break_(secondary, 'hid', WRITES);
      assert.match(await primary.io('colo-disk0', 'write -P 2 0 64k'), DONE);
      await break_(secondary, 'hid');
      assert.deepEqual(await status(primary), FAILED);
      assert.deepEqual(await status(secondary), FAILED);
      const checkpoint = await secondary.outcome('xen-colo-do-checkpoint');
      assert.equal(checkpoint, 'GenericError: Backup job was cancelled unexpectedly');
      // What the secondary's guest sees is whole.
      assert.match(await secondary.io('colo-disk0', `read -P 1 0 ${SIZE}`), DONE);
      // The same from outside: what an NBD client is told.
      await break_(secondary, 'hid', WRITES);
      const url = `nbd+unix:///parent0?socket=${socket}`;
      const { stdout, stderr } = await runTool('qemu-io', '-f', 'raw', '-c', 'write 1M 64k', url);
      assert.match(stdout + stderr, /write failed: Input\/output error/);
    });
  });

  it('4 and 6: the secondary disk, and emptying an overlay, fail', async (t) => {
    await replicated(t, async ({ primary, secondary }) => {
      await break_(secondary, 'sec', { ...WRITES, errno: 28, once: true });
      assert.match(await primary.io('colo-disk0', 'write -P 2 0 64k'), DONE);
      assert.deepEqual(await status(primary), FAILED, 'the primary learns of it as 2');
      assert.deepEqual(await status(secondary), WELL, 'the secondary sees what it saw');
      assert.match(await secondary.io('colo-disk0', `read -P 1 0 ${SIZE}`), DONE);

      for (const layer of ['hid', 'act']) {
        assert.match(await secondary.io('colo-disk0', 'write -P 9 64k 64k'), DONE);
        await break_(secondary, layer, { event: 'none', errno: 28 });
        assert.match(await secondary.outcome('xen-colo-do-checkpoint'), /^GenericError: Injected /, layer);
        assert.deepEqual(await status(secondary), FAILED);
        await break_(secondary, layer);
      }
      // Nothing is left held.
      assert.match(await secondary.io('colo-disk0', 'write -P 10 0 4k'), DONE);
      assert.match(await secondary.io('parent0', 'write -P 10 2M 4k'), DONE);
    });
  });

  it('7: the merge after a failover fails: reads are whole, writes go where the data is, and it is told', async (t) => {
    await replicated(t, async (pair) => {
      const { primary, secondary, images, folder } = pair;
      const expected = path.join(folder, 'expected.raw');
      await copyFile(images.primary, expected);
      assert.match(await secondary.io('colo-disk0', 'write -P 9 64k 64k'), DONE); // in the active disk
      assert.match(await primary.io('colo-disk0', 'write -P 2 256k 64k'), DONE); // its old content in the hidden one
      await primary.kill();
      await secondary.execute('nbd-server-stop');
      await break_(secondary, 'sec', { ...WRITES, once: true });
      await pair.failover();
      const end = await secondary.qmp.event('BLOCK_JOB_COMPLETED', 0, STEP_MS);
      assert.deepEqual([end.data?.['type'], typeof end.data?.['error']], ['commit', 'string']);
      const error = secondary.events('BLOCK_JOB_ERROR')[0]?.data;
      assert.deepEqual([error?.['operation'], error?.['action']], ['write', 'report']);
      assert.deepEqual(await status(secondary), FAILED);
      for (const [verb, args, text] of [
        ['xen-set-replication', { enable: true, primary: false }, 'Block replication is running or done'],
        ['xen-set-replication', { enable: false, primary: false }, 'Block replication is not running'],
        ['xen-colo-do-checkpoint', {}, 'Backup job was cancelled unexpectedly'],
      ] as const) {
        assert.equal(await secondary.outcome(verb, args), `GenericError: ${text}`);
      }
      const writes = [
        'write -P 9 64k 64k',
        'write -P 10 100k 1k',
        'write -P 11 300k 1k',
        'write -P 12 2M 64k',
      ];
      for (const write of writes) {
        if (write !== writes[0]) assert.match(await secondary.io('colo-disk0', write), DONE);
        await tool('qemu-io', '-f', 'raw', '-c', write, expected);
      }
      assert.match(await secondary.io('colo-disk0', 'read -P 12 2M 64k'), DONE);
      // The way out: a copy that is whole.
      const copy = path.join(folder, 'copy.raw');
      await tool('qemu-img', 'create', '-q', '-f', 'raw', copy, String(SIZE));
      const from = secondary.qmp.events.length;
      const mirror = {
        device: 'colo-disk0',
        'job-id': 'copy',
        target: copy,
        mode: 'existing',
        format: 'raw',
        sync: 'full',
      };
      await secondary.execute('drive-mirror', mirror);
      await secondary.qmp.event('BLOCK_JOB_READY', from, STEP_MS);
      await secondary.execute('block-job-cancel', { device: 'copy' });
      await secondary.qmp.event('BLOCK_JOB_COMPLETED', from, STEP_MS);
      await secondary.quit();
      await tool('qemu-img', 'compare', '-q', '-f', 'raw', '-F', 'raw', copy, expected);
      // In the active disk where the overlays had the data, in the secondary disk otherwise.
      assert.match(await tool('qemu-io', '-f', 'raw', '-c', 'read -P 12 2M 64k', images.secondary), /^read/);
      const below = `file.filename=${images.secondary},driver=raw`;
      const chain =
        `driver=qcow2,file.filename=${images.active},backing.driver=qcow2,backing.file.filename=${images.hidden},` +
        below.replaceAll(/(^|,)/g, '$1backing.backing.');
      const compare = ['compare', '-q', '--image-opts', chain, `driver=raw,file.filename=${expected}`];
      await tool('qemu-img', ...compare);
    });
  });

  it('a failover that works is a job with progress', async (t) => {
    await replicated(t, async (pair) => {
      const { primary, secondary, images } = pair;
      assert.match(await secondary.io('colo-disk0', 'write -P 9 0 1M'), DONE);
      await primary.kill();
      await secondary.execute('nbd-server-stop');
      await secondary.io('sec', 'break write_aio slow');
      await pair.failover();
      await secondary.io('sec', 'wait_break slow');
      const [job] = (await secondary.execute('query-block-jobs')) as Record<string, unknown>[];
      const { device, len, offset, ...rest } = job ?? {};
      assert.match(String(device), /^failover-/);
      assert.ok(
        Number(len) >= 2 ** 20 && Number(offset) < Number(len),
        `${String(offset)} of ${String(len)}`,
      );
      assert.deepEqual(rest, {
        type: 'commit',
        status: 'running',
        ready: false,
        paused: false,
        busy: true,
        speed: 0,
        'io-status': 'ok',
        'auto-finalize': true,
        'auto-dismiss': true,
      });
      // In this stage the verbs are ignored, and nobody else may write to the disk.
      for (const [verb, args] of [
        ['xen-set-replication', { enable: true, primary: false }],
        ['xen-set-replication', { enable: false, primary: false }],
        ['xen-colo-do-checkpoint', {}],
      ] as const) {
        assert.equal(await secondary.outcome(verb, args), '{}');
      }
      assert.deepEqual(await status(secondary), WELL);
      assert.equal(
        await secondary.io('parent0', 'write -P 13 3M 512'),
        'write failed: Operation not permitted',
      );
      // The guest runs meanwhile.
      assert.match(await secondary.io('colo-disk0', 'read -P 9 0 1M'), DONE);
      await secondary.io('sec', 'remove_break slow');
      const end = await secondary.qmp.event('BLOCK_JOB_COMPLETED', 0, STEP_MS);
      assert.deepEqual([end.data?.['error'], end.data?.['offset']], [undefined, end.data?.['len']]);
      await until('the job to be gone', STEP_MS, async () => {
        return JSON.stringify(await secondary.execute('query-block-jobs')) === '[]';
      });
      await secondary.quit();
      assert.match(await tool('qemu-io', '-f', 'raw', '-c', 'read -P 9 0 1M', images.secondary), /^read/);
    });
  });
});

/** The name that the secondary's replication node was given. */
function nodeOf(program: Program): string {
  return String(program.events('QUORUM_REPORT_BAD')[0]?.data?.['node-name']);
}
