/**
 * Whole conversations about block jobs, word for word the same, with QEMU and with ours: every event in order with its
 * members, every reply and refusal. What depends on speed (busy, progress in the middle) is chosen not to.
 */
import assert from 'node:assert/strict';
import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { IoError } from '../../../src/base/errors.ts';
import type { VirtualMachine } from '../../../src/vm/machine.ts';
import { bareVm } from '../../helpers/bare-vm.ts';
import { EventLog } from '../../unit/block/jobs-helpers.ts';
import { inFolder, tool } from '../qcow2/helpers.ts';
import { missingQemu, withQemu } from './qemu-qmp.ts';

/** One side of the comparison. */
interface Speaker {
  /** Sends a command and writes its reply down. */
  readonly say: (command: string, args?: Record<string, unknown>) => Promise<void>;
  /** Waits until this state or event has been seen so many times. */
  readonly until: (word: string, times?: number) => Promise<void>;
}

type Talk = (speaker: Speaker, path: (name: string) => string) => Promise<void>;

interface Scene {
  /** Command line options; `PATH/` stands for the folder. */
  readonly options: readonly string[];
  /** Options of QEMU's that ours spells otherwise. */
  readonly ours?: readonly string[];
  /** Done to ours before the talk. */
  readonly prepare?: (vm: VirtualMachine) => void;
  readonly talk: Talk;
}

async function images(folder: string): Promise<void> {
  const path = (name: string): string => join(folder, name);
  for (const name of ['src', 'dst', 'dst2']) {
    await tool('qemu-img', 'create', '-q', '-f', 'raw', path(name), '1M');
  }
  for (const name of ['short', 'short2'])
    await tool('qemu-img', 'create', '-q', '-f', 'raw', path(name), '512k');
  await tool('qemu-io', '-f', 'raw', '-c', 'write -P 1 0 1M', path('src'));
  for (const at of FAULTS.keys()) {
    await copyFile(path('src'), path(`read${at}`));
    await copyFile(path('dst'), path(`write${at}`));
  }
  await tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', path('src'), path('mid'));
  await tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', path('mid'), path('top'));
  await tool('qemu-io', '-c', 'write -P 2 0 64k', path('mid'));
  await tool('qemu-io', '-c', 'write -P 3 128k 64k', path('top'));
}

async function compare(t: TestContext, scene: Scene): Promise<void> {
  const heard: { events: unknown[]; replies: unknown[] }[] = [];
  for (const side of ['QEMU', 'ours'] as const) {
    await inFolder(async (folder) => {
      await images(folder);
      const path = (name: string): string => join(folder, name);
      const scrub = (value: unknown): unknown =>
        JSON.parse(JSON.stringify(value ?? null).replaceAll(folder, 'PATH'));
      const options = (side === 'ours' ? (scene.ours ?? scene.options) : scene.options).map((option) =>
        option.replaceAll('PATH', folder),
      );
      const replies: unknown[] = [];
      const talk = async (log: EventLog, ask: (name: string, args: unknown) => Promise<unknown>) => {
        await scene.talk(
          {
            say: async (command, args = {}) => void replies.push([command, scrub(await ask(command, args))]),
            until: (word, times = 1) =>
              log.wait(() => log.words.filter((seen) => seen === word).length >= times),
          },
          path,
        );
        heard.push({ events: log.seen.filter(({ event }) => event.includes('JOB')), replies });
      };
      if (side === 'QEMU') {
        await withQemu(folder, options, (qemu) =>
          talk(qemu.log, async (name, args) => {
            const reply = await qemu.execute(name, args as Record<string, unknown>);
            return reply.error ? `${reply.error.class}: ${reply.error.desc}` : reply.return;
          }),
        );
        return;
      }
      const bare = await bareVm(t, options.join(' '));
      scene.prepare?.(bare.vm);
      const log = new EventLog();
      bare.vm.events.subscribe(({ event, data }) => log.emit(event, data ?? {}));
      await talk(log, async (name, args) => {
        try {
          return await bare.execute(name, args);
        } catch (error) {
          return `${(error as { qmpClass?: string }).qmpClass ?? 'bug'}: ${(error as Error).message}`;
        }
      });
      await bare.vm.close();
    });
  }
  assert.deepEqual(heard[1]?.events, heard[0]?.events);
  assert.deepEqual(heard[1]?.replies, heard[0]?.replies);
}

