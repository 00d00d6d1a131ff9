/** Images written by qemu-img and qemu-io must read right with our driver, go on well, and be refused with QEMU's words. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { BlockGraph } from '../../../src/block/graph.ts';
import { inFolder, missingTools, runTool, tool } from './helpers.ts';

const SIZE = '6M';

/** Our reading of an image. */
async function readAll(image: string, format?: string): Promise<Buffer> {
  const graph = new BlockGraph();
  const node = await graph.openImage(image, { readOnly: true, ...(format === undefined ? {} : { format }) });
  const bytes = Buffer.alloc(node.lengthBytes);
  await node.read(0, bytes);
  await graph.closeAll();
  return bytes;
}

/** QEMU's reading of an image. */
async function readByQemu(image: string): Promise<Buffer> {
  await tool('qemu-img', 'convert', '-O', 'raw', image, `${image}.raw`);
  return readFile(`${image}.raw`);
}

async function assertSame(image: string): Promise<void> {
  assert.equal(Buffer.compare(await readAll(image), await readByQemu(image)), 0);
}

const scribble = (image: string): Promise<string> =>
  tool(
    'qemu-io',
    ...['-f', 'qcow2', '-c', 'write -P 17 0 64k', '-c', 'write -P 18 100k 3k', '-c', 'write -z 300k 700k'],
    ...[
      '-c',
      'write -P 19 512k 5k',
      '-c',
      'discard 0 64k',
      '-c',
      'write -P 20 5M 1M',
      '-c',
      'write -z -u 5200k 256k',
      image,
    ],
  );

