/** What jobs copy and what they leave out, how they keep up with a guest, and what a bad target does to it. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { BlockDriver, WriteFlags } from '../../../src/block/driver.ts';
import { GateFilter } from '../../../src/block/filters/delay.ts';
import { ErrorFilter } from '../../../src/block/filters/error.ts';
import { PassThrough } from '../../../src/block/filters/pass-through.ts';
import { ChunkStates } from '../../../src/block/jobs/chunk-states.ts';
import { CommitJob } from '../../../src/block/jobs/commit.ts';
import { BlockJobs } from '../../../src/block/jobs/manager.ts';
import type { MirrorOptions } from '../../../src/block/jobs/mirror.ts';
import type { BlockNode } from '../../../src/block/node.ts';
import { CLUSTER, EventLog, KIB, bytesOf, filled, isPending, memory, turns } from './jobs-helpers.ts';

const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

/** Counts what reaches it. */
class Recorder extends PassThrough {
  written = 0;
  zeroed = 0;
  largest = 0;
  inFlight = 0;
  mostInFlight = 0;

  constructor(next: BlockDriver) {
    super('recorder', next);
  }

  override async write(offset: number, source: Uint8Array, flags?: WriteFlags): Promise<void> {
    this.written += source.byteLength;
    this.largest = Math.max(this.largest, source.byteLength);
    this.mostInFlight = Math.max(this.mostInFlight, ++this.inFlight);
    await new Promise((resolve) => setImmediate(resolve));
    await super.write(offset, source, flags);
    this.inFlight--;
  }

  override async writeZeroes(offset: number, length: number, flags?: WriteFlags): Promise<void> {
    this.zeroed += length;
    await super.writeZeroes(offset, length, flags);
  }
}

function recording(name: string, length: number): { node: BlockNode; seen: Recorder } {
  const box: { seen: Recorder | null } = { seen: null };
  const node = memory(name, length, { wrap: (driver) => (box.seen = new Recorder(driver)) });
  assert.ok(box.seen);
  return { node, seen: box.seen };
}

function gated(name: string, length: number): { node: BlockNode; filter: GateFilter } {
  const box: { filter: GateFilter | null } = { filter: null };
  const node = memory(name, length, { wrap: (driver) => (box.filter = new GateFilter(driver, ['write'])) });
  assert.ok(box.filter);
  return { node, filter: box.filter };
}

function mirror(source: BlockNode, target: BlockNode, more: Partial<MirrorOptions> = {}) {
  const log = new EventLog();
  const jobs = new BlockJobs(log.emit);
  const job = jobs.startMirror({ id: 'job', source, target, sync: 'full', ...more });
  return { log, jobs, job };
}

describe('what is copied', () => {
  it('of a sparse disk: its data, and nothing else', async () => {
    for (const kind of ['mirror', 'backup'] as const) {
      const source = memory('source', GIB);
      for (const at of [5 * MIB, 500 * MIB, GIB - MIB]) await source.write(at, filled(MIB, 1));
      const { node: target, seen } = recording('target', GIB);
      // Something that the source does not have, in a target that is empty otherwise.
      await target.write(100 * MIB, filled(CLUSTER, 9));
      seen.written = 0;
      const jobs = new BlockJobs(new EventLog().emit);
      const options = { id: 'job', source, target, sync: 'full' as const };
      if (kind === 'backup') await jobs.startBackup(options).ended;
      else {
        const job = jobs.startMirror(options);
        await job.becameReady;
        assert.deepEqual(job.progress(), { offset: GIB, len: GIB });
        job.cancel();
        await job.ended;
      }
      assert.deepEqual(
        { written: seen.written, zeroed: seen.zeroed },
        { written: 3 * MIB, zeroed: CLUSTER },
        kind,
      );
      for (const at of [5 * MIB, 100 * MIB, 500 * MIB, GIB - MIB]) {
        assert.deepEqual(await bytesOf(target, at, CLUSTER), await bytesOf(source, at, CLUSTER));
      }
    }
  });

  it('after it is ready: chunks of the granularity that was asked for', async () => {
    for (const [granularityBytes, copied] of [
      [512, 1024],
      [4096, 8192],
      [MIB, MIB],
    ] as const) {
      const source = memory('source', 2 * MIB);
      await source.write(0, filled(2 * MIB, 1));
      const { node: target, seen } = recording('target', 2 * MIB);
      const { job } = mirror(source, target, { granularityBytes });
      await job.becameReady;
      seen.written = 0;
      await source.write(4096 - 256, filled(512, 2));
      job.cancel();
      await job.ended;
      assert.equal(seen.written, copied);
      assert.deepEqual(await bytesOf(target), await bytesOf(source));
    }
  });

  it('in pieces that buf-size has room for', async () => {
    for (const [bufferBytes, largest, most] of [
      [1, CLUSTER, 1],
      [3 * CLUSTER, 3 * CLUSTER, 1],
      [4 * MIB, MIB, 4],
      [GIB, MIB, 16],
    ] as const) {
      const source = memory('source', 32 * MIB);
      await source.write(0, filled(32 * MIB, 1));
      const { node: target, seen } = recording('target', 32 * MIB);
      const { job } = mirror(source, target, { bufferBytes });
      await job.becameReady;
      assert.deepEqual([seen.largest, seen.mostInFlight], [largest, most]);
      job.cancel(true);
      await job.ended;
    }
  });

  it('fails when the source has grown meanwhile', async () => {
    const source = memory('source', MIB);
    const { job } = mirror(source, memory('target', MIB));
    await job.becameReady;
    await source.driver.truncate?.(2 * MIB);
    await source.write(MIB, filled(MIB, 1));
    job.cancel();
    await job.ended;
    assert.equal(job.failure?.message, 'Source and target image have different sizes');
  });
});

