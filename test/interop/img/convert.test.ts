/** `colo img convert` beside qemu-img convert: what is copied, what stays a hole, what is refused. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, it } from 'node:test';
import { copyFile, open, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { inBoth, inOne, missingTools, ours, theirs, tool } from './helpers.ts';

const MiB = 2 ** 20;

/** Convert to `o`; the source that it must equal, if a single one. */
const COPIES: readonly (readonly [string, string | null])[] = [
  ['a.raw o', 'a.raw'],
  ['-O qcow2 sparse.raw o', 'sparse.raw'],
  ['sparse.raw o', 'sparse.raw'],
  ['-O qcow2 -o size=5M a.raw o', 'a.raw'],
  ['-O qcow2 -o cluster_size=4k,compat=v2 sparse.raw o', 'sparse.raw'],
  ['-O qcow2 -o preallocation=metadata a.raw o', 'a.raw'],
  ['-o preallocation=full sparse.raw o', 'sparse.raw'],
  ['-O qcow2 -S 0 sparse.raw o', 'sparse.raw'],
  ['-S 0 sparse.raw o', 'sparse.raw'],
  ['-S 64k sparse.raw o', 'sparse.raw'],
  ['-S 512 sparse.raw o', 'sparse.raw'],
  ['-W -m 16 sparse.raw o', 'sparse.raw'],
  ['-m 1 sparse.raw o', 'sparse.raw'],
  ['-r 100M a.raw o', 'a.raw'],
  ['--salvage -q -U -t writethrough -T writeback a.raw o', 'a.raw'],
  ['-C a.raw o', 'a.raw'],
  ['odd.raw o', 'odd.raw'],
  ['a.raw odd.raw sparse.raw o', null],
  ['-O qcow2 a.qcow2 o', 'a.qcow2'],
  ['-O qcow2 over.qcow2 o', 'over.qcow2'],
  ['-c -O qcow2 sparse.raw o', 'sparse.raw'],
  ['-c -W -O qcow2 -o cluster_size=4k over.qcow2 o', 'over.qcow2'],
  ['-c -S 0 -O qcow2 sparse.raw o', 'sparse.raw'],
  ['-c -O qcow2 odd.raw a.raw o', null],
  ['-O qcow2 -B a.qcow2 -F qcow2 over.qcow2 o', 'over.qcow2'],
  ['-O qcow2 -o backing_file=a.qcow2,backing_fmt=qcow2 sparse.raw o', 'sparse.raw'],
  ['--image-opts driver=raw,file.filename=a.raw o', 'a.raw'],
];

const FAILS = `convert
convert a.raw
convert -O foo a.raw o
convert missing o
convert -f qcow2 a.raw o
convert -n a.raw missing
convert -n -o size=1 a.raw o
convert --target-is-zero a.raw o
convert -m 0 a.raw o
convert -m 17 a.raw o
convert -m x a.raw o
convert -S 3 a.raw o
convert -S zz a.raw o
convert -S 32M a.raw o
convert -c a.raw o
convert -r foo a.raw o
convert -t foo a.raw o
convert -T foo a.raw o
convert -O qcow2 -o cluster_size=3k a.raw o
convert -O qcow2 -o foo=1 a.raw o
convert -O qcow2 -o ,x a.raw o
convert a.raw a.raw
convert -B a.raw -F raw a.raw o
convert -O qcow2 -B a.raw odd.raw o
convert -O qcow2 -B a.raw -F raw a.raw odd.raw o
convert -O qcow2 -F raw a.raw o
convert -n sparse.raw a.raw
convert --skip-broken-bitmaps a.raw o
convert -C -S 4k a.raw o
convert -C --salvage a.raw o
convert --target-image-opts a.raw driver=raw,file.filename=o
convert --image-opts -f raw a.raw o
convert a.raw /nonexist/o
convert -O qcow2 a.raw /nonexist/o
convert a.raw .
convert -o preallocation=metadata a.raw o`.split('\n');

