import assert from 'node:assert/strict';
import { FileDriver } from '../../src/block/drivers/file.ts';
import { checkQcow2 } from '../../src/block/drivers/qcow2/check.ts';
import { createQcow2 } from '../../src/block/drivers/qcow2/create.ts';
import { readQcow2Info } from '../../src/block/drivers/qcow2/open.ts';
import { BlockNode } from '../../src/block/node.ts';
import { describeBlockDriver } from './block-driver.ts';
import { storedImage } from './stored-image.ts';

for (const { cacheBytes = '1048576', ...options } of [
  { clusterBits: 16 },
  { clusterBits: 9 },
  { clusterBits: 9, cacheBytes: '1024' },
  { clusterBits: 12, refcountOrder: 0 },
  { clusterBits: 21, refcountOrder: 6 },
  { clusterBits: 16, version: 2 as const },
]) {
  describeBlockDriver(`qcow2 ${JSON.stringify({ cacheBytes, ...options })}`, {
    create: (sizeBytes) =>
      storedImage(
        (path) => createQcow2(path, { sizeBytes, ...options }),
        (path) => ({ driver: 'qcow2', 'l2-cache-size': cacheBytes, file: { filename: path } }),
        assertClean,
      ),
    capabilities: { makeEmpty: true, grow: true, status: options.clusterBits < 21 },
  });
}

async function assertClean(path: string): Promise<void> {
  const file = new BlockNode('check', await FileDriver.open(path, { readOnly: true }));
  try {
    const report = await checkQcow2(file, (await readQcow2Info(file, false)).header);
    assert.deepEqual(report.messages, []);
  } finally {
    await file.close();
  }
}
