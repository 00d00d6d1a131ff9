/** Mirror, commit and backup: what they copy, what they tell, and how they end. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { DeviceNotActiveError } from '../../../src/base/errors.ts';
import { ErrorFilter } from '../../../src/block/filters/error.ts';
import { DelayFilter, GateFilter } from '../../../src/block/filters/delay.ts';
import { CopyBeforeWrite } from '../../../src/block/jobs/copy-before-write.ts';
import { ChunkBitmap } from '../../../src/block/jobs/chunk-bitmap.ts';
import { NEXT_STATES, VERB_STATES } from '../../../src/block/jobs/job-states.ts';
import { CommitJob } from '../../../src/block/jobs/commit.ts';
import { BlockJobs, requireUnblocked } from '../../../src/block/jobs/manager.ts';
import { RateLimit } from '../../../src/block/jobs/rate-limit.ts';
import type { MirrorOptions } from '../../../src/block/jobs/mirror.ts';
import type { BlockDriver } from '../../../src/block/driver.ts';
import type { BlockNode } from '../../../src/block/node.ts';
import { CLUSTER, EventLog, KIB, bytesOf, filled, isPending, memory } from './jobs-helpers.ts';

const MIB = 1024 * KIB;

function mirrorOf(
  source: BlockNode,
  target: BlockNode,
  more: Partial<MirrorOptions> = {},
): { log: EventLog; jobs: BlockJobs; options: Omit<MirrorOptions, 'emit'> } {
  const log = new EventLog();
  return {
    log,
    jobs: new BlockJobs(log.emit),
    options: { id: 'resync', source, target, sync: 'full', ...more },
  };
}

describe('chunk bitmap', () => {
  it('finds what was set, going round', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.nat(99), { maxLength: 30 }), fc.nat(110), (set, from) => {
        const bitmap = new ChunkBitmap(100 * 8 - 3, 8);
        for (const chunk of set) bitmap.set(chunk);
        const sorted = [...set].sort((a, b) => a - b);
        const expected = sorted.find((chunk) => chunk >= (from >= 100 ? 0 : from)) ?? sorted[0] ?? -1;
        assert.equal(bitmap.nextSet(from), expected);
        assert.equal(bitmap.bytes, set.length * 8 - (set.includes(99) ? 3 : 0));
      }),
    );
  });
});

describe('rate limit', () => {
  it('lets a slice through and then makes the next piece wait for the debt', () => {
    let now = 0;
    const limit = new RateLimit(1000, () => now);
    assert.equal(limit.free, true);
    limit.spend(500); // half a second's worth
    assert.equal(limit.free, false);
    now = 401;
    assert.equal(limit.free, true);
  });

  it('a new speed frees those who wait', async () => {
    const limit = new RateLimit(1, () => 0);
    limit.spend(1000);
    const waiting = limit.wait(new AbortController().signal);
    assert.equal(await isPending(waiting), true);
    limit.setSpeed(0);
    await waiting;
  });
});

describe('mirror', () => {
  it('tells the events of a resync in their order, with their fields', async () => {
    const source = memory('source', 4 * MIB);
    const target = memory('target', 4 * MIB);
    await source.write(100 * KIB, filled(MIB, 7));
    const { log, jobs, options } = mirrorOf(source, target);
    const job = jobs.startMirror(options);
    assert.deepEqual(log.words, ['created', 'running'], 'both before the reply');
    await job.becameReady;
    assert.deepEqual(jobs.list(), [
      {
        'auto-finalize': true,
        'io-status': 'ok',
        device: 'resync',
        'auto-dismiss': true,
        busy: false,
        len: 4 * MIB,
        offset: 4 * MIB,
        status: 'ready',
        paused: false,
        speed: 0,
        ready: true,
        type: 'mirror',
      },
    ]);
    assert.deepEqual(jobs.listJobs(), [
      {
        'current-progress': 4 * MIB,
        status: 'ready',
        'total-progress': 4 * MIB,
        type: 'mirror',
        id: 'resync',
      },
    ]);
    jobs.vmStopped();
    jobs.cancel('resync');
    await job.ended;
    jobs.vmResumed();
    assert.deepEqual(log.words, [
      'created',
      'running',
      'ready',
      'BLOCK_JOB_READY',
      'standby',
      'ready',
      'waiting',
      'pending',
      'BLOCK_JOB_COMPLETED',
      'concluded',
      'null',
    ]);
    const data = { device: 'resync', len: 4 * MIB, offset: 4 * MIB, speed: 0, type: 'mirror' };
    assert.deepEqual(log.of('BLOCK_JOB_READY'), [data]);
    assert.deepEqual(log.of('BLOCK_JOB_COMPLETED'), [data]);
    assert.deepEqual(await bytesOf(target), await bytesOf(source));
    assert.deepEqual(jobs.list(), []);
    assert.deepEqual([...source.users, ...target.users], []);
  });

  it('overwrites what an existing target holds where the source reads as zeros', async () => {
    const source = memory('source', MIB);
    const target = memory('target', MIB);
    await target.write(0, filled(MIB, 9));
    const { jobs, options } = mirrorOf(source, target);
    const job = jobs.startMirror(options);
    await job.becameReady;
    jobs.cancel('resync');
    await job.ended;
    assert.deepEqual(await bytesOf(target), Buffer.alloc(MIB));
  });

  it('sync=top copies what the top image has, sync=none only what is written later', async () => {
    for (const sync of ['top', 'none'] as const) {
      const base = memory('base', MIB);
      await base.write(0, filled(MIB, 1));
      const source = memory('source', MIB, { backing: base });
      await source.write(CLUSTER, filled(CLUSTER, 2));
      const target = memory('target', MIB);
      const { jobs, options } = mirrorOf(source, target, { sync });
      const job = jobs.startMirror(options);
      await job.becameReady;
      await source.write(3 * CLUSTER, filled(CLUSTER, 3));
      jobs.cancel('resync');
      await job.ended;
      assert.deepEqual(await bytesOf(target, 0, CLUSTER), Buffer.alloc(CLUSTER));
      assert.equal((await bytesOf(target, CLUSTER, 1))[0], sync === 'top' ? 2 : 0);
      assert.equal((await bytesOf(target, 3 * CLUSTER, 1))[0], 3);
    }
  });

  it('loses no write, whenever it comes, and ends with equal disks', async () => {
    const LENGTH = 6 * CLUSTER + 512;
    const op = fc.record({
      at: fc.nat(LENGTH - 1),
      length: fc.integer({ min: 1, max: CLUSTER * 2 }),
      value: fc.nat(255),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.scheduler(),
        fc.array(op, { minLength: 1, maxLength: 12 }),
        async (scheduler, ops) => {
          const inner: BlockDriver[] = [];
          const slow = (driver: BlockDriver): BlockDriver => {
            inner.push(driver);
            return new DelayFilter(driver, () => scheduler.schedule(Promise.resolve(), 'io'));
          };
          const source = memory('source', LENGTH, { wrap: slow });
          const target = memory('target', LENGTH, { wrap: slow });
          const quiet: Buffer[] = [];
          const { jobs, options } = mirrorOf(source, target, {
            whenQuiet: async () => {
              for (const driver of inner) {
                const content = Buffer.alloc(LENGTH);
                await driver.read(0, content);
                quiet.push(content);
              }
            },
          });
          const job = jobs.startMirror(options);
          const guest = Promise.all(
            ops.map(async ({ at, length, value }) => {
              await scheduler.schedule(Promise.resolve(), 'guest');
              await source.write(at, filled(Math.min(length, LENGTH - at), value));
            }),
          );
          const whole = (async () => {
            await job.becameReady;
            await scheduler.schedule(Promise.resolve(), 'cancel');
            jobs.cancel('resync');
            await job.ended;
          })();
          await scheduler.waitFor(whole);
          await scheduler.waitFor(guest);
          assert.equal(job.failure, null);
          assert.equal(quiet.length, 2);
          assert.ok(quiet[0]?.equals(quiet[1] ?? Buffer.alloc(0)), 'equal while quiet');
        },
      ),
      { numRuns: 25 },
    );
  });

  it('holds writes while whenQuiet runs, with both disks equal and the target flushed', async () => {
    const source = memory('source', MIB);
    const target = memory('target', MIB);
    const late: Promise<void>[] = [];
    let equal = false;
    const { jobs, options } = mirrorOf(source, target, {
      whenQuiet: async () => {
        const write = source.write(0, filled(512, 5));
        late.push(write);
        equal = await isPending(write);
        equal &&= (await bytesOf(source)).equals(await bytesOf(target));
      },
    });
    const job = jobs.startMirror(options);
    await source.write(0, filled(MIB, 4));
    await job.becameReady;
    jobs.cancel('resync');
    await job.ended;
    assert.equal(late.length, 1);
    await late[0];
    assert.equal(equal, true);
    assert.equal((target.driver as unknown as { flushes: number }).flushes, 1);
    assert.equal((await bytesOf(target, 0, 1))[0], 4, 'a write after the cut does not reach the target');
    assert.equal((await bytesOf(source, 0, 1))[0], 5);
  });

  it('becomes ready, and ends, under a guest that never pauses', async () => {
    const length = 32 * MIB;
    const source = memory('source', length);
    const target = memory('target', length, {
      wrap: (driver) =>
        new DelayFilter(driver, async (op, _offset, _length, done) => {
          if (op === 'write' && !done) await new Promise((resolve) => setImmediate(resolve));
        }),
    });
    await source.write(0, filled(length, 1));
    const quiet: boolean[] = [];
    const { jobs, options } = mirrorOf(source, target, {
      whenQuiet: async () => void quiet.push((await bytesOf(source)).equals(await bytesOf(target))),
    });
    const job = jobs.startMirror(options);
    const state = { over: false };
    const guest = (async () => {
      const page = filled(4096, 2);
      for (let write = 0; !state.over; write++) {
        await source.write(((write * 7919) % (length / 4096)) * 4096, page);
        if (write % 20 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
    })();
    await job.becameReady;
    jobs.cancel('resync');
    await job.ended;
    state.over = true;
    await guest;
    assert.equal(job.failure, null);
    assert.deepEqual(quiet, [true]);
  });

  it('is cancelled for good before it is ready, or when forced', async () => {
    for (const force of [false, true]) {
      const gate = { filter: null as GateFilter | null };
      const source = memory('source', MIB, {
        wrap: (driver) => (gate.filter = new GateFilter(driver, ['read'])),
      });
      await source.write(0, filled(MIB, 1));
      const target = memory('target', MIB);
      const { log, jobs, options } = mirrorOf(source, target);
      if (!force) gate.filter?.gate.close();
      const job = jobs.startMirror(options);
      if (force) await job.becameReady;
      jobs.cancel('resync', force);
      await job.ended;
      gate.filter?.gate.open();
      assert.deepEqual(log.words.slice(force ? 4 : 2), [
        'aborting',
        'BLOCK_JOB_CANCELLED',
        'concluded',
        'null',
      ]);
      assert.deepEqual(log.of('BLOCK_JOB_ERROR'), [], 'a read that was broken off is no error');
      assert.deepEqual(Object.keys(log.of('BLOCK_JOB_CANCELLED')[0] ?? {}).sort(), [
        'device',
        'len',
        'offset',
        'speed',
        'type',
      ]);
    }
  });

  it('tells an error of the target and ends', async () => {
    const source = memory('source', MIB);
    await source.write(0, filled(MIB, 1));
    const target = memory('target', MIB, {
      wrap: (driver) => new ErrorFilter(driver, [{ op: 'write', errno: 'ENOSPC' }]),
    });
    const { log, jobs, options } = mirrorOf(source, target);
    const job = jobs.startMirror(options);
    await job.ended;
    assert.deepEqual(log.words, [
      'created',
      'running',
      'BLOCK_JOB_ERROR',
      'aborting',
      'BLOCK_JOB_COMPLETED',
      'concluded',
      'null',
    ]);
    assert.deepEqual(log.of('BLOCK_JOB_ERROR'), [{ device: 'resync', operation: 'write', action: 'report' }]);
    assert.equal(log.of('BLOCK_JOB_COMPLETED')[0]?.['error'], 'No space left on device');
    await source.write(0, filled(512, 2));
  });

  it('does not hang on a target that never answers', async () => {
    const gate = { filter: null as GateFilter | null };
    const source = memory('source', MIB);
    await source.write(0, filled(MIB, 1));
    const target = memory('target', MIB, { wrap: (driver) => (gate.filter = new GateFilter(driver)) });
    gate.filter?.gate.close();
    const { log, jobs, options } = mirrorOf(source, target, { stallMs: 20 });
    const job = jobs.startMirror(options);
    await job.ended;
    assert.equal(log.of('BLOCK_JOB_COMPLETED').length, 1);
    assert.match(String(log.of('BLOCK_JOB_COMPLETED')[0]?.['error']), /no answer within 20 ms/);
    gate.filter?.gate.open();
  });

  it('refuses a target of another length', async () => {
    const { log, jobs, options } = mirrorOf(memory('source', MIB), memory('target', 2 * MIB));
    await jobs.startMirror(options).ended;
    assert.deepEqual(log.of('BLOCK_JOB_COMPLETED'), [
      {
        device: 'resync',
        len: 0,
        offset: 0,
        speed: 0,
        type: 'mirror',
        error: 'Source and target image have different sizes',
      },
    ]);
  });

  it('pauses and resumes with the refusals of QEMU', async () => {
    const source = memory('source', MIB);
    await source.write(0, filled(MIB, 1));
    const { log, jobs, options } = mirrorOf(source, memory('target', MIB));
    const job = jobs.startMirror(options);
    jobs.pause('resync');
    assert.throws(() => jobs.pause('resync'), { message: 'Job is already paused' });
    assert.throws(() => jobs.cancel('resync'), {
      message: "The block job for device 'resync' is currently paused",
    });
    assert.throws(() => jobs.complete('resync'), {
      message: "Job 'resync' in state 'paused' cannot accept command verb 'complete'",
    });
    assert.equal(await isPending(job.becameReady), true, 'nothing is copied meanwhile');
    assert.equal(jobs.list()[0]?.paused, true);
    jobs.resume('resync');
    assert.throws(() => jobs.complete('resync'), {
      message: "Job 'resync' in state 'running' cannot accept command verb 'complete'",
    });
    assert.throws(() => jobs.resume('resync'), { message: "Can't resume a job that was not paused" });
    assert.throws(() => jobs.setSpeed('resync', -1), {
      message: "Parameter 'speed' expects a non-negative value",
    });
    await job.becameReady;
    jobs.pause('resync');
    assert.equal(jobs.list()[0]?.status, 'standby');
    jobs.resume('resync');
    jobs.complete('resync');
    await job.ended;
    assert.deepEqual(log.words.slice(0, 8), [
      'created',
      'running',
      'paused',
      'running',
      'ready',
      'BLOCK_JOB_READY',
      'standby',
      'ready',
    ]);
  });
});

describe('job states', () => {
  it('are those of docs/states/jobs.md, arrow by arrow', async () => {
    const page = await readFile(new URL('../../../docs/states/jobs.md', import.meta.url), 'utf8');
    const drawn = [...page.matchAll(/^ {2}(\w+) --> (\w+)/gm)].map(([, from, to]) => `${from} ${to}`);
    const coded = Object.entries(NEXT_STATES).flatMap(([from, next]) => next.map((to) => `${from} ${to}`));
    assert.deepEqual(drawn.sort(), coded.filter((arrow) => !arrow.startsWith('undefined')).sort());
    for (const [, state, verbs = ''] of page.matchAll(/^\| (\w+) +\| ([a-z, -]*?) *\|$/gm)) {
      if (state === 'state') continue;
      const taken = Object.entries(VERB_STATES).filter(([, states]) =>
        (states as string[]).includes(state ?? ''),
      );
      assert.equal(verbs, taken.map(([verb]) => verb).join(', '), state);
    }
  });
});

describe('job list', () => {
  it('refuses as QEMU does', async () => {
    const source = memory('source', MIB);
    const { jobs, options } = mirrorOf(source, memory('target', MIB));
    const job = jobs.startMirror(options);
    assert.throws(() => jobs.get('nix'), new DeviceNotActiveError("Block job 'nix' not found"));
    assert.throws(() => jobs.startMirror({ ...options, id: 'two' }), { message: 'Need a root block node' });
    const others = { source: memory('other', MIB), target: memory('another', MIB) };
    assert.throws(() => jobs.startMirror({ ...options, ...others }), {
      message: "Job ID 'resync' already in use",
    });
    assert.throws(() => jobs.startMirror({ ...options, ...others, id: '1r' }), {
      message: "Invalid job ID '1r'",
    });
    assert.throws(() => requireUnblocked(source, 'backup-source', 'd0'), {
      message: "Node 'd0' is busy: block device is in use by block job: mirror",
    });
    await jobs.cancelAll();
    await job.ended;
    source.blockers.set('*', 'somebody said so');
    assert.throws(() => requireUnblocked(source, 'mirror-source', 'colo-disk0'), {
      message: "Node 'colo-disk0' is busy: somebody said so",
    });
  });
});

describe('backup (copy before write)', () => {
  it('keeps the old content of what is overwritten, once an epoch', async () => {
    const source = memory('source', 8 * CLUSTER);
    await source.write(0, filled(8 * CLUSTER, 1));
    const target = memory('hidden', 8 * CLUSTER, { backing: source });
    const backup = new CopyBeforeWrite({ source, target });
    backup.start();
    await source.write(CLUSTER + 5, filled(10, 2));
    await source.writeZeroes(CLUSTER * 3, CLUSTER * 2);
    assert.equal(backup.copiedClusters, 3);
    assert.deepEqual(await bytesOf(target), Buffer.alloc(8 * CLUSTER, 1));
    await source.write(CLUSTER, filled(CLUSTER, 3));
    assert.equal(backup.copiedClusters, 3);
    await backup.hold();
    await target.makeEmpty();
    backup.beginEpoch();
    backup.release();
    await source.write(CLUSTER, filled(CLUSTER, 4));
    assert.equal((await bytesOf(target, CLUSTER, 1))[0], 3);
    await backup.stop();
    await source.write(0, filled(CLUSTER, 9));
    assert.equal((await bytesOf(target, 0, 1))[0], 9, 'no copy after the end');
  });

  it('fails the write and leaves the source alone when the copy fails', async () => {
    const source = memory('source', CLUSTER);
    const target = memory('hidden', CLUSTER, {
      backing: source,
      wrap: (driver) => new ErrorFilter(driver, [{ op: 'write', times: 1 }]),
    });
    const backup = new CopyBeforeWrite({ source, target });
    backup.start();
    await assert.rejects(source.write(0, filled(10, 2)), /Copy before write to 'source' failed/);
    assert.notEqual(backup.error, null);
    assert.deepEqual(await bytesOf(source), Buffer.alloc(CLUSTER));
  });

  it('waits for reads of the chain that had begun before the copy', async () => {
    const source = memory('source', CLUSTER);
    const target = memory('hidden', CLUSTER, { backing: source });
    let letGo = (): void => assert.fail();
    const backup = new CopyBeforeWrite({
      source,
      target,
      readersPassed: () => new Promise<void>((resolve) => (letGo = resolve)),
    });
    backup.start();
    const write = source.write(0, filled(10, 2));
    assert.equal(await isPending(write), true);
    assert.equal(backup.copiedClusters, 1);
    assert.equal((await bytesOf(source, 0, 1))[0], 0);
    letGo();
    await write;
  });
});

describe('active commit', () => {
  it('moves what the overlays hold into the base while the guest writes, then switches', async () => {
    const base = memory('base', 8 * CLUSTER);
    await base.write(0, filled(8 * CLUSTER, 1));
    const middle = memory('middle', 8 * CLUSTER, { backing: base });
    await middle.write(CLUSTER, filled(2 * CLUSTER, 2));
    const top = memory('top', 8 * CLUSTER, { backing: middle });
    await top.write(2 * CLUSTER + 100, filled(50, 3));
    const log = new EventLog();
    const steps: string[] = [];
    const job = new CommitJob({
      id: 'commit',
      emit: log.emit,
      top,
      base,
      quiesce: () => {
        steps.push('quiesce');
        return Promise.resolve();
      },
      pivot: () => void steps.push('pivot'),
      release: () => void steps.push('release'),
    });
    const expected = await bytesOf(top);
    job.start();
    await top.write(7 * CLUSTER, filled(10, 4));
    expected.fill(4, 7 * CLUSTER, 7 * CLUSTER + 10);
    await job.ended;
    assert.equal(job.failure, null);
    assert.deepEqual(steps, ['quiesce', 'pivot', 'release']);
    assert.deepEqual(await bytesOf(base), expected);
    assert.equal(job.type, 'commit');
  });

  it('fails without a switch when the base cannot be written', async () => {
    const base = memory('base', CLUSTER, { wrap: (driver) => new ErrorFilter(driver, [{ op: 'write' }]) });
    const top = memory('top', CLUSTER, { backing: base });
    await top.write(0, filled(10, 1));
    const log = new EventLog();
    const never = (): never => assert.fail('must not switch');
    const job = new CommitJob({
      id: 'commit',
      emit: log.emit,
      top,
      base,
      quiesce: () => Promise.resolve(),
      pivot: never,
      release: () => undefined,
    });
    job.start();
    await job.ended;
    assert.match(job.failure?.message ?? '', /Injected write error/);
  });
});