describe('qcow2 written by QEMU', { skip: missingTools }, () => {
  for (const options of [
    'compat=1.1',
    'compat=0.10',
    'cluster_size=512',
    'cluster_size=2M',
    'lazy_refcounts=on',
    'refcount_bits=1',
    'refcount_bits=64',
    'preallocation=metadata',
  ]) {
    it(`reads and goes on: -o ${options}`, () =>
      inFolder(async (folder) => {
        const image = join(folder, 'a.qcow2');
        await tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, image, SIZE);
        await scribble(image);
        await assertSame(image);
        const model = await readAll(image);
        const graph = new BlockGraph();
        const node = await graph.openImage(image);
        for (const [at, length] of [
          [1000, 90_000],
          [2 ** 21, 2 ** 20],
          [model.byteLength - 5, 5],
        ] as const) {
          const bytes = Buffer.alloc(length, 99);
          bytes.copy(model, at);
          await node.write(at, bytes);
        }
        await graph.closeAll();
        assert.equal(Buffer.compare(await readByQemu(image), model), 0);
        await tool('qemu-img', 'check', image);
      }));
  }

  it('follows a chain of relative backing files of several formats and lengths', () =>
    inFolder(async (folder) => {
      const at = (name: string): string => join(folder, name);
      await writeFile(at('base.raw'), Buffer.alloc(2 ** 21, 3));
      await tool(
        'qemu-img',
        'create',
        '-q',
        '-f',
        'qcow2',
        '-b',
        'base.raw',
        '-F',
        'raw',
        at('mid.qcow2'),
        '4M',
      );
      await tool(
        'qemu-io',
        '-f',
        'qcow2',
        '-c',
        'write -P 4 1M 100k',
        '-c',
        'write -P 5 3M 10k',
        at('mid.qcow2'),
      );
      await tool(
        'qemu-img',
        'create',
        '-q',
        '-f',
        'qcow2',
        '-b',
        'mid.qcow2',
        '-F',
        'qcow2',
        at('top.qcow2'),
        SIZE,
      );
      await tool(
        'qemu-io',
        '-f',
        'qcow2',
        '-c',
        'write -P 6 1100k 10k',
        '-c',
        'write -z 0 128k',
        at('top.qcow2'),
      );
      await assertSame(at('top.qcow2'));
    }));

  it('reads compressed clusters, deflate and zstd, and replaces them', () =>
    inFolder(async (folder) => {
      const raw = Buffer.alloc(3 * 2 ** 20);
      for (let at = 0; at < raw.byteLength; at++) raw[at] = (at >> 9) ^ (at % 251);
      await writeFile(join(folder, 'a.raw'), raw);
      for (const [cluster, type] of [
        ['64k', 'zlib'],
        ['4k', 'zlib'],
        ['64k', 'zstd'],
        ['4k', 'zstd'],
        ['2M', 'zstd'],
      ] as const) {
        const image = join(folder, `c${cluster}-${type}.qcow2`);
        const options = ['-o', `cluster_size=${cluster},compression_type=${type}`];
        await tool(
          'qemu-img',
          'convert',
          '-c',
          '-f',
          'raw',
          '-O',
          'qcow2',
          ...options,
          join(folder, 'a.raw'),
          image,
        );
        assert.equal(Buffer.compare(await readAll(image), raw), 0);
        const graph = new BlockGraph();
        const node = await graph.openImage(image);
        await node.write(70_001, Buffer.alloc(10_000, 1));
        await node.writeZeroes(2 ** 20, 2 ** 19);
        await graph.closeAll();
        const want = Buffer.from(raw)
          .fill(1, 70_001, 80_001)
          .fill(0, 2 ** 20, 2 ** 20 + 2 ** 19);
        assert.equal(Buffer.compare(await readByQemu(image), want), 0);
        await tool('qemu-img', 'check', image);
      }
    }));

  it('clears the autoclear bits before the first write, and keeps them when it only reads', () =>
    inFolder(async (folder) => {
      const image = join(folder, 'a.qcow2');
      await tool('qemu-img', 'create', '-q', '-f', 'qcow2', image, SIZE);
      await poke(image, 88, '0000000000000200');
      await readAll(image);
      assert.equal((await readFile(image)).readBigUInt64BE(88), 0x200n);
      const graph = new BlockGraph();
      const node = await graph.openImage(image);
      await node.write(0, Buffer.alloc(1));
      await graph.closeAll();
      assert.equal((await readFile(image)).readBigUInt64BE(88), 0n);
    }));

  it('repairs the refcounts of a dirty image', () =>
    inFolder(async (folder) => {
      const image = join(folder, 'a.qcow2');
      await tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'lazy_refcounts=on', image, SIZE);
      await runTool('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 0 1M', '-c', 'flush', '-c', 'abort', image);
      assert.equal((await readFile(image)).readBigUInt64BE(72), 1n, 'QEMU left it dirty');
      const graph = new BlockGraph();
      const node = await graph.openImage(image);
      await node.write(2 ** 21, Buffer.alloc(2 ** 18, 8));
      await graph.closeAll();
      assert.equal((await readFile(image)).readBigUInt64BE(72), 0n);
      await tool('qemu-img', 'check', image);
      const all = await readByQemu(image);
      assert.ok(all[0] === 7 && all[2 ** 20 - 1] === 7 && all[2 ** 21] === 8);
    }));

  it('reads an image with internal snapshots, but does not write it', () =>
    inFolder(async (folder) => {
      const image = join(folder, 'a.qcow2');
      await tool('qemu-img', 'create', '-q', '-f', 'qcow2', image, SIZE);
      await scribble(image);
      await tool('qemu-img', 'snapshot', '-c', 's', image);
      await assertSame(image);
      await assert.rejects(new BlockGraph().openImage(image), /internal snapshots/);
    }));

  it('refuses a chain that comes back to itself', () =>
    inFolder(async (folder) => {
      const image = join(folder, 'a.qcow2');
      await tool('qemu-img', 'create', '-q', '-f', 'qcow2', image, SIZE);
      await tool('qemu-img', 'rebase', '-u', '-b', 'a.qcow2', '-F', 'qcow2', image);
      const graph = new BlockGraph();
      await assert.rejects(graph.openImage(image, { readOnly: true }), /infinite loop/);
      assert.equal(graph.list().nodes.length, 0);
    }));

  for (const [what, at, hex, text] of [
    ['version 4', 4, '00000004', 'Unsupported qcow2 version 4'],
    ['cluster_bits 8', 20, '00000008', 'Unsupported cluster size: 2^8'],
    ['cluster_bits 22', 20, '00000016', 'Unsupported cluster size: 2^22'],
    ['crypt 3', 32, '00000003', 'Unsupported encryption method 3'],
    ['refcount_order 7', 96, '00000007', 'Reference count entry width too large; may not exceed 64 bits'],
    ['header_length 96', 100, '00000060', 'qcow2 header too short'],
    ['l1_size 0', 36, '00000000', 'L1 table is too small'],
    ['L1 offset 1', 40, '0000000000000001', 'Active L1 table offset invalid'],
    ['backing name of 1024', 8, '000000000000020000000400', 'Backing file name too long'],
    ['no refcount table', 56, '00000000', 'Image does not contain a reference count table'],
    [
      'incompatible bit 7',
      72,
      '0000000000000080',
      'Unsupported qcow2 feature(s): Unknown incompatible feature: 80',
    ],
    ['corrupt bit', 72, '0000000000000002', 'qcow2: Image is corrupt; cannot be opened read/write'],
    [
      'compression bit',
      72,
      '0000000000000008',
      'qcow2: Compression type incompatible feature bit must not be set',
    ],
  ] as const) {
    it(`refuses ${what} with QEMU's words`, () =>
      inFolder(async (folder) => {
        const image = join(folder, 'a.qcow2');
        await tool('qemu-img', 'create', '-q', '-f', 'qcow2', image, SIZE);
        await poke(image, at, hex);
        const theirs = await runTool('qemu-io', '-f', 'qcow2', '-c', 'write 0 512', image);
        assert.ok(theirs.stderr.includes(text), `QEMU: ${theirs.stderr}`);
        await assert.rejects(new BlockGraph().openImage(image, { format: 'qcow2' }), { message: text });
      }));
  }
});

