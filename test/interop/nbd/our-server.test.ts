/** Our NBD server with the clients of QEMU and libnbd. */
import assert from 'node:assert/strict';
import { randomFillSync } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { NbdServer } from '../../../src/nbd/index.ts';
import { MemorySource, temporaryDirectory } from '../../unit/nbd/support.ts';
import { missing, mustRun, run } from './peers.ts';

const MIB = 2 ** 20;
const qemu = { skip: missing('qemu-img', 'qemu-io') };
const libnbd = { skip: missing('nbdinfo', 'nbdcopy') };

interface Served {
  readonly directory: string;
  readonly source: MemorySource;
  readonly uri: string;
  readonly server: NbdServer;
}

async function serve(
  t: TestContext,
  options: { lengthBytes?: number; writable?: boolean } = {},
): Promise<Served> {
  const directory = await temporaryDirectory(t);
  const path = join(directory, 'socket');
  const source = new MemorySource(options.lengthBytes ?? 8 * MIB);
  const server = new NbdServer();
  t.after(() => server.close());
  server.addExport({ name: 'disk', source, writable: options.writable ?? true, description: 'a test disk' });
  await server.listen({ path });
  return { directory, source, server, uri: `nbd+unix:///disk?socket=${path}` };
}

describe('our NBD server with qemu-img', qemu, () => {
  it('is described', async (t) => {
    const { uri } = await serve(t);
    const info = JSON.parse(await mustRun('qemu-img', 'info', '--output=json', uri)) as Record<
      string,
      unknown
    >;
    assert.equal(info['virtual-size'], 8 * MIB);
    assert.equal(info['format'], 'raw');
  });

  it('is converted to and from, compared and mapped', async (t) => {
    const { uri, source, directory } = await serve(t);
    const image = join(directory, 'image.raw');
    const bytes = Buffer.alloc(8 * MIB);
    randomFillSync(bytes, MIB, 3 * MIB);
    await writeFile(image, bytes);
    await mustRun('qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'raw', image, uri);
    assert.ok(source.bytes.equals(bytes));
    assert.match(await mustRun('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', image, uri), /identical/);
    const back = join(directory, 'back.raw');
    await mustRun('qemu-img', 'convert', '-f', 'raw', '-O', 'raw', uri, back);
    assert.ok((await readFile(back)).equals(bytes));
    const map = JSON.parse(await mustRun('qemu-img', 'map', '--output=json', uri)) as {
      start: number;
      data: boolean;
    }[];
    assert.deepEqual(
      map.filter(({ data }) => data).map(({ start }) => start),
      [MIB],
    );
    source.bytes[4 * MIB] = 1;
    assert.equal((await run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', image, uri)).code, 1);
  });

  it('holds a qcow2 image', async (t) => {
    const { uri } = await serve(t);
    await mustRun('qemu-img', 'create', '-f', 'qcow2', uri, '64M');
    await mustRun('qemu-io', '-f', 'qcow2', '-c', 'write -P 3 1M 1M', '-c', 'write -z 1M 64k', uri);
    await mustRun('qemu-io', '-f', 'qcow2', '-c', 'read -P 3 1088k 900k', '-c', 'read -P 0 1M 64k', uri);
    assert.match(await mustRun('qemu-img', 'check', '-f', 'qcow2', uri), /No errors/);
  });

  it('refuses an unknown export in words that reach the user', async (t) => {
    const { uri } = await serve(t);
    const { code, stderr } = await run('qemu-img', 'info', uri.replace('/disk', '/badexport'));
    assert.equal(code, 1);
    assert.match(stderr, /Requested export not available\nserver reported: export 'badexport' not present/);
  });
});

describe('our NBD server with qemu-io', qemu, () => {
  it('reads, writes, zeroes, discards and flushes', async (t) => {
    const { uri, source } = await serve(t);
    const commands = [
      ...['write -P 0xaa 100 5000', 'read -P 0xaa 100 5000', 'write -f -P 0xbb 1M 2M', 'read -P 0xbb 1M 2M'],
      ...['write -z -u 1M 64k', 'read -P 0 1M 64k', 'discard 2M 64k', 'flush', 'aio_read 0 4M', 'aio_flush'],
    ];
    const output = await mustRun(
      'qemu-io',
      '-f',
      'raw',
      ...commands.flatMap((command) => ['-c', command]),
      uri,
    );
    assert.doesNotMatch(output, /verification failed|error/i);
    assert.ok(
      source.calls.includes(`zero ${MIB} 65536 fua unmap`) ||
        source.calls.includes(`zero ${MIB} 65536 unmap`),
    );
    assert.ok(source.calls.includes(`discard ${2 * MIB} 65536`));
    assert.ok(source.calls.includes('flush'));
  });

  it('is not written to when read-only', async (t) => {
    const { uri, source } = await serve(t, { writable: false });
    const { code } = await run('qemu-io', '-f', 'raw', '-c', 'write 0 512', uri);
    assert.equal(code, 1);
    assert.ok(!source.calls.some((call) => call.startsWith('write')));
    await mustRun('qemu-io', '-r', '-f', 'raw', '-c', 'read -P 0 0 512', uri);
  });
});

describe('our NBD server with libnbd', libnbd, () => {
  it('tells nbdinfo what it can do', async (t) => {
    const { uri } = await serve(t);
    const info = JSON.parse(await mustRun('nbdinfo', '--json', uri)) as {
      exports: Record<string, unknown>[];
    };
    const [disk] = info.exports;
    assert.equal(disk?.['export-size'], 8 * MIB);
    assert.equal(disk['description'], 'a test disk');
    for (const can of ['cache', 'df', 'fast_zero', 'flush', 'fua', 'multi_conn', 'trim', 'zero']) {
      assert.equal(disk[`can_${can}`], true, can);
    }
    assert.deepEqual(disk['contexts'], ['base:allocation']);
  });

  it('is copied by nbdcopy over several connections, holes and all', async (t) => {
    const { uri, source, directory } = await serve(t, { lengthBytes: 32 * MIB });
    const bytes = randomFillSync(Buffer.alloc(5 * MIB));
    await source.write(3 * MIB, bytes);
    const copy = join(directory, 'copy.raw');
    await mustRun('nbdcopy', uri, copy);
    assert.ok((await readFile(copy)).equals(source.bytes));
    const target = await serve(t, { lengthBytes: 32 * MIB });
    await mustRun('nbdcopy', '--connections=4', '--flush', copy, target.uri);
    assert.ok(target.source.bytes.equals(source.bytes));
    assert.ok(target.source.calls.includes('flush'));
  });
});
