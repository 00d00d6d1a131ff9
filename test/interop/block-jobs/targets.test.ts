/**
 * Jobs of a whole VM (`-machine none`) on real images while a guest's disk is in use: the device moves to the target and
 * loses nothing, targets that we make are what qemu-img expects, and a VM can be closed at any time.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { copyFile, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import type { GuestDisk } from '../../../src/vm/disks.ts';
import { bareVm } from '../../helpers/bare-vm.ts';
import type { BareVm } from '../../helpers/bare-vm.ts';
import { EventLog, filled, turns } from '../../unit/block/jobs-helpers.ts';
import { inFolder, missingTools, tool } from '../qcow2/helpers.ts';

const MIB = 1024 * 1024;
const LENGTH = 8 * MIB;

interface Machine extends BareVm {
  readonly disk: GuestDisk;
  readonly log: EventLog;
  /** The next time that this state or event comes. */
  until(word: string): Promise<void>;
}

/** A chain top → mid → bottom of 8 MiB behind a guest's disk `d0`. */
async function machine(t: TestContext, folder: string): Promise<Machine> {
  const path = (name: string): string => join(folder, name);
  await tool('qemu-img', 'create', '-q', '-f', 'raw', path('bottom'), String(LENGTH));
  await tool('qemu-io', '-f', 'raw', '-c', 'write -P 1 1M 3M', path('bottom'));
  await tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', path('bottom'), path('mid'));
  await tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', path('mid'), path('top'));
  await tool('qemu-io', '-c', 'write -P 2 2M 200k', path('mid'));
  await tool('qemu-io', '-c', 'write -P 3 2100k 64k', '-c', 'write -z 3M 128k', path('top'));
  const drive = `-drive if=none,id=d0,node-name=n0,driver=qcow2,file.driver=file,file.filename=${path('top')}`;
  const bare = await bareVm(t, drive);
  const log = new EventLog();
  bare.vm.events.subscribe(({ event, data }) => log.emit(event, data ?? {}));
  const seen = new Map<string, number>();
  return {
    ...bare,
    log,
    disk: bare.vm.disks.plug('d0'),
    until: async (word) => {
      const wanted = (seen.get(word) ?? 0) + 1;
      seen.set(word, wanted);
      await log.wait(() => log.words.filter((one) => one === word).length >= wanted);
    },
  };
}

async function contentOf(disk: GuestDisk): Promise<Buffer> {
  const content = Buffer.alloc(LENGTH);
  await disk.read(0, content);
  return content;
}

/** A guest that writes until it is told to stop; what it has written is put into `expected`. */
function guest(disk: GuestDisk, expected: Buffer): { stop: () => Promise<void> } {
  let running = true;
  const work = async (at: number): Promise<void> => {
    for (let turn = 0; running; turn++) {
      const offset = at + ((turn * 70_001) % (MIB - 5000));
      const bytes = filled(5000, (turn % 250) + 1);
      await disk.write(offset, bytes);
      expected.set(bytes, offset);
      await turns(1);
    }
  };
  const all = Promise.all([work(0), work(2 * MIB), work(5 * MIB)]);
  return {
    stop: async () => {
      running = false;
      await all;
    },
  };
}