describe('qcow2 features that nobody knows', { skip: missingTools }, () => {
  // The feature name table of QEMU 7.2 begins behind the header's 112 bytes and the extension's 8.
  const entry = (index: number): number => 120 + index * 48;
  const named = (bit: string, name: string): string =>
    `00${bit}` + Buffer.from(name.padEnd(46, '\0')).toString('hex');

  for (const [what, mask, entries, text] of [
    ['without a name', '0000000000000180', [], 'Unknown incompatible feature: 180'],
    ['with a name', '0000000000000080', [[0, named('07', 'time travel')]], 'time travel'],
    [
      'with names and without, in the order of the table',
      '80000000000001a0',
      [
        [1, named('08', 'x'.repeat(46))],
        [3, named('07', 'time travel')],
      ],
      `${'x'.repeat(46)}, time travel, Unknown incompatible feature: 8000000000000020`,
    ],
  ] as const) {
    it(`are refused by name as QEMU does: ${what}`, () =>
      inFolder(async (folder) => {
        const image = join(folder, 'a.qcow2');
        await tool('qemu-img', 'create', '-q', '-f', 'qcow2', image, SIZE);
        for (const [index, hex] of entries) await poke(image, entry(index), hex);
        await poke(image, 72, mask);
        const message = `Unsupported qcow2 feature(s): ${text}`;
        const theirs = await runTool('qemu-img', 'info', image);
        assert.ok(theirs.stderr.trim().endsWith(message), theirs.stderr);
        await assert.rejects(new BlockGraph().openImage(image, { readOnly: true }), { message });
      }));
  }

  it('leave extensions, names and compatible features where they are, through a resize and a repair', () =>
    inFolder(async (folder) => {
      const image = join(folder, 'a.qcow2');
      await tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', image, SIZE);
      // An unknown extension behind the name table, a compatible bit, and the dirty bit.
      await poke(image, 112 + 8 + 384, '1234567800000005' + Buffer.from('abcde').toString('hex') + '000000');
      await poke(image, 80, '0000000000000100');
      await poke(image, 72, '0000000000000001');
      const before = (await readFile(image)).subarray(80, 4096);
      const graph = new BlockGraph();
      const node = await graph.openImage(image);
      await node.driver.truncate?.(2 ** 33);
      await node.write(2 ** 33 - 1000, Buffer.alloc(1000, 1));
      await graph.closeAll();
      assert.equal(Buffer.compare((await readFile(image)).subarray(80, 4096), before), 0);
      await tool('qemu-img', 'check', image);
    }));

  for (const [what, options, text] of [
    ['extended L2 entries', 'extended_l2=on', /extended L2 entries are not supported/],
    ['an external data file', 'data_file=DATA', /external data file are not supported/],
  ] as const) {
    it(`refuses ${what} by name`, () =>
      inFolder(async (folder) => {
        const image = join(folder, 'a.qcow2');
        const made = options.replace('DATA', join(folder, 'data'));
        await tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', made, image, SIZE);
        await assert.rejects(new BlockGraph().openImage(image, { readOnly: true }), text);
      }));
  }
});

async function poke(image: string, at: number, hex: string): Promise<void> {
  const handle = await open(image, 'r+');
  await handle.write(Buffer.from(hex, 'hex'), 0, hex.length / 2, at);
  await handle.close();
}
