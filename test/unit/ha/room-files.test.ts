/** What the machine room reads and writes: records of processes, names of sockets, logs. */
import assert from 'node:assert/strict';
import { appendFile, mkdtemp, readFile, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { closeSync, writeSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { identityOf, isRunning, killProcess, processesWith } from '../../../src/ha/room/process-identity.ts';
import { readRecord, writeRecord } from '../../../src/ha/room/process-record.ts';
import { MAX_LOG_BYTES, lastWords, openLog, trimLog } from '../../../src/ha/room/vm-log.ts';
import { vmPaths } from '../../../src/ha/room/vm-paths.ts';

async function folderOf(t: TestContext): Promise<string> {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-room-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

const RECORD = {
  version: 1,
  name: 'web',
  startedAs: 'primary',
  specHash: 'ab',
  pid: 4711,
  startTime: '123',
  bootId: 'x',
  qmp: '/q',
  logOffset: 7,
} as const;

test('a record comes back as it was written, and nothing else is left', async (t) => {
  const folder = await folderOf(t);
  const file = path.join(folder, 'process.json');
  assert.equal(readRecord(file), null);
  writeRecord(file, RECORD);
  assert.deepEqual(readRecord(file), RECORD);
  assert.deepEqual(await readdir(folder), ['process.json']);
  await writeFile(file, JSON.stringify({ ...RECORD, version: 2, later: true }));
  assert.equal(readRecord(file)?.pid, 4711, 'a later version adds members');
});

test('a record that makes no sense is none', async (t) => {
  const file = path.join(await folderOf(t), 'process.json');
  const broken: unknown[] = ['', '{', 'null', '[]', { ...RECORD, pid: 1 }, { ...RECORD, pid: -4711 }];
  broken.push({ ...RECORD, startTime: 'now' }, { ...RECORD, version: undefined });
  for (const content of broken) {
    await writeFile(file, typeof content === 'string' ? content : JSON.stringify(content));
    assert.equal(readRecord(file), null, String(content));
  }
});

test('a process is known by more than its number', () => {
  const own = identityOf(process.pid)!;
  assert.ok(isRunning(own));
  const others = [
    { ...own, startTime: String(Number(own.startTime) + 1) },
    { ...own, bootId: 'an-earlier-boot' },
  ];
  for (const other of others) {
    assert.equal(isRunning(other), false);
    assert.equal(killProcess(other), false, 'or this test would have ended');
  }
  assert.equal(identityOf(0x7ffffff), null);
  assert.deepEqual(processesWith('a-word-that-no-process-has'), []);
});

test('names of VMs are names, and sockets fit into sun_path', () => {
  const folders = { stateFolder: '/s', runFolder: '/r' };
  assert.equal(vmPaths(folders, 'web-1').qmp, '/r/vms/web-1/qmp.sock');
  for (const name of ['', '..', 'a/b', 'A', '1a', 'a'.repeat(64)])
    assert.throws(() => vmPaths(folders, name), /is no name of a VM/);
  const deep = { stateFolder: '/s', runFolder: `/${'r'.repeat(80)}` };
  assert.equal(Buffer.byteLength(vmPaths(deep, 'a'.repeat(8)).console), 107);
  assert.throws(
    () => vmPaths(deep, 'a'.repeat(9)),
    /VM 'a{9}': the socket .*console\.sock would have a name of 108 bytes, and the kernel takes 107; set a shorter runFolder/,
  );
});

test('a log is moved aside when it has grown, at a start and while it is written', async (t) => {
  const file = path.join(await folderOf(t), 'vms', 'web', 'vm.log');
  closeSync(openLog(file, 'first').fd);
  await appendFile(file, `${'x'.repeat(MAX_LOG_BYTES)}\n`);
  const { fd, offset } = openLog(file, 'second');
  t.after(() => closeSync(fd));
  assert.match(await readFile(file, 'utf8'), /^\S+Z second\n$/);
  assert.match(await readFile(`${file}.1`, 'utf8'), /^\S+Z first\nx+\n$/);
  assert.equal(lastWords(file, offset), '');
  writeSync(fd, 'one\ntwo\n\n');
  assert.equal(lastWords(file, offset), 'two');
  await trimLog(file);
  assert.equal(lastWords(file, offset), 'two', 'it is small');

  await appendFile(file, `${'y'.repeat(MAX_LOG_BYTES)}\n`);
  await trimLog(file);
  assert.equal((await stat(file)).size, 0);
  assert.match(await readFile(`${file}.1`, 'utf8'), /second\none\ntwo\n\ny+\n$/);
  writeSync(fd, 'three\n');
  assert.equal((await stat(file)).size, 6, 'the writer goes on at the beginning');
  assert.equal(lastWords(file, offset), 'three');
});

test('a disk without room takes no log and stops nobody', async (t) => {
  const file = path.join(await folderOf(t), 'vm.log');
  await symlink('/dev/full', file);
  const { fd, offset } = openLog(file, 'a headline that is lost');
  closeSync(fd);
  assert.equal(offset, 0);
});