describe('colo img convert beside qemu-img', { skip: missingTools }, () => {
  it('copies what qemu-img copies', () =>
    inBoth(makeImages, async (both) => {
      for (const [line, source] of COPIES) {
        await both.alike(`convert ${line}`);
        await both.in('ours', async () => {
          if (source !== null) await tool('qemu-img', 'compare', source, 'o');
          await tool('qemu-img', 'compare', 'o', '../theirs/o');
          if (line.includes('-O qcow2')) await tool('qemu-img', 'check', '-f', 'qcow2', 'o');
        });
      }
    }));

  it('leaves the same holes: nothing more than qemu-img is written', () =>
    inBoth(makeImages, async (both) => {
      for (const line of [
        'sparse.raw o',
        '-O qcow2 sparse.raw o',
        '-O qcow2 -B a.qcow2 -F qcow2 over.qcow2 o',
      ]) {
        await both.alike(`convert ${line}`);
        const clusters = async (): Promise<number[]> => {
          const found = new Set<number>();
          const extents = JSON.parse((await theirs('map', '--output=json', 'o')).stdout) as Extent[];
          for (const { start, length, depth, data } of extents) {
            // QEMU gives a new raw file its first block, to find out how the disk wants to be written.
            if (!data || depth > 0 || start === 0) continue;
            for (let at = start; at < start + length; at += 4096) found.add(Math.floor(at / 65_536));
          }
          return [...found];
        };
        assert.deepEqual(await both.in('ours', clusters), await both.in('theirs', clusters), line);
      }
      await both.alike('convert -c -O qcow2 a.raw o');
      const size = (): Promise<number> => stat('o').then((info) => info.size);
      assert.ok((await both.in('ours', size)) <= 2 * (await both.in('theirs', size)), 'compressed');
      await both.alike('convert -S 0 sparse.raw o');
      await both.in('ours', async () => assert.ok((await stat('o')).blocks * 512 >= 8 * MiB));
    }));

  it('writes into what is there', () =>
    inBoth(makeImages, async (both) => {
      await both.in('ours', async () => {
        await writeFile('o', Buffer.alloc(9 * MiB, 0xee));
        await truncate('o', 9 * MiB);
      });
      await both.in('theirs', () => copyFile('../ours/o', 'o'));
      await both.alike('convert -n sparse.raw o');
      await both.in('ours', async () => {
        const bytes = await readFile('o');
        assert.ok(bytes.subarray(0, 8 * MiB).equals(await readFile('sparse.raw')));
        assert.ok(bytes.subarray(8 * MiB).equals(Buffer.alloc(MiB, 0xee)), 'what is behind the source stays');
        await tool('qemu-img', 'create', '-q', '-f', 'qcow2', 'o', '8M');
      });
      await both.in('theirs', () => copyFile('../ours/o', 'o'));
      await both.alike('convert -n --target-is-zero -O qcow2 sparse.raw o');
      await both.alike('convert -n --target-image-opts sparse.raw driver=qcow2,file.filename=o');
      await both.alike('compare sparse.raw o');
    }));

  it('shows progress as qemu-img does', () =>
    inBoth(makeImages, async (both) => {
      await both.alike('convert -p -q a.raw o');
      const [a, b] = await both.run('convert -p sparse.raw o');
      const form = /^(?: {4}\(\d+\.\d\d\/100%\)\r)+\n$/;
      assert.match(b.stdout, form);
      assert.match(a.stdout, form);
      assert.match(a.stdout, /^ {4}\(0\.00\/100%\)\r.* {4}\(100\.00\/100%\)\r\n$/s);
    }));

  it('fails the same', () =>
    inBoth(makeImages, async (both) => {
      for (const line of FAILS) await both.failsAlike(line);
    }));

  it('refuses by name what it has not', () =>
    inBoth(makeImages, async (both) => {
      await both.in('ours', async () => {
        for (const [options, name] of [
          ['-l snap', /-l is not supported/],
          ['--bitmaps', /--bitmaps is not supported/],
          ['--object x', /--object is not supported/],
          ['-t none', /cache\.direct=on' is not supported/],
          ['-T directsync', /cache\.direct=on' is not supported/],
        ] as const) {
          const { code, stderr } = await ours('convert', ...options.split(' '), 'a.raw', 'o');
          assert.equal(code, 1, options);
          assert.match(stderr, name);
        }
      });
    }));

  it('writes to an NBD export, which need not be said to be there', () =>
    inOne(makeImages, async (both) => {
      await both.in('ours', async () => {
        const bytes = Buffer.alloc(9 * MiB, 0xee);
        await writeFile('o', bytes);
        const socket = `${process.cwd()}/sock`;
        // --fork: the parent ends when the child listens.
        const server = spawn('qemu-nbd', ['--fork', '-t', '--pid-file=pid', '-f', 'raw', '-k', socket, 'o'], {
          stdio: 'ignore',
        });
        assert.deepEqual(await once(server, 'exit'), [0, null]);
        try {
          const uri = `nbd+unix:///?socket=${socket}`;
          await both.alike(`convert a.raw ${uri}`);
          const { code, stderr } = await ours('convert', 'sparse.raw', uri);
          assert.equal(code, 0, stderr);
          const now = await readFile('o');
          assert.ok(now.subarray(0, 8 * MiB).equals(await readFile('sparse.raw')));
          assert.ok(now.subarray(8 * MiB).equals(bytes.subarray(8 * MiB)));
          await both.alike(`map ${uri}`);
          await both.alike(`info --output=json ${uri}`);
          await both.alike(`create ${uri} 9M`);
          await both.failsAlike(`create ${uri} 10M`);
          await both.failsAlike(`convert a.raw sparse.raw sparse.raw ${uri}`);
        } finally {
          process.kill(Number(await readFile('pid', 'utf8')));
        }
      });
    }));
});

interface Extent {
  readonly start: number;
  readonly length: number;
  readonly depth: number;
  readonly data: boolean;
}

async function makeImages(): Promise<void> {
  await writeFile('a.raw', Buffer.alloc(1_000_000, 1));
  await writeFile('odd.raw', Buffer.alloc(700, 2));
  await writeFile('sparse.raw', '');
  await truncate('sparse.raw', 8 * MiB);
  const handle = await open('sparse.raw', 'r+');
  await handle.write(Buffer.alloc(700_000, 7), 0, 700_000, 3 * MiB);
  await handle.write(Buffer.alloc(10, 8), 0, 10, 8 * MiB - 10);
  await handle.write(Buffer.alloc(100_000), 0, 100_000, MiB);
  await handle.close();
  const create = (...args: string[]): Promise<string> =>
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', ...args);
  const io = (image: string, ...commands: string[]): Promise<string> =>
    tool('qemu-io', '-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), image);
  await create('a.qcow2', '8M');
  await io('a.qcow2', 'write -P 3 0 300k', 'write -z 1M 1M', 'write -P 4 7M 10k', 'write -c -P 5 4M 64k');
  await create('-b', 'a.qcow2', '-F', 'qcow2', 'over.qcow2', '10M');
  await io('over.qcow2', 'write -P 6 64k 64k', 'write -z 7M 64k', 'write -P 9 9M 64k');
}
