/**
 * Guests that write, zero and discard at random while a job of any kind and mode runs, is paused, fails and goes on: at
 * the end the target is what it has to be. Time is fast-check's scheduler: every request of every disk ends in a random
 * order. Each guest has a part of the disk of its own, so that what the disk must hold is known exactly.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Gate } from '../../../src/base/async.ts';
import type { BlockDriver } from '../../../src/block/driver.ts';
import { DelayFilter } from '../../../src/block/filters/delay.ts';
import { ErrorFilter } from '../../../src/block/filters/error.ts';
import { CommitJob } from '../../../src/block/jobs/commit.ts';
import type { Job } from '../../../src/block/jobs/job.ts';
import { BlockJobs } from '../../../src/block/jobs/manager.ts';
import type { Pivot } from '../../../src/block/jobs/mirror.ts';
import type { BlockNode } from '../../../src/block/node.ts';
import { CLUSTER, EventLog, bytesOf, filled, memory, turns } from './jobs-helpers.ts';

const LENGTH = 8 * CLUSTER + 1536;
const GUESTS = 3;
/** Off any border, so that guests share chunks and clusters. */
const PART = Math.floor(LENGTH / GUESTS);

const operation = fc.record({
  guest: fc.nat(GUESTS - 1),
  kind: fc.constantFrom('write', 'write', 'zero', 'discard'),
  at: fc.nat(PART - 1),
  length: fc.integer({ min: 1, max: 2 * CLUSTER }),
  value: fc.integer({ min: 1, max: 255 }),
  /** Turns of the event loop before it: a job begins, and looks for the end, only when the loop turns. */
  turns: fc.nat(4),
});
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never;

const scene = fc.record({
  granularityBytes: fc.constantFrom(CLUSTER / 4, CLUSTER, 4 * CLUSTER),
  bufferBytes: fc.constantFrom(1, CLUSTER, 1024 * 1024),
  pauses: fc.nat(2),
  /** Turns of the event loop until a ready job is ended. */
  patience: fc.nat(12),
  /** So many requests of the target fail, after so many that do not. */
  faults: fc.record({ skip: fc.nat(6), times: fc.nat(2) }),
  operations: fc.array(operation, { minLength: 1, maxLength: 14 }),
});
type Scene = typeof scene extends fc.Arbitrary<infer T> ? T : never;

/** What a guest's disk hangs on. */
class Device {
  root: BlockNode;
  readonly gate = new Gate();
  readonly expected: Buffer;

  constructor(root: BlockNode, content: Buffer) {
    this.root = root;
    this.expected = Buffer.from(content);
  }

  async apply({ guest, kind, at, length, value }: Operation): Promise<void> {
    const offset = guest * PART + at;
    const end = Math.min(offset + length, (guest + 1) * PART);
    while (!this.gate.isOpen) await this.gate.pass();
    // Where a disk has nothing of its own, a discard leaves what is below: then there is nothing to know.
    if (kind === 'discard' && this.root.backing !== null) return;
    if (kind === 'discard') {
      await this.root.discard(offset, end - offset);
      // The disk in memory discards whole clusters.
      const from = Math.ceil(offset / CLUSTER) * CLUSTER;
      const to = Math.floor(end / CLUSTER) * CLUSTER;
      if (from < to) this.expected.fill(0, from, to);
      return;
    }
    if (kind === 'zero') await this.root.writeZeroes(offset, end - offset);
    else await this.root.write(offset, filled(end - offset, value));
    this.expected.fill(kind === 'zero' ? 0 : value, offset, end);
  }

  pivot(target: BlockNode, stage: Stage): Pivot {
    return {
      check: () => undefined,
      hold: () => this.gate.close(),
      swap: () => {
        stage.heal();
        this.root = target;
      },
      release: () => this.gate.open(),
    };
  }
}

class Stage {
  readonly scheduler: fc.Scheduler;
  readonly scene: Scene;
  readonly log = new EventLog();
  readonly jobs = new BlockJobs(this.log.emit);
  /** The disks without their delays. */
  readonly raw = new Map<string, BlockDriver>();
  #playing = false;
  #requests = 0;
  #faults: ErrorFilter | null = null;

  constructor(scheduler: fc.Scheduler, of: Scene) {
    this.scheduler = scheduler;
    this.scene = of;
  }

