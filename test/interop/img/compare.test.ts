/** `colo img compare` beside qemu-img compare: verdicts, offsets, exit codes, strict mode. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { copyFile, truncate, writeFile } from 'node:fs/promises';
import { inOne, missingTools, tool } from './helpers.ts';

const ALIKE = `compare a.raw a.raw
compare a.raw b.raw
compare a.raw longer.raw
compare -s a.raw longer.raw
compare a.raw longer-else.raw
compare longer-else.raw a.raw
compare b.raw longer.raw
compare odd.raw a.raw
compare odd.raw odd.raw
compare -q a.raw b.raw
compare a.raw a.qcow2
compare -f raw -F qcow2 a.raw a.qcow2
compare -s a.raw a.qcow2
compare -s a.raw b.raw
compare -s whole.raw whole.qcow2
compare -s whole.raw packed.qcow2
compare -s whole.qcow2 packed.qcow2
compare whole.qcow2 packed.qcow2
compare unallocated.qcow2 zero.qcow2
compare -s unallocated.qcow2 zero.qcow2
compare -s unallocated.qcow2 zeros-written.qcow2
compare unallocated.qcow2 zeros-written.qcow2
compare -s hole.raw unallocated.qcow2
compare -s hole.raw hole.raw
compare -s over.qcow2 zero.qcow2
compare -s over-written.qcow2 zeros-written.qcow2
compare -s zero.qcow2 zero-placed.qcow2
compare -p a.raw b.raw
compare -p whole.raw whole.raw
compare -p -q a.raw a.raw
compare -U -T unsafe a.raw a.qcow2
compare --image-opts driver=raw,file.filename=a.raw driver=raw,file.filename=b.raw`.split('\n');

const FAILS = `compare missing a.raw
compare a.raw missing
compare -f qcow2 a.raw a.raw
compare -F qcow2 a.raw a.raw
compare -f foo a.raw a.raw
compare -T foo a.raw b.raw
compare --image-opts -f raw a b`.split('\n');

describe('colo img compare beside qemu-img', { skip: missingTools }, () => {
  it('has the same verdicts, and fails the same', () =>
    inOne(makeImages, async (both) => {
      for (const line of ALIKE) await both.alike(line);
      for (const line of FAILS) await both.failsAlike(line);
      for (const line of ['compare', 'compare a.raw', 'compare a b c', 'compare -x a b']) {
        const [a, b] = await both.run(line);
        assert.equal(a.code, b.code, line);
        assert.match(a.stderr, /^error: /, line);
      }
    }));
});

async function makeImages(): Promise<void> {
  const io = (image: string, ...commands: string[]): Promise<string> =>
    tool('qemu-io', '-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), image);
  const create = (...args: string[]): Promise<string> =>
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', ...args);
  const bytes = Buffer.alloc(1_000_000, 1);
  await writeFile('a.raw', bytes);
  await copyFile('a.raw', 'longer.raw');
  await truncate('longer.raw', 2 ** 21);
  const long = Buffer.alloc(2 ** 21);
  long.set(bytes);
  long[1_500_001] = 1;
  await writeFile('longer-else.raw', long);
  bytes[70_001] = 2;
  await writeFile('b.raw', bytes);
  await writeFile('odd.raw', Buffer.alloc(700, 1));
  await writeFile('whole.raw', Buffer.alloc(2 ** 20, 3));
  await writeFile('hole.raw', '');
  await truncate('hole.raw', 2 ** 20);
  await tool('qemu-img', 'convert', '-O', 'qcow2', 'a.raw', 'a.qcow2');
  await tool('qemu-img', 'convert', '-O', 'qcow2', 'whole.raw', 'whole.qcow2');
  await tool('qemu-img', 'convert', '-c', '-O', 'qcow2', 'whole.raw', 'packed.qcow2');
  for (const image of ['unallocated', 'zero', 'zeros-written']) await create(`${image}.qcow2`, '1M');
  await io('zero.qcow2', 'write -z 64k 64k', 'write -z 320k 64k');
  await io('zeros-written.qcow2', 'write -P 0 128k 64k');
  await create('-b', 'zero.qcow2', '-F', 'qcow2', 'over.qcow2');
  await create('-b', 'zeros-written.qcow2', '-F', 'qcow2', 'over-written.qcow2');
  await create('zero-placed.qcow2', '1M');
  await io('zero-placed.qcow2', 'write -z 64k 64k', 'write 320k 64k', 'write -z 320k 64k');
}
