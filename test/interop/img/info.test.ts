/** `colo img info` and `map` beside qemu-img: the same bytes for every kind of image, both forms of output. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { mkdir, open, readFile, truncate, writeFile } from 'node:fs/promises';
import { createQcow2 } from '../../../src/block/drivers/qcow2/create.ts';
import { decodeHeader, encodeHeader } from '../../../src/block/drivers/qcow2/header.ts';
import { inOne, missingTools, ours, tool } from './helpers.ts';
import type { Both } from './helpers.ts';

/** What our drivers cannot open: told by `info` alone. */
const HEADER_ONLY = [
  'aes.qcow2',
  'luks.qcow2',
  'essiv.qcow2',
  'data-file.qcow2',
  'subclusters.qcow2',
  'zstd.qcow2',
];
const IMAGES = [
  ...['odd.raw', 'sparse.raw', 'empty.raw', 'a.qcow2', 'b.qcow2', 'c.qcow2', 'over.qcow2', 'sub/b.qcow2'],
  'placed.qcow2',
  ...['snapshots.qcow2', 'old.qcow2', 'lazy.qcow2', 'bitmaps.qcow2', 'dirty.qcow2'],
];

describe('colo img info and map beside qemu-img', { skip: missingTools }, () => {
  // One set of images for all: these commands only look.
  let release: () => void = () => undefined;
  let images: Both | null = null;
  let folder: Promise<void>;
  before(async () => {
    await new Promise<void>((ready, failed) => {
      folder = inOne(makeImages, (both) => {
        images = both;
        ready();
        return new Promise((resolve) => (release = resolve));
      });
      folder.catch(failed);
    });
  });
  after(async () => {
    release();
    await folder;
  });
  async function withImages(act: (both: Both) => Promise<void>): Promise<void> {
    assert.ok(images);
    await act(images);
  }

  it('say the same of every image', () =>
    withImages(async (both) => {
      for (const image of [...IMAGES, ...HEADER_ONLY]) {
        await both.alike(`info ${image}`);
        await both.alike(`info --output=json ${image}`);
        if (HEADER_ONLY.includes(image)) continue;
        await both.alike(`map ${image}`);
        await both.alike(`map --output=json ${image}`);
      }
      await both.alike('info missing-backing.qcow2');
      for (const image of ['b.qcow2', 'sub/b.qcow2', 'a.qcow2']) {
        await both.alike(`info --backing-chain ${image}`);
        await both.alike(`info --backing-chain --output=json ${image}`);
      }
      await both.failsAlike('info --backing-chain missing-backing.qcow2');
    }));

  it('map parts of an image', () =>
    withImages(async (both) => {
      for (const part of [
        ...[
          '--start-offset 64k --max-length 100k',
          '--start-offset 1000k',
          '-s 700',
          '-l 1M',
          '--max-length 0',
        ],
        '--start-offset 200M',
      ]) {
        await both.alike(`map ${part} b.qcow2`);
        await both.alike(`map --output=json ${part} b.qcow2`);
        await both.alike(`map --output=json ${part} odd.raw`);
      }
    }));

  it('take names as options and as json:', () =>
    withImages(async (both) => {
      for (const line of `info --image-opts driver=qcow2,file.filename=a.qcow2
info --image-opts driver=raw,file.filename=a.qcow2
info --image-opts driver=raw,file.filename=a.qcow2,offset=512
info --image-opts driver=raw,file.filename=a.qcow2,offset=512,size=1024
info --image-opts file.filename=b.qcow2
info --image-opts driver=file,filename=b.qcow2
map --image-opts driver=qcow2,file.filename=b.qcow2
info file:odd.raw
info ./odd.raw
info json:{"driver":"raw","file":{"driver":"file","filename":"odd.raw"}}
info json:{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"}}
info -U a.qcow2
info --format raw a.qcow2
map -U -f raw --output=json a.qcow2`.split('\n'))
        await both.alike(line);
    }));

  it('fail the same', () =>
    withImages(async (both) => {
      for (const line of `info missing
info --output=json missing
map missing
info -f foo odd.raw
info -f qcow2 odd.raw
map -f qcow2 odd.raw
info --output=foo a.qcow2
map --output=foo a.qcow2
map --start-offset zz a.qcow2
map --start-offset=-1 a.qcow2
map --max-length zz a.qcow2
map --start-offset 9E a.qcow2
info --image-opts -f qcow2 driver=qcow2,file.filename=a.qcow2
info nbd://127.0.0.1:1/x`.split('\n'))
        await both.failsAlike(line);
      await both.failsAlike(['info', '']);
      for (const line of ['info', 'map', 'info a b', 'info --foo a']) {
        const [a, b] = await both.run(line);
        assert.equal(a.code, b.code, line);
        assert.match(a.stderr, /^error: /, line);
      }
    }));

  it('rounds sizes as qemu-img does', () =>
    inOne(makeSizes, async (both) => {
      for (const size of SIZES) await both.alike(`info -f raw ${size}.raw`);
    }));

  it('a backing file that is its own ancestor ends in an error', () =>
    withImages(async (both) => {
      await both
        .in('ours', async () => {
          await tool(
            'qemu-img',
            'create',
            '-u',
            '-q',
            '-f',
            'qcow2',
            '-b',
            'loop.qcow2',
            '-F',
            'qcow2',
            'loop.qcow2',
            '1M',
          );
        })
        .catch(() => undefined);
      await both.in('ours', async () => {
        await tool('qemu-img', 'create', '-u', '-q', '-f', 'qcow2', '-b', 'two', '-F', 'qcow2', 'one', '1M');
        await tool('qemu-img', 'create', '-u', '-q', '-f', 'qcow2', '-b', 'one', '-F', 'qcow2', 'two', '1M');
        for (const command of ['map', 'info --backing-chain']) {
          const { code, stderr } = await ours(...command.split(' '), 'one');
          assert.equal(code, 1);
          assert.match(stderr, /creates an infinite loop/);
        }
      });
    }));
});

