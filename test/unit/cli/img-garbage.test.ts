/** Damaged images through the commands of `colo img`: an answer or one line of refusal, and never anything else. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { createQcow2 } from '../../../src/block/drivers/qcow2/create.ts';
import { ours } from '../../helpers/img.ts';

describe('colo img with damaged images', () => {
  let folder = '';
  let sound: Buffer;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'colo-img-garbage-'));
    await createQcow2(join(folder, 'sound'), {
      sizeBytes: 2 ** 20,
      clusterBits: 12,
      preallocation: 'metadata',
    });
    sound = await readFile(join(folder, 'sound'));
  });
  after(() => rm(folder, { recursive: true, force: true }));

  async function tryAll(bytes: Uint8Array): Promise<void> {
    const image = join(folder, 'image');
    await writeFile(image, bytes);
    for (const args of [
      ['info', '--output=json', image],
      ['check', image],
      ['map', image],
      ['compare', image, join(folder, 'sound')],
      ['convert', image, join(folder, 'out')],
      ['resize', '-f', 'qcow2', image, '+1M'],
    ]) {
      const { code, stdout, stderr } = await ours(...args);
      assert.ok([0, 1, 2, 3, 4, 63].includes(code), `${args.join(' ')}: ${code}`);
      assert.doesNotMatch(stderr + stdout, /^\s+at .*:\d+/m, 'a stack trace');
      // What check finds is told on lines of their own.
      const said = stderr.split('\n').filter((line) => line.startsWith('colo img: '));
      assert.ok(said.length <= (args[0] === 'check' ? 2 : 1), stderr);
      if (code === 1 && args[0] !== 'compare') assert.equal(said.length, 1, stderr);
    }
  }

  it('any bytes of the header or of the tables may be wrong', () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({
            at: fc.oneof(fc.integer({ min: 4, max: 112 }), fc.integer({ min: 0, max: 6 * 4096 })),
            value: fc.constantFrom(0, 1, 2, 0x3f, 0x40, 0x7f, 0x80, 0xff),
          }),
          { minLength: 1, maxLength: 4 },
        ),
        async (changes) => {
          const bytes = Buffer.from(sound);
          for (const { at, value } of changes) bytes[at] = value;
          await tryAll(bytes);
        },
      ),
      { numRuns: 60 },
    ));

  it('an image may be cut anywhere', () =>
    fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: 5 * 4096 }), (length) => tryAll(sound.subarray(0, length))),
      { numRuns: 15 },
    ));

  it('a snapshot table and a bitmap directory that cannot be are refused', async () => {
    const bytes = Buffer.from(sound);
    bytes.writeUInt32BE(5, 60);
    bytes.writeBigUInt64BE(0xffff_ffff_0000n, 64);
    await tryAll(bytes);
    await writeFile(join(folder, 'image'), bytes);
    assert.match((await ours('info', join(folder, 'image'))).stderr, /Snapshot table offset is invalid/);
  });
});
