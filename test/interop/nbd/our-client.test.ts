/** Our NBD client and block driver with the servers of QEMU and nbdkit. */
import assert from 'node:assert/strict';
import { randomFillSync } from 'node:crypto';
import { readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { NbdDriver } from '../../../src/block/drivers/nbd.ts';
import { BlockNode } from '../../../src/block/node.ts';
import { NbdClient } from '../../../src/nbd/index.ts';
import { describeBlockDriver } from '../../conformance/block-driver.ts';
import { temporaryDirectory, type Cleanup } from '../../unit/nbd/support.ts';
import { missing, startPeer } from './peers.ts';

const MIB = 2 ** 20;

async function connect(t: TestContext, path: string, exportName = ''): Promise<NbdClient> {
  const client = await NbdClient.connect({ path }, { exportName });
  t.after(() => client.abort());
  return client;
}

/** What any sound server must do for us. */
async function exercise(client: NbdClient): Promise<void> {
  const bytes = randomFillSync(Buffer.alloc(3 * MIB));
  await client.write(MIB + 1, bytes, { fua: true });
  const back = Buffer.alloc(bytes.length);
  await client.read(MIB + 1, back);
  assert.ok(back.equals(bytes));
  await Promise.all(
    Array.from({ length: 64 }, async (_, index) => {
      const piece = Buffer.alloc(10_000, index + 1);
      await client.write(5 * MIB + index * 10_000, piece);
      const again = Buffer.alloc(10_000);
      await client.read(5 * MIB + index * 10_000, again);
      assert.ok(again.equals(piece));
    }),
  );
  await client.writeZeroes(2 * MIB, 65536);
  await client.trim(3 * MIB, 65536);
  await client.cache(0, 4096);
  await client.flush();
  const zeros = Buffer.alloc(65536, 1);
  await client.read(2 * MIB, zeros);
  assert.ok(zeros.equals(Buffer.alloc(65536)));
}

describe('our NBD client with qemu-nbd', { skip: missing('qemu-nbd') }, () => {
  it('reads, writes, zeroes, and sees holes', async (t) => {
    const directory = await temporaryDirectory(t);
    const [image, path] = [join(directory, 'image'), join(directory, 'socket')];
    await writeFile(image, '');
    await truncate(image, 16 * MIB);
    await startPeer(t, path, 'qemu-nbd', '-f', 'raw', '-x', 'disk', '-t', '-k', path, image);
    const client = await connect(t, path, 'disk');
    assert.equal(client.hasStructuredReplies && client.hasBlockStatus, true);
    assert.deepEqual(await client.blockStatus(0, 16 * MIB), [
      { offset: 0, length: 16 * MIB, zero: true, data: false },
    ]);
    await exercise(client);
    const status = await client.blockStatus(0, 16 * MIB);
    assert.equal(
      status.reduce((sum, { length }) => sum + length, 0),
      16 * MIB,
    );
    assert.ok(status.some(({ data }) => data) && status.some(({ zero }) => zero));
    const before = Buffer.alloc(16 * MIB);
    await client.read(0, before);
    await client.close();
    assert.ok((await readFile(image)).equals(before));
  });

  it('is refused politely: unknown export, read-only', async (t) => {
    const directory = await temporaryDirectory(t);
    const [image, path] = [join(directory, 'image'), join(directory, 'socket')];
    await writeFile(image, Buffer.alloc(4096, 7));
    await startPeer(t, path, 'qemu-nbd', '-r', '-f', 'raw', '-x', 'disk', '-t', '-k', path, image);
    await assert.rejects(NbdClient.connect({ path }, { exportName: 'badexport' }), {
      message: "Requested export not available\nserver reported: export 'badexport' not present",
    });
    const client = await connect(t, path, 'disk');
    assert.equal(client.readOnly, true);
    await client.close();
  });
});

describe('our NBD client with nbdkit', { skip: missing('nbdkit') }, () => {
  const kit = async (t: Cleanup, ...args: string[]): Promise<string> => {
    const path = join(await temporaryDirectory(t), 'socket');
    await startPeer(t, path, 'nbdkit', '-f', '-U', path, ...args);
    return path;
  };

  it('reads, writes, zeroes with the memory plugin', async (t) => {
    const client = await connect(t, await kit(t, 'memory', '16M'));
    await exercise(client);
    await client.close();
  });

  it('falls back when the server speaks neither structured replies nor contexts', async (t) => {
    const client = await connect(t, await kit(t, '--no-sr', 'memory', '16M'));
    assert.deepEqual([client.hasStructuredReplies, client.hasBlockStatus], [false, false]);
    await exercise(client);
    assert.equal((await client.blockStatus(0, MIB)).length, 1);
    await client.close();
  });

  it('tells the errors that its error filter makes, and goes on', async (t) => {
    const path = await kit(
      t,
      '--filter=error',
      'memory',
      '1M',
      'error-pwrite=ENOSPC',
      'error-pwrite-rate=100%',
    );
    const client = await connect(t, path);
    await assert.rejects(client.write(0, Buffer.alloc(512)), { errno: 'ENOSPC' });
    await client.read(0, Buffer.alloc(512));
    await client.close();
  });

  // A server that takes multiples of 512 bytes only, and at most 64 KiB at a time.
  const sizes = [
    'blocksize-error-policy=error',
    'blocksize-minimum=512',
    'blocksize-preferred=4k',
    'blocksize-maximum=64k',
  ];
  const strict = (lengthBytes: number): string[] => [
    ...['--filter=blocksize-policy', 'memory', String(lengthBytes)],
    ...sizes,
  ];

  it('keeps to the block sizes of the server', async (t) => {
    const path = await kit(t, ...strict(MIB));
    const client = await connect(t, path);
    assert.deepEqual([client.minBlockBytes, client.maxBlockBytes], [512, 65536]);
    const node = new BlockNode('nbd', new NbdDriver(client, false));
    const bytes = randomFillSync(Buffer.alloc(300_001));
    await node.write(777, bytes);
    await Promise.all(
      Array.from({ length: 100 }, (_, index) => node.write(2000 + index, Buffer.from([index]))),
    );
    for (let index = 0; index < 100; index++) bytes[2000 + index - 777] = index;
    await node.writeZeroes(5000, 10_000);
    bytes.fill(0, 5000 - 777, 15_000 - 777);
    const back = Buffer.alloc(bytes.length);
    await node.read(777, back);
    assert.ok(back.equals(bytes));
    await node.close();
  });

  const stops: (() => unknown)[] = [];
  describeBlockDriver('nbd over nbdkit with a smallest block of 512 bytes', {
    create: async (lengthBytes) => {
      const path = await kit({ after: (stop) => stops.push(stop) }, ...strict(lengthBytes));
      const node = new BlockNode('nbd', new NbdDriver(await NbdClient.connect({ path }), false));
      const close = async (): Promise<void> => {
        await node.close();
        for (const stop of stops.splice(0).reverse()) await stop();
      };
      return { node, close };
    },
    capabilities: {},
  });
});
