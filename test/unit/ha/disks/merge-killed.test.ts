/** The process that merges overlays is killed, again and again, at other places: in the end the disk is what it has to be. */
import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { ClosedError } from '../../../../src/base/errors.ts';
import { checkQcow2 } from '../../../../src/block/drivers/qcow2/check.ts';
import { readQcow2Info } from '../../../../src/block/drivers/qcow2/open.ts';
import { FileDriver } from '../../../../src/block/drivers/file.ts';
import { BlockGraph } from '../../../../src/block/graph.ts';
import { BlockNode } from '../../../../src/block/node.ts';
import { DiskFolder, type DiskOptions } from '../../../../src/ha/disks/disk-folder.ts';
import { Dice } from '../../../helpers/dice.ts';

const DYING = path.join(import.meta.dirname, '../../../helpers/dying-disk-work.ts');
const MIB = 2 ** 20;
const BYTES = 80 * MIB;

let dir: string;
before(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'merge-killed-'));
});
after(() => rm(dir, { recursive: true, force: true }));

/** Kills itself: a signal from here may come when it is through. */
function dyingAt(place: number): NonNullable<DiskOptions['run']> {
  return async (work) => {
    const execArgv = ['--import', import.meta.resolve('tsx')];
    const child = fork(DYING, [String(place)], { execArgv });
    child.send(work);
    const [, signal] = (await once(child, 'exit')) as [number | null, string | null];
    assert.equal(signal, 'SIGKILL');
    throw new ClosedError(`killed at word ${place}`);
  };
}

test('a merge that is killed is done again, and comes to the same', async () => {
  const folder = await DiskFolder.open(path.join(dir, 'vm'), 'vm');
  const [disk] = await folder.makeTarget([{ id: 'disk0', sizeBytes: BYTES }], false);
  assert.ok(disk);
  const expected = Buffer.alloc(BYTES);
  const dice = new Dice(1);
  const graph = new BlockGraph();
  // With what is below each: zeros are written otherwise where there is nothing to hide.
  let backing = '';
  for (const filename of [disk.image, disk.hidden, disk.active]) {
    const name = path.basename(filename, '.qcow2');
    const file = { driver: 'file', filename };
    const node = await graph.addNode({ 'node-name': name, driver: 'qcow2', file, backing });
    backing = name;
    const { clusterBytes = 65_536 } = node.driver;
    for (let times = 0; times < 12; times++) {
      const from = dice.roll(BYTES / clusterBytes) * clusterBytes;
      const to = Math.min(BYTES, from + (1 + dice.roll(64)) * clusterBytes);
      const value = dice.roll(4) === 0 ? 0 : 1 + dice.roll(255);
      if (value === 0) await node.writeZeroes(from, to - from);
      else await node.write(from, Buffer.alloc(to - from, value));
      expected.fill(value, from, to);
    }
  }
  await graph.closeAll();
  await folder.note({ type: 'loaded', of: { epoch: 2, nonce: 'b' } });
  await folder.note({ type: 'takes-over', of: { epoch: 3, nonce: 'c' } });

  const now = { epoch: 4, nonce: 'd' };
  for (const place of [1, 2, 4]) {
    const again = await DiskFolder.open(folder.folder, 'vm');
    await assert.rejects(again.start(now, { run: dyingAt(place) }), ClosedError);
    assert.equal((await DiskFolder.open(folder.folder, 'vm')).record.kind, 'merging');
  }
  const last = await DiskFolder.open(folder.folder, 'vm');
  await last.start(now);
  assert.equal(last.record.kind, 'whole');

  const file = new BlockNode('file', await FileDriver.open(disk.image, { readOnly: true }));
  const report = await checkQcow2(file, (await readQcow2Info(file, false)).header);
  assert.equal(report.errors, 0);
  await file.close();
  const node = await graph.openImage(disk.image, { readOnly: true });
  const found = Buffer.alloc(BYTES);
  await node.read(0, found);
  await graph.closeAll();
  assert.ok(found.equals(expected));
});