  disk(name: string, options: { backing?: BlockNode; faulty?: boolean } = {}): BlockNode {
    const { faults } = this.scene;
    return memory(name, LENGTH, {
      ...(options.backing ? { backing: options.backing } : {}),
      wrap: (driver) => {
        this.raw.set(name, driver);
        const delayed = new DelayFilter(driver, async () => {
          if (!this.#playing) return;
          await this.scheduler.schedule(Promise.resolve(), name);
          // Or a copy would be over before the loop turns and a guest can come in between.
          if (++this.#requests % 3 === 0) await turns(1);
        });
        if (!options.faulty || faults.times === 0) return delayed;
        return (this.#faults = new ErrorFilter(delayed, [{ op: 'write', ...faults }]));
      },
    });
  }

  /** A guest that has moved to the target is not what is tried here. */
  heal(): void {
    this.#faults?.clear();
  }

  async content(name: string): Promise<Buffer> {
    const out = Buffer.alloc(LENGTH);
    await this.raw.get(name)?.read(0, out);
    return out;
  }

  async fill(name: string, from: number, length: number, value: number): Promise<void> {
    await this.raw.get(name)?.write(from, filled(length, value));
  }

  /** The guests at work, each one request at a time, and a manager who pauses, resumes and goes on after errors. */
  async play(device: Device, job: Job, ending: () => Promise<void>): Promise<void> {
    const { scheduler } = this;
    const tick = (what: string): Promise<void> => scheduler.schedule(Promise.resolve(), what);
    const guests = Array.from({ length: GUESTS }, async (_, guest) => {
      for (const one of this.scene.operations.filter((other) => other.guest === guest)) {
        await tick('guest');
        await turns(one.turns);
        await device.apply(one);
      }
    });
    const attempt = (act: () => void): void => {
      try {
        act();
      } catch {
        // Not in this state: somebody was faster.
      }
    };
    const manager = async (): Promise<void> => {
      for (let pause = 0; pause < this.scene.pauses; pause++) {
        await turns(1);
        await tick('pause');
        attempt(() => job.pause());
        await tick('resume');
        attempt(() => job.resume());
      }
      while (job.status !== 'null') {
        await turns(1);
        attempt(() => job.resume());
      }
    };
    const managing = manager();
    const whole = Promise.all([...guests, managing, ending()]);
    this.#playing = true;
    await scheduler.waitFor(whole);
    this.#playing = false;
  }
}

const runs = { numRuns: 20, includeErrorInReport: true };

describe('whatever the guests do', () => {
  for (const copyMode of ['background', 'write-blocking'] as const) {
    for (const end of ['cancel', 'complete', 'finalize'] as const) {
      it(`a mirror (${copyMode}) ends with ${end} and equal disks`, () =>
        fc.assert(
          fc.asyncProperty(fc.scheduler(), scene, async (scheduler, of) => {
            const stage = new Stage(scheduler, of);
            const source = stage.disk('source');
            const target = stage.disk('target', { faulty: true });
            await stage.fill('source', 1000, 3 * CLUSTER, 7);
            await stage.fill('target', 0, 2 * CLUSTER, 9);
            const device = new Device(source, await stage.content('source'));
            const quiet: Buffer[] = [];
            const { granularityBytes, bufferBytes } = of;
            const job = stage.jobs.startMirror({
              id: 'job',
              source,
              target,
              sync: 'full',
              copyMode,
              granularityBytes,
              bufferBytes,
              onTargetError: 'stop',
              autoFinalize: end !== 'finalize',
              whenQuiet: async () =>
                void quiet.push(await stage.content('source'), await stage.content('target')),
              pivot: device.pivot(target, stage),
            });
            await stage.play(device, job, async () => {
              await job.becameReady;
              await turns(of.patience);
              await scheduler.schedule(Promise.resolve(), 'end');
              if (end !== 'cancel') job.complete();
              // A paused job is not cancelled without force.
              for (let asked = false; end === 'cancel' && !asked;) {
                asked = job.status === 'ready';
                if (asked) job.cancel();
                else await turns(1);
              }
              if (end === 'finalize') {
                await stage.log.wait(() => job.status === 'pending');
                await scheduler.schedule(Promise.resolve(), 'finalize');
                await job.finalize();
              }
              await job.ended;
            });
            if (job.failure !== null) {
              // In its last part a job cannot stop for an error: it fails, and the device stays where it was.
              assert.equal(of.faults.times > 0, true, String(job.failure));
              assert.equal(device.root, source);
            } else assert.ok(quiet[0]?.equals(quiet[1] ?? Buffer.alloc(0)), 'equal while quiet');
            assert.equal(device.gate.isOpen, true);
            const shown = await stage.content(device.root === target ? 'target' : 'source');
            assert.ok(shown.equals(device.expected), 'no write was lost');
            assert.equal(device.root === target, end !== 'cancel' && job.failure === null);
            assert.equal(stage.log.words.filter((word) => word === 'null').length, 1);
          }),
          runs,
        ));
    }
  }

  for (const sync of ['full', 'top', 'none'] as const) {
    it(`a backup (${sync}) shows the moment of its start`, () =>
      fc.assert(
        fc.asyncProperty(fc.scheduler(), scene, async (scheduler, of) => {
          const faultless = { ...of, faults: { skip: 0, times: 0 } };
          const stage = new Stage(scheduler, sync === 'full' ? of : faultless);
          const base = stage.disk('base');
          await stage.fill('base', 0, LENGTH, 3);
          const source = stage.disk('source', { backing: base });
          await stage.fill('source', 1000, 3 * CLUSTER, 7);
          const before = Buffer.alloc(LENGTH);
          await source.read(0, before);
          const below = { full: {}, top: { backing: base }, none: { backing: source } }[sync];
          const target = stage.disk('target', { faulty: true, ...below });
          const device = new Device(source, before);
          const job = stage.jobs.startBackup({ id: 'job', source, target, sync, onTargetError: 'stop' });
          let late: Buffer | null = null;
          const failed: Operation[] = [];
          const apply = device.apply.bind(device);
          // A copy before a write that fails, fails the write and leaves the disk as it was.
          device.apply = (one) => apply(one).catch(() => void failed.push(one));
          await stage.play(device, job, async () => {
            if (sync === 'none') {
              await turns(of.patience);
              await scheduler.schedule(Promise.resolve(), 'cancel');
              // Through the target one sees the moment of the start, as long as the job lasts.
              late = await bytesOf(target);
              job.cancel(true);
            }
            await job.ended;
          });
          if (sync !== 'none') {
            assert.equal(job.failure, null);
            late = Buffer.alloc(LENGTH);
            await target.read(0, late);
          }
          if (sync !== 'none' || of.operations.length === 0)
            assert.ok(late?.equals(before), 'the moment of its start');
          assert.ok(failed.length === 0 || of.faults.times > 0);
          const now = Buffer.alloc(LENGTH);
          await source.read(0, now);
          assert.ok(now.equals(device.expected), 'the guests lost nothing');
        }),
        runs,
      ));
  }

  it('a commit leaves the base as the guests saw their disk', () =>
    fc.assert(
      fc.asyncProperty(fc.scheduler(), scene, async (scheduler, of) => {
        const stage = new Stage(scheduler, of);
        const base = stage.disk('base', { faulty: true });
        await stage.fill('base', 0, LENGTH, 3);
        const middle = stage.disk('middle', { backing: base });
        await stage.fill('middle', CLUSTER - 100, 2 * CLUSTER, 5);
        const top = stage.disk('top', { backing: middle });
        const before = Buffer.alloc(LENGTH);
        await top.read(0, before);
        const device = new Device(top, before);
        const job = new CommitJob({
          id: 'job',
          emit: stage.log.emit,
          top,
          base,
          onTargetError: 'stop',
          quiesce: async () => {
            device.gate.close();
            await top.drain();
          },
          pivot: () => {
            stage.heal();
            device.root = base;
          },
          release: () => device.gate.open(),
        });
        stage.jobs.add(job);
        await stage.play(device, job, () => job.ended);
        if (job.failure !== null) assert.equal(of.faults.times > 0, true, String(job.failure));
        const now = Buffer.alloc(LENGTH);
        await device.root.read(0, now);
        assert.ok(now.equals(device.expected), 'no write was lost');
      }),
      runs,
    ));
});
