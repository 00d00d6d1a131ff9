/** The same mirror and the same broken quorum child, in QEMU and in ours: events, their fields and replies compared. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { IoError } from '../../../src/base/errors.ts';
import { QuorumDriver } from '../../../src/block/drivers/quorum.ts';
import { ErrorFilter } from '../../../src/block/filters/error.ts';
import { BlockJobs } from '../../../src/block/jobs/manager.ts';
import { BlockNode } from '../../../src/block/node.ts';
import { EventLog, filled, memory } from '../../unit/block/jobs-helpers.ts';
import { inFolder, tool } from '../qcow2/helpers.ts';
import { missingQemu, withQemu } from './qemu-qmp.ts';

const LENGTH = 8 * 1024 * 1024;

/** Ends of jobs and their fields, without what belongs to the VM. */
function jobEvents(log: EventLog): unknown[] {
  return log.seen.filter(({ event }) => event.includes('JOB'));
}

describe('as QEMU does', { skip: missingQemu }, () => {
  it('mirror: made ready, asked, cancelled', async () => {
    await inFolder(async (folder) => {
      const path = (name: string): string => join(folder, name);
      await tool('qemu-img', 'create', '-q', '-f', 'raw', path('source'), String(LENGTH));
      await tool('qemu-img', 'create', '-q', '-f', 'raw', path('target'), String(LENGTH));
      await tool('qemu-img', 'create', '-q', '-f', 'raw', path('short'), String(LENGTH / 2));
      const theirs = new EventLog();
      let theirInfo: unknown;
      let theirJobs: unknown;
      const theirErrors: unknown[] = [];

      const log = new EventLog();
      const jobs = new BlockJobs(log.emit);
      const source = memory('source', LENGTH);
      const ourErrors: unknown[] = [];

      const drive = `if=none,id=d0,driver=raw,file.driver=file,file.filename=${path('source')}`;
      await withQemu(folder, ['-drive', drive], async (qemu) => {
        const mirror = (id: string, target: string): ReturnType<typeof qemu.execute> =>
          qemu.execute('drive-mirror', {
            device: 'd0',
            'job-id': id,
            target: path(target),
            mode: 'existing',
            format: 'raw',
            sync: 'full',
          });
        const gone = (count: number): Promise<void> =>
          qemu.log.wait(() => qemu.log.words.filter((word) => word === 'null').length === count);
        await mirror('resync', 'target');
        await qemu.log.wait(() => qemu.log.of('BLOCK_JOB_READY').length === 1);
        theirInfo = (await qemu.execute('query-block-jobs')).return;
        theirJobs = (await qemu.execute('query-jobs')).return;
        theirErrors.push(
          (await mirror('two', 'short')).error?.desc,
          (await mirror('1', 'short')).error?.desc,
        );
        await qemu.execute('stop');
        await qemu.execute('block-job-cancel', { device: 'resync' });
        await gone(1);
        await mirror('short', 'short');
        await gone(2);
        theirErrors.push((await qemu.execute('block-job-cancel', { device: 'resync' })).error?.desc);
        theirs.seen.push(...qemu.log.seen);
      });

      const refusal = (act: () => void): void => {
        try {
          act();
          ourErrors.push(null);
        } catch (error) {
          ourErrors.push((error as Error).message);
        }
      };
      const target = memory('target', LENGTH);
      const job = jobs.startMirror({ id: 'resync', source, target, sync: 'full' });
      await job.becameReady;
      const ourInfo = jobs.list();
      const ourJobs = jobs.listJobs();
      refusal(() => jobs.startMirror({ id: 'two', source, target, sync: 'full' }));
      refusal(() => jobs.startMirror({ id: '1', source, target, sync: 'full' }));
      jobs.vmStopped();
      jobs.cancel('resync');
      await job.ended;
      await jobs.startMirror({ id: 'short', source, target: memory('short', LENGTH / 2), sync: 'full' })
        .ended;
      refusal(() => jobs.cancel('resync'));

      assert.deepEqual(jobEvents(log), jobEvents(theirs));
      assert.deepEqual(ourInfo, theirInfo);
      assert.deepEqual(ourJobs, theirJobs);
      assert.deepEqual(ourErrors, theirErrors);
    });
  });

  it('quorum: a child that cannot be written, then too few of them', async () => {
    await inFolder(async (folder) => {
      const path = (name: string): string => join(folder, name);
      const options: string[] = [];
      for (const threshold of [1, 2]) {
        for (const name of ['good', 'bad']) {
          await tool('qemu-img', 'create', '-q', '-f', 'raw', path(`${name}${threshold}`), String(LENGTH));
        }
        const bad =
          'children.1.driver=raw,children.1.file.driver=blkdebug,children.1.file.inject-error.0.event=none,' +
          `children.1.file.inject-error.0.iotype=write,children.1.file.inject-error.0.errno=28,` +
          `children.1.file.image.driver=file,children.1.file.image.filename=${path(`bad${threshold}`)}`;
        options.push(
          '-drive',
          `if=none,id=d${threshold},driver=quorum,vote-threshold=${threshold},children.0.driver=raw,` +
            `children.0.file.driver=file,children.0.file.filename=${path(`good${threshold}`)},` +
            `children.1.node-name=bad${threshold},${bad}`,
        );
      }
      const theirs: unknown[] = [];
      await withQemu(folder, options, async (qemu) => {
        for (const threshold of [1, 2]) {
          const line = `qemu-io d${threshold} "write 1024 2560"`;
          await qemu.execute('human-monitor-command', { 'command-line': line });
        }
        theirs.push(...qemu.log.seen);
      });

      const log = new EventLog();
      for (const voteThreshold of [1, 2]) {
        const bad = memory(`bad${voteThreshold}`, LENGTH, {
          wrap: (driver) => new ErrorFilter(driver, [{ op: 'write', errno: 'ENOSPC' }]),
        });
        const quorum = new QuorumDriver({
          nodeName: 'q',
          children: [memory('good', LENGTH), bad],
          voteThreshold,
          emit: log.emit,
          deviceName: () => `d${voteThreshold}`,
        });
        const outcome = await new BlockNode('q', quorum).write(1024, filled(2560, 1)).then(
          () => null,
          (error: unknown) => error,
        );
        assert.equal(outcome instanceof IoError, voteThreshold === 2);
      }
      assert.deepEqual(log.seen, theirs);
    });
  });
});