describe('write-blocking', () => {
  it('does not copy by a plan from before a write, also when the chunk has been taken up again since', () => {
    const states = new ChunkStates(4 * KIB, KIB);
    states.dirty.setAll();
    const old = states.claim(0, 4);
    assert.ok(old);
    const second = { first: 1, end: 2 };
    // A write of the guest that covers a part of the chunk, while what is there before it has been looked at.
    assert.equal(states.take(second), true);
    states.end(second, true);
    const fresh = states.claim(0, 4);
    assert.deepEqual([fresh?.first, fresh?.end], [1, 2]);
    assert.equal(states.begin(old, second), false, 'the old plan is out of date');
    assert.equal(states.begin(fresh!, second), true);
    states.end(second, true);
    for (const first of [0, 2, 3]) {
      assert.equal(states.begin(old, { first, end: first + 1 }), true);
      states.end({ first, end: first + 1 }, true);
    }
    assert.deepEqual([states.dirty.count, states.claimed.count, states.busy.count], [0, 0, 0]);
  });

  it('a write has reached the target when it ends; what is dirty in part waits for the copy', async () => {
    const source = memory('source', 4 * MIB);
    await source.write(0, filled(4 * MIB, 1));
    const { node: target, filter } = gated('target', 4 * MIB);
    const { job } = mirror(source, target, { copyMode: 'write-blocking' });
    await job.becameReady;
    filter.gate.close();
    const write = source.write(1000, filled(3 * CLUSTER, 2));
    const zeros = source.writeZeroes(MIB, 5000);
    assert.equal(await isPending(write), true);
    assert.equal(await isPending(zeros), true);
    filter.gate.open();
    await Promise.all([write, zeros]);
    assert.deepEqual(await bytesOf(target), await bytesOf(source));
    assert.equal(job.progress().offset, job.progress().len, 'nothing is left to the background');
    // A discard promises nothing and is copied behind the guest's back.
    await source.discard(2 * MIB, CLUSTER);
    job.cancel();
    await job.ended;
    assert.deepEqual(await bytesOf(target), await bytesOf(source));
  });

  it('is caught up, and stays so, under a guest that never pauses', async () => {
    const length = 32 * MIB;
    const source = memory('source', length);
    await source.write(0, filled(length, 1));
    const { node: target } = recording('target', length);
    const { job } = mirror(source, target, { copyMode: 'write-blocking' });
    const state = { over: false };
    const guest = (async () => {
      const page = filled(4096, 2);
      for (let write = 0; !state.over; write++) {
        const offset = ((write * 7919) % (length / 4096)) * 4096;
        await source.write(offset, page);
        if (job.isReady) assert.equal((await bytesOf(target, offset, 1))[0], 2);
        if (write % 20 === 0) await turns(1);
      }
    })();
    await job.becameReady;
    const { offset, len } = job.progress();
    assert.ok(len - offset <= 2 * CLUSTER, `${len - offset} bytes are behind`);
    job.cancel();
    await job.ended;
    state.over = true;
    await guest;
    assert.equal(job.failure, null);
  });

  it('a target that never answers, or fails, is no failure of the guest', async () => {
    const source = memory('source', MIB);
    await source.write(0, filled(MIB, 1));
    const { node: target, filter } = gated('target', MIB);
    const { job } = mirror(source, target, { copyMode: 'write-blocking', stallMs: 20 });
    await job.becameReady;
    filter.gate.close();
    await source.write(0, filled(512, 2));
    await job.ended;
    assert.match(job.failure?.message ?? '', /no answer within 20 ms/);
    filter.gate.open();

    const box: { faults: ErrorFilter | null } = { faults: null };
    const bad = memory('bad', MIB, { wrap: (driver) => (box.faults = new ErrorFilter(driver)) });
    const second = mirror(source, bad, { copyMode: 'write-blocking', onTargetError: 'stop' });
    await second.job.becameReady;
    box.faults?.add({ op: 'write', errno: 'ENOSPC', times: 1 });
    await source.write(0, filled(512, 3));
    assert.equal(second.job.status, 'standby');
    assert.equal(second.job.info()['io-status'], 'nospace');
    await source.write(MIB - 512, filled(512, 4));
    second.job.resume();
    second.job.cancel();
    await second.job.ended;
    assert.deepEqual(await bytesOf(bad), await bytesOf(source));
  });

  it('a paused job keeps no write waiting', async () => {
    const source = memory('source', 64 * MIB);
    await source.write(0, filled(64 * MIB, 1));
    const { node: target } = recording('target', 64 * MIB);
    const { job } = mirror(source, target, { copyMode: 'write-blocking', bufferBytes: MIB });
    await turns(3);
    job.pause();
    await source.write(60 * MIB, filled(MIB, 2));
    await source.write(0, filled(32 * MIB, 3));
    assert.equal(job.status, 'paused');
    job.resume();
    await job.becameReady;
    job.cancel();
    await job.ended;
    for (const at of [0, 33 * MIB, 60 * MIB]) {
      assert.deepEqual(await bytesOf(target, at, CLUSTER), await bytesOf(source, at, CLUSTER));
    }
  });
});

