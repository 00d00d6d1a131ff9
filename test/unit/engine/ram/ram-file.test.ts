/** Guest RAM as shared memory: what another process sees of it, and what is left of it afterwards. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { test } from 'node:test';
import { ColoError } from '../../../../src/base/errors.ts';
import { RamFile, RamSnapshots } from '../../../../src/engine/ram/index.ts';
import { parseRamChanges } from '../../../../src/engine/ram/ram-codec.ts';

const PAGE = 4096;
const MIB = 1024 * 1024;

/** A program that opens the file which it finds at descriptor 3, as QEMU does, and writes where it is told to. */
const WRITER = `
  import { openSync, writeSync } from 'node:fs';
  import { createInterface } from 'node:readline';
  const fd = openSync('/proc/self/fd/3', 'r+');
  for await (const line of createInterface({ input: process.stdin })) {
    const [offset, text] = line.split(' ');
    writeSync(fd, text, Number(offset));
    console.log('written');
  }
`;

function descriptors(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`);
      return target.startsWith('/memfd:') ? [target] : [];
    } catch {
      // The folder's own.
      return [];
    }
  });
}

const mappings = (name: string): number =>
  readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes(`/memfd:${name}`)).length;

test('another process writes to the memory that was handed to it, and its writes are found', async () => {
  const ram = RamFile.create('shared', 4 * MIB);
  const snapshots = await RamSnapshots.open(ram, 1);
  const child = spawn(process.execPath, ['--input-type=module', '-e', WRITER], {
    stdio: ['pipe', 'pipe', 'inherit', ram.fd],
  });
  try {
    await snapshots.capture({ full: true });
    for (const [offset, text] of [
      [3 * MIB + 5, 'hello'],
      [PAGE, 'again'],
    ] as const) {
      child.stdin!.write(`${offset} ${text}\n`);
      await once(child.stdout!, 'data');
      assert.equal(ram.bytes.toString('latin1', offset, offset + text.length), text);
      const { ram: changes, pages } = await snapshots.capture({ full: false });
      assert.equal(pages, 1);
      const [change] = snapshotsOf(changes, ram.byteLength);
      assert.equal(change, Math.floor(offset / PAGE));
    }
  } finally {
    child.kill();
    await once(child, 'exit');
    await snapshots.close();
    ram.close();
  }
});

function snapshotsOf(bytes: Uint8Array, ramBytes: number): number[] {
  return [...parseRamChanges(bytes, ramBytes).indexes];
}

test('nobody can make it shorter under us', () => {
  const ram = RamFile.create('sealed', 2 * PAGE);
  try {
    const text = "try { require('fs').ftruncateSync(3, 0); } catch (error) { console.log(error.code); }";
    const { stdout } = spawnSync(process.execPath, ['-e', text], {
      stdio: ['ignore', 'pipe', 'inherit', ram.fd],
      encoding: 'utf8',
    });
    assert.equal(stdout.trim(), 'EPERM');
    assert.equal(ram.bytes.length, 2 * PAGE);
  } finally {
    ram.close();
  }
});

test('nothing is left: no descriptor, no mapping, no file; old views read as zeros', async () => {
  const before = descriptors();
  const ram = RamFile.create('leaving', 3 * MIB);
  const snapshots = await RamSnapshots.open(ram, 2);
  const view = ram.bytes;
  view[PAGE] = 7;
  await snapshots.capture({ full: true });
  assert.equal(descriptors().length, before.length + 2, 'RAM and its baseline');
  assert.ok(mappings('leaving') >= 2);
  const isNamed = existsSync('/dev/shm') && readdirSync('/dev/shm').some((name) => name.includes('leaving'));
  assert.ok(!isNamed);
  await snapshots.close();
  await snapshots.close();
  ram.close();
  ram.close();
  assert.deepEqual(descriptors(), before);
  assert.equal(mappings('leaving'), 0);
  assert.equal(view[PAGE], 0);
  view[PAGE] = 1;
  assert.throws(() => ram.fd, ColoError);
});

test('memory ends with its last user, however it dies', async () => {
  const ram = RamFile.create('dying', MIB);
  const own = openSync(`/proc/self/fd/${ram.fd}`, 'r');
  const child = spawn(process.execPath, ['-e', 'console.log(1); setInterval(() => {}, 1000)'], {
    stdio: ['ignore', 'pipe', 'inherit', ram.fd],
  });
  await once(child.stdout!, 'data');
  ram.close();
  const isHeld = (): boolean => readlinkSync(`/proc/${child.pid}/fd/3`).startsWith('/memfd:dying');
  assert.ok(isHeld(), 'the child keeps it');
  child.kill('SIGKILL');
  await once(child, 'exit');
  closeSync(own);
  assert.ok(!descriptors().some((name) => name.includes('dying')));
});

test('RAM that no Buffer could hold is seen through windows', async () => {
  const bytes = 5 * 1024 * MIB + PAGE;
  const ram = RamFile.create('large', bytes);
  const other = RamFile.create('large-2', bytes);
  const from = await RamSnapshots.open(ram, 2);
  const to = await RamSnapshots.open(other, 0);
  try {
    assert.throws(() => ram.bytes, /use its windows/);
    assert.equal(ram.windows.length, 6);
    ram.windows[0]![0] = 1;
    ram.windows[4]!.fill(5, 0, 3 * PAGE);
    ram.windows[5]![PAGE - 1] = 6;
    // Neighbours on either side of a window's end.
    ram.windows[1]!.fill(7, 1024 * MIB - PAGE);
    ram.windows[2]!.fill(8, 0, PAGE);
    const { ram: all, pages } = await from.capture({ full: true });
    assert.equal(pages, 7);
    await to.load(to.check([all]));
    assert.equal(other.windows[5]![PAGE - 1], 6);
    assert.equal(other.windows[4]![3 * PAGE - 1], 5);
    assert.equal(other.windows[1]![1024 * MIB - 1], 7);
    assert.equal(other.windows[2]![PAGE - 1], 8);
    assert.equal((await to.capture({ full: false })).pages, 0);
  } finally {
    await from.close();
    await to.close();
    ram.close();
    other.close();
  }
});

test('sizes that are no pages, or more than there can be, are refused', () => {
  for (const bytes of [0, -PAGE, 100, PAGE + 1, NaN, 2 ** 53]) {
    assert.throws(() => RamFile.create('odd', bytes), /not a whole number of 4 KiB pages/);
  }
  assert.throws(() => RamFile.create('huge', 2 ** 52), ColoError);
  assert.ok(!descriptors().some((name) => name.includes('huge')));
});

test('a name is for people and may be anything', () => {
  const ram = RamFile.create('ä/\n' + 'x'.repeat(400), PAGE);
  ram.close();
});