const SIZES = [
  ...[1, 999, 1025, 9999, 102399, 720896, 721408, 1022976, 1023488, 1023489, 1047552, 1048064, 1048575],
  ...[104805171, 104805172, 1072693248, 1073741312, 1099511627264, 123456789012, 11000000000000],
];

async function makeSizes(): Promise<void> {
  for (const size of SIZES) {
    await writeFile(`${size}.raw`, '');
    await truncate(`${size}.raw`, size);
  }
}

async function makeImages(): Promise<void> {
  const create = (...args: string[]): Promise<string> =>
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', ...args);
  const write = (image: string, ...commands: string[]): Promise<string> =>
    tool('qemu-io', '-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), image);
  await writeFile('odd.raw', Buffer.alloc(700, 'x'));
  await writeFile('empty.raw', '');
  await writeFile('sparse.raw', '');
  await truncate('sparse.raw', 10 * 2 ** 20);
  const handle = await open('sparse.raw', 'r+');
  await handle.write(Buffer.from('hello'), 0, 5, 5_000_000);
  await handle.close();
  await create('a.qcow2', '100M');
  await write(
    'a.qcow2',
    'write 0 300k',
    'write -z 1M 1M',
    'write -z -u 4M 1M',
    'write 8M 64k',
    'write -z 8M 64k',
  );
  await create('-b', 'a.qcow2', '-F', 'qcow2', 'b.qcow2', '120M');
  await write('b.qcow2', 'write 100k 300k', 'write -c -P 5 10M 64k');
  await create('-b', 'odd.raw', '-F', 'raw', 'c.qcow2');
  await create('-b', 'sparse.raw', '-F', 'raw', 'over.qcow2', '20M');
  await write(
    'over.qcow2',
    'discard 5M 64k',
    'write -z 19M 100k',
    'write 7M 64k',
    'write 6M 64k',
    'write 6208k 64k',
  );
  await mkdir('sub');
  await create('-u', '-b', '../b.qcow2', '-F', 'qcow2', 'sub/b.qcow2', '1M');
  await create('-u', '-b', 'gone.raw', '-F', 'raw', 'missing-backing.qcow2', '1M');
  await create('snapshots.qcow2', '1M');
  await tool('qemu-img', 'snapshot', '-c', 's1', 'snapshots.qcow2');
  await tool('qemu-img', 'snapshot', '-c', 'snapshot-with-a-long-name', 'snapshots.qcow2');
  await create('-o', 'compat=0.10', 'old.qcow2', '1M');
  await create('-o', 'lazy_refcounts=on,cluster_size=4k,refcount_bits=1', 'lazy.qcow2', '1M');
  await create('-o', 'lazy_refcounts=on', 'dirty.qcow2', '1M');
  const dirty = await open('dirty.qcow2', 'r+');
  await dirty.write(Buffer.from([1]), 0, 1, 79);
  await dirty.close();
  await create('-o', 'preallocation=metadata', 'placed.qcow2', '10M');
  await write('placed.qcow2', 'write 1M 100k', 'write -z 3M 64k');
  await create('bitmaps.qcow2', '1M');
  await tool('qemu-img', 'bitmap', '--add', 'bitmaps.qcow2', 'b0');
  await tool('qemu-img', 'bitmap', '--add', '-g', '128k', 'bitmaps.qcow2', 'b1');
  await tool('qemu-img', 'bitmap', '--disable', 'bitmaps.qcow2', 'b1');
  await create(
    '--object',
    'secret,id=s,data=abc',
    '-o',
    'encrypt.format=aes,encrypt.key-secret=s',
    'aes.qcow2',
    '1M',
  );
  await writeLuks('luks.qcow2', 'xts-plain64');
  await writeLuks('essiv.qcow2', 'cbc-essiv:sha256');
  await create('-o', 'data_file=data.raw,data_file_raw=on', 'data-file.qcow2', '1M');
  await create('-o', 'extended_l2=on,cluster_size=128k', 'subclusters.qcow2', '1M');
  await create('-o', 'compression_type=zstd', 'zstd.qcow2', '1M');
}

/** An image with a LUKS header without keys: making a real one takes qemu-img seconds, and it fails on a busy machine. */
async function writeLuks(image: string, mode: string): Promise<void> {
  await createQcow2(image, { sizeBytes: 2 ** 20 });
  const file = await readFile(image);
  const pointer = new Uint8Array(16);
  new DataView(pointer.buffer).setBigUint64(0, BigInt(file.byteLength));
  new DataView(pointer.buffer).setBigUint64(8, BigInt(2_068_480));
  const header = encodeHeader(
    { ...decodeHeader(file), cryptMethod: 2 },
    [{ type: 0x0537be77, data: pointer }],
    null,
  );
  file.set(header);
  const luks = Buffer.alloc(2_068_480);
  luks.write('LUKS\xba\xbe', 'latin1');
  luks.writeUInt16BE(1, 6);
  luks.write('aes', 8);
  luks.write(mode, 40);
  luks.write('sha256', 72);
  luks.writeUInt32BE(luks.byteLength / 512, 104);
  luks.writeUInt32BE(mode.startsWith('xts') ? 64 : 32, 108);
  luks.writeUInt32BE(12_191, 164);
  luks.write('7d23969d-addb-41cf-a8e0-4b837c077cb8', 168);
  for (let slot = 0; slot < 8; slot++) {
    const at = 208 + slot * 48;
    luks.writeUInt32BE(slot === 0 ? 0x00ac71f3 : 0x0000dead, at);
    luks.writeUInt32BE(slot === 0 ? 49_349 : 0, at + 4);
    luks.writeUInt32BE(8 + slot * 504, at + 40);
    luks.writeUInt32BE(4000, at + 44);
  }
  await writeFile(image, Buffer.concat([file, luks]));
}