describe('bad targets and slow ones', () => {
  it('an error that is ignored is tried again', async () => {
    const source = memory('source', MIB);
    await source.write(0, filled(MIB, 1));
    const target = memory('target', MIB, {
      wrap: (driver) => new ErrorFilter(driver, [{ op: 'write', times: 2 }]),
    });
    const { log, job } = mirror(source, target, { onTargetError: 'ignore' });
    await job.becameReady;
    const ignored = { device: 'job', operation: 'write', action: 'ignore' };
    assert.deepEqual(log.of('BLOCK_JOB_ERROR'), [ignored, ignored]);
    assert.deepEqual(await bytesOf(target), await bytesOf(source));
    job.cancel();
    await job.ended;
  });

  it('a backup whose target never answers ends, and the write of the guest goes on', async () => {
    const source = memory('source', MIB);
    await source.write(0, filled(MIB, 1));
    const { node: target, filter } = gated('target', MIB);
    filter.gate.close();
    const jobs = new BlockJobs(new EventLog().emit);
    const job = jobs.startBackup({ id: 'job', source, target, sync: 'none', stallMs: 20 });
    await source.write(0, filled(512, 2));
    await job.ended;
    assert.match(job.failure?.message ?? '', /no answer within 20 ms/);
    await source.write(0, filled(512, 3));
    filter.gate.open();
  });

  it('a backup that is cancelled lets the writes go that wait for a copy', async () => {
    const source = memory('source', MIB);
    await source.write(0, filled(MIB, 1));
    const { node: target, filter } = gated('target', MIB);
    filter.gate.close();
    const jobs = new BlockJobs(new EventLog().emit);
    const job = jobs.startBackup({ id: 'job', source, target, sync: 'full' });
    const write = source.write(0, filled(512, 2));
    assert.equal(await isPending(write), true);
    job.cancel();
    await write;
    await job.ended;
    filter.gate.open();
  });

  it('a commit that takes its time shows how far it is', async () => {
    const base = memory('base', 8 * MIB);
    const top = memory('top', 8 * MIB, { backing: base });
    await top.write(0, filled(8 * MIB, 1));
    const log = new EventLog();
    const jobs = new BlockJobs(log.emit);
    const job = new CommitJob({
      id: 'failover-disk',
      emit: log.emit,
      top,
      base,
      // So slow that only the first pieces pass.
      speed: 1,
      quiesce: () => Promise.resolve(),
      pivot: () => undefined,
      release: () => undefined,
    });
    jobs.add(job);
    while (job.progress().offset === 0) await turns(1);
    const [info = null] = jobs.list();
    assert.ok(info);
    assert.deepEqual([info.type, info.status, info.len], ['commit', 'running', 8 * MIB]);
    assert.ok(info.offset > 0 && info.offset < info.len, String(info.offset));
    jobs.setSpeed('failover-disk', 0);
    await job.ended;
    assert.deepEqual(await bytesOf(base), await bytesOf(top));
  });
});
