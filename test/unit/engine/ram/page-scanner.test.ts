/** The threads of the page scanner: what their loss means. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ClosedError, ColoError } from '../../../../src/base/errors.ts';
import { RamFile } from '../../../../src/engine/ram/index.ts';
import { PageScanner } from '../../../../src/engine/ram/page-scanner.ts';

const PAGE = 4096;
const PAGES = 600;

async function withScanner(
  threads: number,
  act: (scanner: PageScanner, ram: RamFile, base: RamFile) => Promise<void>,
): Promise<void> {
  const [ram, base] = [RamFile.create('ram', PAGES * PAGE), RamFile.create('base', PAGES * PAGE)];
  const scanner = await PageScanner.open(ram, base, threads);
  try {
    await act(scanner, ram, base);
  } finally {
    await scanner.close();
    ram.close();
    base.close();
  }
}

test('a job whose thread is lost fails, and the caller does the next ones', async () => {
  await withScanner(2, async (scanner, ram) => {
    // Pages that do not exist; `check` lets none such come here.
    const impossible = Uint32Array.from({ length: 200 }, (_, at) => 2 ** 31 + 2 * at);
    const data = new Uint8Array(200 * PAGE);
    await assert.rejects(scanner.copyIn(impossible, data), ColoError);
    ram.bytes[5 * PAGE] = 1;
    ram.bytes[599 * PAGE] = 1;
    assert.deepEqual([...(await scanner.findChanges())], [5, 599]);
    const out = new Uint8Array(2 * PAGE);
    await scanner.copyOut(2, out);
    assert.equal(out[PAGE], 1);
    assert.deepEqual([...(await scanner.findChanges())], []);
  });
});

test('close waits for the job, and nothing begins after it', async () => {
  await withScanner(2, async (scanner, ram) => {
    ram.bytes.fill(1);
    const found = scanner.findChanges();
    const closed = scanner.close();
    assert.equal((await found).length, PAGES);
    await closed;
    await assert.rejects(scanner.findChanges(), ClosedError);
  });
});

test('two sizes do not go together', async () => {
  const [ram, base] = [RamFile.create('ram', PAGE), RamFile.create('base', 2 * PAGE)];
  await assert.rejects(PageScanner.open(ram, base, 0), /two sizes/);
  ram.close();
  base.close();
});