const DISK = ['-drive', 'if=none,id=d0,node-name=n0,driver=raw,file.driver=file,file.filename=PATH/src'];
const CHAIN = ['-drive', 'if=none,id=d0,node-name=n0,driver=qcow2,file.driver=file,file.filename=PATH/top'];
const blockdev = (options: Record<string, unknown>): string[] => ['-blockdev', JSON.stringify(options)];
const GOOD = blockdev({ driver: 'raw', 'node-name': 'good', file: { driver: 'file', filename: 'PATH/dst' } });
const READ_ONLY = blockdev({
  driver: 'raw',
  'node-name': 'ro',
  'read-only': true,
  file: { driver: 'file', filename: 'PATH/dst2' },
});
const SPARE = blockdev({
  driver: 'raw',
  'node-name': 'spare',
  file: { driver: 'file', filename: 'PATH/dst2' },
});
const SHORT = blockdev({
  driver: 'raw',
  'node-name': 'sh',
  file: { driver: 'file', filename: 'PATH/short' },
});

/** A request that fails, and what the job is told to do about it. */
interface Fault {
  readonly policy: Record<string, unknown>;
  readonly op: 'read' | 'write';
  readonly errno: 'EIO' | 'ENOSPC';
  readonly then: 'fails' | 'stops' | 'goes on';
}

const FAULTS: readonly Fault[] = [
  { policy: {}, op: 'write', errno: 'ENOSPC', then: 'fails' },
  { policy: { 'on-target-error': 'enospc' }, op: 'write', errno: 'ENOSPC', then: 'stops' },
  { policy: { 'on-target-error': 'stop' }, op: 'write', errno: 'EIO', then: 'stops' },
  { policy: { 'on-target-error': 'enospc' }, op: 'write', errno: 'EIO', then: 'fails' },
  { policy: { 'on-source-error': 'ignore' }, op: 'read', errno: 'EIO', then: 'goes on' },
  { policy: { 'on-source-error': 'auto' }, op: 'read', errno: 'ENOSPC', then: 'stops' },
];

/** Two disks for each fault; in QEMU blkdebug makes the first request of the kind fail. */
function faultyDisks(forQemu: boolean): string[] {
  return FAULTS.flatMap(({ op, errno }, at) =>
    (['read', 'write'] as const).flatMap((side) => {
      const image = { driver: 'file', filename: `PATH/${side}${at}` };
      const inject = { event: 'none', iotype: op, errno: errno === 'EIO' ? 5 : 28, once: true };
      const file = forQemu && side === op ? { driver: 'blkdebug', 'inject-error': [inject], image } : image;
      return blockdev({ driver: 'raw', 'node-name': `${side}${at}`, file });
    }),
  );
}

/** The same here: the first request of the kind fails. */
function breakDisks(vm: VirtualMachine): void {
  for (const [at, { op, errno }] of FAULTS.entries()) {
    const driver = vm.graph.require(`${op}${at}`).driver;
    const real = driver[op].bind(driver);
    Object.assign(driver, {
      [op]: () => {
        Object.assign(driver, { [op]: real });
        return Promise.reject(new IoError(errno, 'injected'));
      },
    });
  }
}

