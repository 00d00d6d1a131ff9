/** The file protocol: a flush that failed once fails for good, because what was written then is lost. */
import assert from 'node:assert/strict';
import { open, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { BlockGraph } from '../../../src/block/graph.ts';
import { testFolder } from '../../helpers/bare-process.ts';

test('after a failed flush no flush succeeds, reads and writes do', async (t) => {
  const file = path.join(await testFolder(t), 'image');
  await writeFile(file, new Uint8Array(4096));
  const graph = new BlockGraph();
  t.after(() => graph.closeAll().catch(() => undefined));
  const { root } = await graph.addDrive('d', { driver: 'file', filename: file });
  await root.flush();
  const handle = await open(file);
  const ofAllHandles = Object.getPrototypeOf(handle) as typeof handle;
  await handle.close();
  const failure = Object.assign(new Error('EIO: i/o error, fdatasync'), { code: 'EIO' });
  const broken = t.mock.method(ofAllHandles, 'datasync', () => Promise.reject(failure));
  await assert.rejects(root.flush(), { errno: 'EIO' });
  broken.mock.restore();
  await assert.rejects(root.flush(), { errno: 'EIO' });
  await root.write(0, new Uint8Array(512).fill(1));
  await root.read(0, new Uint8Array(512));
  await assert.rejects(root.write(0, new Uint8Array(512), { fua: true }), { errno: 'EIO' });
});
