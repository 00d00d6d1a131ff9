/** The qcow2 writer, judged by qemu-img where it is installed. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, open, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { writeQcow2 } from '../../../src/guest/qcow2-writer.ts';

const run = promisify(execFile);
const CLUSTER = 65536;

describe('writeQcow2', () => {
  let directory = '';
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'colo-qcow2-'));
  });
  after(async () => {
    await rm(directory, { recursive: true, force: true });
  });

  async function sparseImage(name: string, size: number, writes: readonly number[]): Promise<string> {
    const path = join(directory, name);
    await writeFile(path, '');
    await truncate(path, size);
    const file = await open(path, 'r+');
    for (const at of writes) await file.write(Buffer.from(`data at ${at}`), 0, undefined, at);
    await file.close();
    return path;
  }

  const cases: readonly (readonly [string, number, readonly number[]])[] = [
    ['empty', 4 * 1024 * 1024, []],
    ['scattered', 64 * 1024 * 1024, [0, 5 * CLUSTER, 5 * CLUSTER + 60000, 900 * CLUSTER]],
    ['odd-size', 1024 * 1024 + 1536, [1024 * 1024 + 512]],
    // Beyond 512 MiB there is more than one L2 table.
    ['two-tables', 1200 * 1024 * 1024, [700 * 1024 * 1024, 1100 * 1024 * 1024]],
  ];
  for (const [name, size, writes] of cases) {
    it(`writes an image that qemu-img finds sound and equal: ${name}`, async (t: TestContext) => {
      const raw = await sparseImage(`${name}.raw`, size, writes);
      const out = join(directory, `${name}.qcow2`);
      await writeQcow2(raw, out);
      const again = join(directory, `${name}-again.qcow2`);
      await writeQcow2(raw, again);
      assert.ok((await readFile(out)).equals(await readFile(again)));
      assert.ok((await stat(out)).size < (writes.length + 8) * CLUSTER, 'zero clusters take no room');
      try {
        await run('qemu-img', ['--version']);
      } catch {
        t.skip('qemu-img is not installed');
        return;
      }
      await run('qemu-img', ['check', '-f', 'qcow2', out]);
      await run('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', out, raw]);
    });
  }
});
