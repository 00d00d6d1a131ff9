import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FileDriver } from '../../../src/block/drivers/file.ts';
import { hasProtocol, parseFilename, probeFormat } from '../../../src/block/probe.ts';

describe('file driver', () => {
  it('tells holes from data, and makes holes', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'colo-file-'));
    const path = join(folder, 'a');
    await writeFile(path, Buffer.alloc(2 ** 20, 1));
    const driver = await FileDriver.open(path);
    await driver.discard(2 ** 18, 2 ** 18);
    const extents = await driver.blockStatus(100, 2 ** 20 - 100);
    assert.equal(
      extents.reduce((sum, { length }) => sum + length, 0),
      2 ** 20 - 100,
    );
    const back = new Uint8Array(2 ** 20);
    await driver.read(0, back);
    for (const { offset, length, zero } of extents) {
      if (zero) assert.ok(back.subarray(offset, offset + length).every((byte) => byte === 0));
    }
    await driver.close();
    await rm(folder, { recursive: true });
  });

  it('says why a file cannot be opened', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'colo-file-'));
    const path = join(folder, 'a');
    await assert.rejects(FileDriver.open(path), {
      message: `Could not open '${path}': No such file or directory`,
    });
    await assert.rejects(FileDriver.open(folder), { message: `Could not open '${folder}': Is a directory` });
    await assert.rejects(FileDriver.open('/dev/null'), /neither a regular file nor a block device/);
    await writeFile(path, 'x');
    await chmod(path, 0o400);
    if (process.getuid?.() !== 0) {
      await assert.rejects(FileDriver.open(path), /Permission denied/);
      const fallback = await FileDriver.open(path, { autoReadOnly: true });
      assert.equal(fallback.readOnly, true);
      await fallback.close();
    }
    await rm(folder, { recursive: true });
  });
});

describe('file names', () => {
  it('stand for protocols', () => {
    assert.deepEqual(parseFilename('/a/b:c'), { driver: 'file', filename: '/a/b:c' });
    assert.deepEqual(parseFilename('nbd://h:1/e%20x'), {
      driver: 'nbd',
      export: 'e x',
      server: { type: 'inet', host: 'h', port: '1' },
    });
    assert.deepEqual(parseFilename('nbd://[::1]/'), {
      driver: 'nbd',
      server: { type: 'inet', host: '::1', port: '10809' },
    });
    assert.deepEqual(parseFilename('nbd+unix:///e?socket=/s'), {
      driver: 'nbd',
      export: 'e',
      server: { type: 'unix', path: '/s' },
    });
    assert.deepEqual(parseFilename('nbd:h:9:exportname=a:b'), {
      driver: 'nbd',
      export: 'a:b',
      server: { type: 'inet', host: 'h', port: '9' },
    });
    const json = parseFilename('json:{"driver":"raw","file.driver":"null-co","file.size":512}');
    assert.equal(JSON.stringify(json), '{"driver":"raw","file":{"driver":"null-co","size":"512"}}');
    for (const bad of ['json:{', 'json:[1', 'nbd://', 'nbd:x', 'nbd+unix:///e'])
      assert.throws(() => parseFilename(bad));
    assert.equal(hasProtocol('C/nbd.raw'), false);
  });

  it('are left to the content for the format', () => {
    assert.equal(probeFormat(Buffer.from('514649fb00000003', 'hex')), 'qcow2');
    assert.equal(probeFormat(new Uint8Array(0)), 'raw');
  });
});
