/** `colo img create` beside qemu-img create: what it says, what it makes, how it fails. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { stat, writeFile } from 'node:fs/promises';
import { inBoth, missingTools, ours, tool } from './helpers.ts';

const SAYS = `create -f raw -o size=2M a
create -f raw -o preallocation=off a 1M
create -f raw -o preallocation=falloc a 1M
create -f raw -o preallocation=full a 1M
create -f raw -o size=1M -o size=2M a
create -f raw -o extent_size_hint=0,nocow=off,preallocation=off,size=1M a
create a 1M
create file:a 1M
create -q a 1M
create -f qcow2 a 10M
create -f qcow2 a 0
create -f qcow2 a 3
create -f qcow2 a 1P
create -f qcow2 -o cluster_size=4k,compat=0.10 a 1.5G
create -f qcow2 -o cluster_size=4k -o compat=v3 a 1G
create -f qcow2 -o refcount_bits=1,lazy_refcounts=on a 1G
create -f qcow2 -o refcount_bits=0x10,lazy_refcounts a 1M
create -f qcow2 -o nolazy_refcounts a 1M
create -f qcow2 -o preallocation=metadata a 1M
create -f qcow2 -o preallocation=falloc a 1M
create -f qcow2 -o preallocation=full a 1M
create -f qcow2 -b base.raw -F raw a
create -f qcow2 -b base.raw -F raw a 512k
create -f qcow2 -b a,b -F raw a
create -f qcow2 -o backing_file=base.raw,backing_fmt=raw,cluster_size=4k a
create -f qcow2 -o backing_file=a,,b,backing_fmt=raw a
create -f qcow2 -u -b missing -F raw a 1M
create -f qcow2 -q -o help
create -f qcow2 -o ?
create -f qcow2 -o help a
create -f raw -o help
create -f raw -o help a`.split('\n');

const FAILS = `create -f foo a 1M
create -f foo -o help
create -f raw
create -f raw a
create -f raw -o size=2M a 1M
create -f raw -o foo=1 a 1M
create -f raw -o foo a 1M
create -f raw -o ,size=1 a
create -f raw -o size=1, a
create -f raw -o size=zz a
create -f raw -o preallocation=metadata a 1M
create -f raw -o preallocation=foo a 1M
create -f raw -o nocow=x a 1M
create -f raw -b base.raw a 1M
create -f raw . 1M
create -f raw /nonexist/a 1M
create -f raw a 1E
create -f raw a 9007199254740993
create -f qcow2 a 1E
create -f qcow2 . 1M
create -f qcow2 /nonexist/a 1M
create -f qcow2 -b base.raw a 1M
create -f qcow2 -b a -F raw a
create -f qcow2 -b missing -F raw a
create -f qcow2 -u -b missing -F raw a
create -f qcow2 -u -b missing a 1M
create -f qcow2 -b base.raw -F foo a 1M
create -f qcow2 -F qcow2 a 1M
create -f qcow2 -o cluster_size=3k a 1M
create -f qcow2 -o cluster_size=256 a 1M
create -f qcow2 -o cluster_size=4M a 1M
create -f qcow2 -o cluster_size=512 a 1T
create -f qcow2 -o compat=2 a 1M
create -f qcow2 -o compat=0.10,refcount_bits=8 a 1M
create -f qcow2 -o compat=0.10,lazy_refcounts=on a 1M
create -f qcow2 -o refcount_bits=3 a 1M
create -f qcow2 -o refcount_bits=128 a 1M
create -f qcow2 -o refcount_bits=x a 1M
create -f qcow2 -o lazy_refcounts=maybe a 1M
create -f qcow2 -o preallocation=zzz a 1M
create -f qcow2 -o preallocation=metadata -b base.raw -F raw a
create -f qcow2 -o compression_type=lzo a 1M
create -f qcow2 -o data_file_raw=on a 1M`.split('\n');

const SIZES = ['1', '1.5k', '1b', '0x10', '+5', '1.1M', '1.0001k', '5.k', ' 5'];
const NO_SIZES = [
  ...['1.5', '.5k', '0.5', '1e3', '8E', '0x1.8k', '', 'k', '1kk', '1.5b', '1k5', '999999999999999999999'],
  ...['nan', 'inf', '1M,', '5 '],
];

describe('colo img create beside qemu-img', { skip: missingTools }, () => {
  it('says the same and makes the same image', () =>
    inBoth(makeBases, async (both) => {
      const infoWithoutDisk = async (side: 'ours' | 'theirs'): Promise<string> =>
        (await both.in(side, () => tool('qemu-img', 'info', 'a'))).replace(/disk size.*/, '');
      for (const line of SAYS) {
        await both.alike(line);
        if (/help|\?/.test(line)) continue;
        // Its backing file is missing.
        if (line.includes('-u')) continue;
        assert.equal(await infoWithoutDisk('ours'), await infoWithoutDisk('theirs'), line);
        if (line.includes('qcow2'))
          await both.in('ours', () => tool('qemu-img', 'check', '-f', 'qcow2', 'a'));
      }
    }));

  it('fails the same', () =>
    inBoth(makeBases, async (both) => {
      for (const line of FAILS) await both.failsAlike(line);
      await both.failsAlike(['create', '-f', 'qcow2', '-b', '', '-F', 'raw', 'a']);
    }));

  it('reads sizes the same', () =>
    inBoth(makeBases, async (both) => {
      for (const size of SIZES) await both.alike(['create', 'a', size]);
      for (const size of NO_SIZES) await both.failsAlike(['create', 'a', size]);
    }));

  it('gives a preallocated file its place, and a sparse one none', () =>
    inBoth(makeBases, async (both) => {
      await both.in('ours', async () => {
        for (const [mode, atLeast, atMost] of [
          ['off', 0, 4096],
          ['falloc', 2 ** 20, Infinity],
          ['full', 2 ** 20, Infinity],
        ] as const) {
          assert.equal((await ours('create', '-o', `preallocation=${mode}`, 'a', '1M')).code, 0);
          const { blocks, size } = await stat('a');
          assert.equal(size, 2 ** 20);
          assert.ok(blocks * 512 >= atLeast && blocks * 512 <= atMost, `${mode}: ${blocks} blocks`);
        }
      });
    }));

  it('refuses by name what it has not', () =>
    inBoth(makeBases, async (both) => {
      await both.in('ours', async () => {
        for (const [options, name] of [
          ['extended_l2=on', /extended_l2=on/],
          ['compression_type=zstd', /compression_type=zstd/],
          ['encryption=on', /encryption=on/],
          ['encrypt.format=luks', /encrypt\.format=luks/],
          ['data_file=d', /data_file=d/],
          ['nocow=on', /nocow=on/],
          ['extent_size_hint=1M', /extent_size_hint/],
        ] as const) {
          const { code, stderr } = await ours('create', '-q', '-f', 'qcow2', '-o', options, 'a', '1M');
          assert.equal(code, 1, options);
          assert.match(stderr, name);
        }
        assert.match((await ours('create', '--object', 'x', 'a', '1M')).stderr, /--object is not supported/);
        assert.match(
          (await ours('create', '-f', 'qcow2', 'nbd://localhost/x', '1M')).stderr,
          /does not support image creation/,
        );
      });
    }));

  it('takes -1M for an option, as getopt does', async () => {
    assert.match((await ours('create', 'a', '-1M')).stderr, /unknown option/);
  });
});

async function makeBases(): Promise<void> {
  await writeFile('base.raw', Buffer.alloc(1_000_000, 'x'));
  await writeFile('a,b', 'x');
}