describe('block jobs, as QEMU tells them', { skip: missingQemu }, () => {
  const mirror = { device: 'd0', 'job-id': 'j', target: 'good', sync: 'full' };

  it('mirror: ready, completed', (t) =>
    compare(t, {
      options: [...DISK, ...GOOD],
      talk: async ({ say, until }) => {
        await say('blockdev-mirror', mirror);
        await until('BLOCK_JOB_READY');
        await say('query-block-jobs');
        await say('blockdev-mirror', { ...mirror, 'job-id': 'k' });
        await say('job-finalize', { id: 'j' });
        await say('block-job-dismiss', { id: 'j' });
        await say('block-job-complete', { device: 'j' });
        await until('null');
        await say('query-jobs');
      },
    }));

  it('mirror: made by itself, cancelled when ready, by force, and before', (t) =>
    compare(t, {
      options: DISK,
      talk: async ({ say, until }, path) => {
        const drive = { device: 'd0', target: path('new'), sync: 'full' };
        await say('drive-mirror', drive);
        await until('BLOCK_JOB_READY');
        await say('block-job-cancel', { device: 'd0' });
        await until('null');
        await say('drive-mirror', { ...drive, sync: 'top' });
        await until('BLOCK_JOB_READY', 2);
        await say('block-job-cancel', { device: 'd0', force: true });
        await until('null', 2);
        await say('drive-mirror', { ...drive, mode: 'existing', format: 'raw' });
        await until('BLOCK_JOB_READY', 3);
        await say('job-cancel', { id: 'd0' });
        await until('null', 3);
        await say('job-cancel', { id: 'd0' });
        await say('block-job-finalize', { id: 'd0' });
      },
    }));

  it('mirror: pending until finalized, concluded until dismissed', (t) =>
    compare(t, {
      options: [...DISK, ...GOOD],
      talk: async ({ say, until }) => {
        await say('blockdev-mirror', { ...mirror, 'auto-finalize': false, 'auto-dismiss': false });
        await until('BLOCK_JOB_READY');
        await say('job-complete', { id: 'j' });
        await until('BLOCK_JOB_PENDING');
        await say('query-block-jobs');
        await say('query-jobs');
        for (const verb of ['complete', 'pause', 'dismiss']) await say(`job-${verb}`, { id: 'j' });
        await say('block-job-set-speed', { device: 'j', speed: 5 });
        await say('job-finalize', { id: 'j' });
        await say('query-block-jobs');
        await say('block-job-cancel', { device: 'j' });
        await say('job-dismiss', { id: 'j' });
        await say('query-jobs');
        await say('blockdev-mirror', { ...mirror, device: 'n0', target: 'good', sync: 'none' });
      },
    }));

  it('mirror: cancelled while pending; failed and not dismissed', (t) =>
    compare(t, {
      options: [...DISK, ...GOOD, ...SHORT],
      talk: async ({ say, until }) => {
        const manual = { ...mirror, 'auto-finalize': false, 'auto-dismiss': false };
        await say('blockdev-mirror', manual);
        await until('BLOCK_JOB_READY');
        await say('block-job-cancel', { device: 'j' });
        await until('BLOCK_JOB_PENDING');
        await say('block-job-cancel', { device: 'j' });
        await until('concluded');
        await say('query-block-jobs');
        await say('block-job-dismiss', { id: 'j' });
        await say('blockdev-mirror', { ...manual, target: 'sh' });
        await until('concluded', 2);
        await say('query-block-jobs');
        await say('query-jobs');
      },
    }));

  it('mirror: paused, resumed, completed while paused, cancelled while paused', (t) =>
    compare(t, {
      options: [...DISK, ...GOOD, ...SPARE],
      talk: async ({ say, until }) => {
        await say('blockdev-mirror', mirror);
        await until('BLOCK_JOB_READY');
        await say('block-job-pause', { device: 'j' });
        await until('standby');
        await say('job-pause', { id: 'j' });
        await say('query-block-jobs');
        await say('block-job-cancel', { device: 'j' });
        await say('job-complete', { id: 'j' });
        await say('job-resume', { id: 'j' });
        await until('null');
        await say('blockdev-mirror', { ...mirror, target: 'spare', sync: 'none' });
        await until('BLOCK_JOB_READY', 2);
        await say('job-pause', { id: 'j' });
        await until('standby', 2);
        await say('block-job-cancel', { device: 'j', force: true });
        await until('null', 2);
      },
    }));

  for (const kind of ['mirror', 'backup'] as const) {
    it(`${kind}: errors of either side, and what the policies make of them`, (t) =>
      compare(t, {
        options: faultyDisks(true),
        ours: faultyDisks(false),
        prepare: breakDisks,
        talk: async ({ say, until }) => {
          let stops = 0;
          for (const [at, { policy, then }] of FAULTS.entries()) {
            const nodes = { device: `read${at}`, target: `write${at}` };
            await say(`blockdev-${kind}`, { ...nodes, 'job-id': 'j', sync: 'full', ...policy });
            if (then === 'stops') {
              stops++;
              await until('paused', kind === 'backup' ? stops + at + 1 : stops);
              await say('query-block-jobs');
              await say('block-job-resume', { device: 'j' });
            }
            if (kind === 'mirror' && then !== 'fails') {
              await until('ready', FAULTS.slice(0, at + 1).filter((fault) => fault.then !== 'fails').length);
              await say('query-block-jobs');
              await say('block-job-cancel', { device: 'j' });
            }
            await until('null', at + 1);
          }
        },
      }));
  }

  it('mirror: refusals', (t) =>
    compare(t, {
      options: [...DISK, ...GOOD, ...READ_ONLY],
      talk: async ({ say }, path) => {
        for (const change of [
          { target: 'nix' },
          { device: 'nix' },
          { target: 'd0' },
          { target: 'n0' },
          { target: 'ro' },
          { granularity: 3 },
          { granularity: 768 },
          { granularity: 2 ** 27 },
          { granularity: -1 },
          { 'buf-size': -1 },
          { 'job-id': '' },
          { speed: -1 },
          { sync: 'incremental' },
          { sync: 'x' },
          { 'copy-mode': 'x' },
          { 'on-source-error': 'x' },
          { unmap: true },
        ]) {
          await say('blockdev-mirror', { ...mirror, ...change });
        }
        await say('blockdev-mirror', { device: 'good', target: 'd0', sync: 'full' });
        const drive = { device: 'd0', target: path('new'), sync: 'full' };
        for (const change of [
          { device: 'nix' },
          { format: 'nix' },
          { format: 'quorum' },
          { target: '/nix/nix' },
          { target: path('nix'), mode: 'existing' },
          { replaces: 'n0' },
          { 'node-name': 'good' },
          { 'node-name': 'd0' },
          { granularity: 100 },
          { speed: -1 },
          { 'job-id': '1x' },
          { mode: 'x' },
          { sync: 'none' },
        ]) {
          await say('drive-mirror', { ...drive, ...change });
        }
      },
    }));

  it('backup: full, top, none, pending', (t) =>
    compare(t, {
      options: [...CHAIN, ...GOOD],
      talk: async ({ say, until }, path) => {
        const drive = { device: 'd0', 'job-id': 'j', target: path('new'), sync: 'full' };
        await say('drive-backup', { ...drive, format: 'raw' });
        await until('null');
        await say('drive-backup', { ...drive, sync: 'top' });
        await until('null', 2);
        await say('drive-backup', { ...drive, sync: 'none' });
        await say('query-block-jobs');
        await say('block-job-complete', { device: 'j' });
        await say('job-pause', { id: 'j' });
        await until('paused', 4);
        await say('job-resume', { id: 'j' });
        await until('running', 7);
        await say('block-job-cancel', { device: 'j' });
        await until('null', 3);
        const manual = { 'auto-finalize': false, 'auto-dismiss': false };
        await say('blockdev-backup', { ...drive, target: 'good', ...manual });
        await until('BLOCK_JOB_PENDING');
        await say('query-block-jobs');
        await say('job-finalize', { id: 'j' });
        await say('query-block-jobs');
        await say('job-dismiss', { id: 'j' });
        await say('blockdev-backup', { ...drive, target: 'good', ...manual });
        await until('BLOCK_JOB_PENDING', 2);
        await say('block-job-cancel', { device: 'j' });
        await until('concluded', 5);
        await say('query-jobs');
      },
    }));

  it('backup: refusals', (t) =>
    compare(t, {
      options: [...DISK, ...GOOD, ...READ_ONLY, ...SHORT],
      talk: async ({ say }, path) => {
        const backup = { device: 'd0', 'job-id': 'j', target: 'good', sync: 'full' };
        for (const change of [
          { device: 'nix' },
          { target: 'nix' },
          { target: 'sh' },
          { target: 'n0' },
          { target: 'ro' },
          { sync: 'bitmap' },
          { sync: 'x' },
          { bitmap: 'x' },
          { 'bitmap-mode': 'never' },
          { compress: true },
          { speed: -1 },
        ]) {
          await say('blockdev-backup', { ...backup, ...change });
        }
        const drive = { device: 'd0', target: path('new'), sync: 'full' };
        for (const change of [
          { device: 'nix' },
          { format: 'nix' },
          { format: 'quorum' },
          { target: '/nix/nix' },
          { target: path('nix'), mode: 'existing' },
          { target: path('short2'), mode: 'existing', format: 'raw' },
          { 'job-id': '-' },
        ]) {
          await say('drive-backup', { ...drive, ...change });
        }
      },
    }));

  it('commit of the active layer: into the bottom, completed; into the middle, cancelled; refusals', (t) =>
    compare(t, {
      options: CHAIN,
      talk: async ({ say, until }, path) => {
        for (const names of [
          { device: 'nix' },
          { top: 'x' },
          { base: 'x' },
          { base: path('top') },
          { top: path('mid'), base: path('mid') },
          { 'top-node': 'nix' },
          { 'base-node': 'n0' },
          { 'base-node': 'n0', base: 'x' },
          { 'top-node': 'n0', top: 'x' },
          { 'backing-file': 'x' },
          { speed: -1 },
        ]) {
          await say('block-commit', { device: 'd0', ...names });
        }
        await say('block-commit', { device: 'd0', 'job-id': 'j', base: path('mid') });
        await until('BLOCK_JOB_READY');
        await say('query-block-jobs');
        await say('block-job-cancel', { device: 'j' });
        await until('null', 2);
        await say('block-commit', { device: 'd0', 'job-id': 'j' });
        await until('BLOCK_JOB_READY', 2);
        await say('query-block-jobs');
        await say('block-job-complete', { device: 'j' });
        await until('null', 3);
        await say('block-commit', { device: 'd0' });
      },
    }));
});
