/** The process that merges overlays is killed, again and again, at other places: in the end the disk is what it has to be. */
import assert from 'node:assert/strict';
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
import { DiskFolder } from '../../../../src/ha/disks/disk-folder.ts';
import { Dice } from '../../../helpers/dice.ts';

const MIB = 2 ** 20;
const BYTES = 80 * MIB;

let dir: string;
before(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'merge-killed-'));
});
after(() => rm(dir, { recursive: true, force: true }));

test('a merge that is killed is done again, and comes to the same', async (t) => {
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
  for (const place of [1, 3, 6]) {
    const kill = new AbortController();
    let told = 0;
    const onProgress = (): void => {
      if (++told === place) kill.abort();
    };
    const again = await DiskFolder.open(folder.folder, 'vm');
    await assert.rejects(again.start(now, { onProgress, signal: kill.signal }), ClosedError);
    assert.equal((await DiskFolder.open(folder.folder, 'vm')).record.kind, 'merging');
    t.diagnostic(`killed after ${told} words`);
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
