import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ByteReader } from '../../../src/nbd/byte-reader.ts';
import { NbdEndOfStreamError } from '../../../src/nbd/errors.ts';

function recordingReader(highWaterBytes: number): { reader: ByteReader; flow: string[] } {
  const flow: string[] = [];
  const reader = new ByteReader(
    { pause: () => void flow.push('pause'), resume: () => void flow.push('resume') },
    highWaterBytes,
  );
  return { reader, flow };
}

describe('ByteReader', () => {
  it('gives the same bytes however they were cut and whenever they came', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.uint8Array({ maxLength: 20 }), { maxLength: 12 }),
        fc.array(fc.nat(15), { maxLength: 12 }),
        fc.boolean(),
        async (chunks, reads, early) => {
          const { reader } = recordingReader(1000);
          const all = Buffer.concat(chunks);
          const push = (): void => {
            for (const chunk of chunks) reader.push(Buffer.from(chunk));
            reader.end();
          };
          if (early) push();
          else setImmediate(push);
          let at = 0;
          for (const length of reads) {
            if (at + length > all.length) {
              await assert.rejects(reader.read(length), NbdEndOfStreamError);
              return;
            }
            assert.deepEqual(Buffer.from(await reader.read(length)), all.subarray(at, at + length));
            at += length;
          }
        },
      ),
      { numRuns: 200 },
    );
  });

  it('does not copy what lies inside one chunk', () => {
    const { reader } = recordingReader(1000);
    const chunk = Buffer.from('abcdef');
    reader.push(chunk);
    const view = reader.readNow(3);
    chunk[0] = 0x78;
    assert.equal(view?.toString(), 'xbc');
    assert.equal(reader.readNow(4), null);
    assert.equal(reader.bufferedBytes, 3);
  });

  it('fills a destination straight from arriving chunks', async () => {
    const { reader, flow } = recordingReader(4);
    const target = new Uint8Array(10);
    const done = reader.readInto(target);
    reader.push(Buffer.from('01234567'));
    reader.push(Buffer.from('89ab'));
    await done;
    assert.equal(Buffer.from(target).toString(), '0123456789');
    assert.equal(reader.readNow(2)?.toString(), 'ab');
    assert.deepEqual(flow, []);
  });

  it('stops the source above its mark and lets it go on below half of it', () => {
    const { reader, flow } = recordingReader(8);
    reader.push(Buffer.alloc(9));
    assert.deepEqual(flow, ['pause']);
    reader.readNow(4);
    assert.deepEqual(flow, ['pause']);
    reader.readNow(1);
    assert.deepEqual(flow, ['pause', 'resume']);
  });

  it('tells an end between messages from one inside a message', async () => {
    const between = recordingReader(8).reader;
    const waiting = between.readOrEnd(4);
    between.end();
    assert.equal(await waiting, null);
    const inside = recordingReader(8).reader;
    const cut = inside.readOrEnd(4);
    inside.push(Buffer.alloc(3));
    inside.end();
    await assert.rejects(cut, NbdEndOfStreamError);
    const lost = recordingReader(8).reader;
    lost.end(new Error('reset'));
    await assert.rejects(lost.readOrEnd(4), /reset/);
  });

  it('skips without storing, over chunk borders', async () => {
    const { reader } = recordingReader(8);
    reader.push(Buffer.from('abc'));
    const skipped = reader.skip(7);
    reader.push(Buffer.from('defgh'));
    await skipped;
    assert.equal(reader.readNow(1)?.toString(), 'h');
  });
});