describe('jobs of a VM', { skip: missingTools }, () => {
  for (const [sync, copyMode] of [
    ['full', 'background'],
    ['full', 'write-blocking'],
    ['top', 'background'],
  ] as const) {
    it(`the device moves to its mirror (${sync}, ${copyMode}) and no write is lost`, (t) =>
      inFolder(async (folder) => {
        const vm = await machine(t, folder);
        const expected = await contentOf(vm.disk);
        const target = join(folder, 'target');
        const writer = guest(vm.disk, expected);
        await vm.execute('drive-mirror', { device: 'd0', target, sync, 'copy-mode': copyMode });
        await vm.until('BLOCK_JOB_READY');
        await vm.execute('nbd-server-start', { addr: { type: 'unix', data: { path: join(folder, 'nbd') } } });
        await vm.execute('nbd-server-add', { device: 'd0', name: 'e' });
        assert.match(await vm.failure('job-complete', { id: 'd0' }), /is used by 'export:e' too/);
        await vm.execute('nbd-server-stop');
        await vm.execute('job-complete', { id: 'd0' });
        await vm.until('null');
        await turns(20);
        await writer.stop();
        assert.notEqual(vm.disk.backend.root.nodeName, 'n0');
        assert.equal(vm.vm.graph.findNode('n0'), null, 'the old disk is closed');
        assert.ok((await contentOf(vm.disk)).equals(expected));
        await vm.vm.close();
        await tool('qemu-img', 'check', '-q', '-f', 'qcow2', target);
        await tool('qemu-img', 'convert', '-O', 'raw', target, join(folder, 'flat'));
        assert.ok((await readFile(join(folder, 'flat'))).equals(expected), 'and qemu-img reads the same');
        const stdout = await tool('qemu-img', 'info', '--output=json', target);
        const info = JSON.parse(stdout) as { 'backing-filename'?: string };
        assert.equal(info['backing-filename'], sync === 'top' ? join(folder, 'mid') : undefined);
      }));
  }

  it('a commit brings the top into the bottom, which the device shows then', (t) =>
    inFolder(async (folder) => {
      const vm = await machine(t, folder);
      const expected = await contentOf(vm.disk);
      const writer = guest(vm.disk, expected);
      await vm.execute('block-commit', { device: 'd0', 'job-id': 'c', base: join(folder, 'mid') });
      await vm.until('BLOCK_JOB_READY');
      await vm.execute('block-job-complete', { device: 'c' });
      await vm.until('null');
      assert.ok((await contentOf(vm.disk)).length > 0);
      assert.match(
        await vm.failure('block-commit', { device: 'd0', top: join(folder, 'bottom') }),
        /cannot commit an image into itself/,
      );
      await vm.execute('block-commit', { device: 'd0', 'job-id': 'c' });
      await vm.until('BLOCK_JOB_READY');
      await vm.execute('block-job-complete', { device: 'c' });
      await vm.until('null');
      await turns(20);
      await writer.stop();
      assert.ok((await contentOf(vm.disk)).equals(expected));
      assert.equal(vm.disk.backend.root.driver.driverName, 'raw');
      assert.match(
        await vm.failure('drive-mirror', { device: 'd0', target: join(folder, 'bottom'), sync: 'full' }),
        /lock/,
      );
      await vm.vm.close();
      assert.ok((await readFile(join(folder, 'bottom'))).equals(expected));
      await tool('qemu-img', 'check', '-q', join(folder, 'mid'));
    }));

  it('a layer in the middle is not committed', (t) =>
    inFolder(async (folder) => {
      const vm = await machine(t, folder);
      const mid = { device: 'd0', 'job-id': 'c', top: join(folder, 'mid') };
      assert.match(await vm.failure('block-commit', mid), /is not the active layer of 'd0'/);
    }));

  it('a backup shows the disk of its start, whatever the guest writes', (t) =>
    inFolder(async (folder) => {
      const vm = await machine(t, folder);
      const expected = await contentOf(vm.disk);
      const before = Buffer.from(expected);
      for (const [sync, format] of [
        ['full', 'raw'],
        ['full', 'qcow2'],
        ['top', 'qcow2'],
      ] as const) {
        const target = join(folder, `${sync}-${format}`);
        before.set(expected);
        await vm.execute('drive-backup', { device: 'd0', target, sync, format, speed: 64 * MIB });
        const writer = guest(vm.disk, expected);
        await vm.until('null');
        await writer.stop();
        // qemu-img has no part in our locks: it reads after the fact.
        await tool('qemu-img', 'convert', '-U', '-f', format, '-O', 'raw', target, join(folder, 'flat'));
        assert.ok((await readFile(join(folder, 'flat'))).equals(before), `${sync} ${format}`);
      }
      assert.ok((await contentOf(vm.disk)).equals(expected));
    }));

  it('a disk on a qemu-nbd becomes a copy; when the server freezes the job ends and the guest goes on', (t) =>
    inFolder(async (folder) => {
      const vm = await machine(t, folder);
      const path = (name: string): string => join(folder, name);
      await tool('qemu-img', 'create', '-q', '-f', 'raw', path('far'), String(LENGTH));
      const args = ['-f', 'raw', '-t', '-k', path('nbd'), '--pid-file', path('pid'), path('far')];
      const server = spawn('qemu-nbd', args, { stdio: 'ignore' });
      const exited = once(server, 'exit');
      try {
        // The pid file comes when the server listens.
        while (!existsSync(path('pid'))) await turns(10);
        const nbd = { driver: 'nbd', path: path('nbd'), 'request-timeout': 300 };
        const mirror = {
          device: 'd0',
          target: `json:${JSON.stringify(nbd)}`,
          sync: 'full',
          mode: 'existing',
        };
        const expected = await contentOf(vm.disk);
        const writer = guest(vm.disk, expected);
        await vm.execute('drive-mirror', mirror);
        await vm.until('BLOCK_JOB_READY');
        await vm.execute('block-job-cancel', { device: 'd0' });
        // The copy is of this moment; a guest that is quiet makes it known.
        await writer.stop();
        await vm.until('null');
        await vm.execute('drive-mirror', mirror);
        await vm.until('BLOCK_JOB_READY');
        await vm.execute('block-job-cancel', { device: 'd0' });
        await vm.until('null');
        assert.ok((await readFile(path('far'))).equals(expected));

        await vm.execute('drive-mirror', { ...mirror, 'copy-mode': 'write-blocking' });
        await vm.until('BLOCK_JOB_READY');
        server.kill('SIGSTOP');
        await vm.disk.write(0, filled(5000, 77));
        await vm.until('BLOCK_JOB_ERROR');
        await vm.until('null');
        const [end] = vm.log.of('BLOCK_JOB_COMPLETED').slice(-1);
        assert.equal(typeof end?.['error'], 'string');
        await vm.disk.write(0, filled(5000, 78));
      } finally {
        server.kill('SIGKILL');
        await exited;
      }
    }));

  it('a VM is closed with jobs in every state', (t) =>
    inFolder(async (folder) => {
      const vm = await machine(t, folder);
      const nodes = ['a', 'b', 'c', 'd', 'e', 'f'];
      for (const name of nodes) {
        await copyFile(join(folder, 'bottom'), join(folder, name));
        const file = { driver: 'file', filename: join(folder, name) };
        await vm.execute('blockdev-add', { driver: 'raw', 'node-name': name, file });
      }
      const job = { sync: 'full', 'job-id': 'ab', device: 'a', target: 'b' };
      await vm.execute('blockdev-mirror', { ...job, speed: 1 });
      await vm.execute('job-pause', { id: 'ab' });
      await vm.execute('blockdev-mirror', { ...job, 'job-id': 'cd', device: 'c', target: 'd' });
      await vm.until('BLOCK_JOB_READY');
      await vm.execute('blockdev-backup', {
        ...job,
        'job-id': 'ef',
        device: 'e',
        target: 'f',
        'auto-finalize': false,
      });
      await vm.until('BLOCK_JOB_PENDING');
      await vm.execute('drive-backup', {
        device: 'd0',
        target: join(folder, 'x'),
        sync: 'none',
        'auto-dismiss': false,
      });
      assert.match(await vm.failure('blockdev-del', { 'node-name': 'b' }), /in use/);
      await vm.vm.close();
      assert.deepEqual(vm.log.words.filter((word) => word === 'BLOCK_JOB_CANCELLED').length, 4);
      assert.deepEqual(vm.vm.graph.list().nodes, []);
    }));
});
