import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ByteReader } from '../../../src/nbd/byte-reader.ts';
import { NbdEndOfStreamError } from '../../../src/nbd/errors.ts';
import { NBD_MAX_VIEW } from '../../../src/nbd/limits.ts';

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

  it('gives in place what came in pieces, and keeps it while it is in use', async () => {
    const { reader } = recordingReader(2 ** 20);
    const put = (text: string): void => {
      const room = reader.nextBuffer();
      room.set(Buffer.from(text));
      reader.received(text.length);
    };
    put('abc');
    put('def');
    const first = reader.readNow(2);
    assert.equal(first?.toString(), 'ab');
    const view = await reader.view(4);
    assert.equal(view.buffer, first.buffer);
    put('ghi');
    reader.readNow(3);
    put('overwrites nothing');
    assert.equal(Buffer.from(view).toString(), 'cdef');
    assert.equal(reader.release(view), true);
    assert.equal(reader.release(view), false);
    reader.readNow(18);
    // Empty and unseen: the next bytes come to the start again.
    assert.equal(reader.nextBuffer().byteOffset, first.byteOffset);
    assert.equal(reader.readNow(1), null);
  });

  it('gives views in place whatever their sizes, over any border of its memory, also above its mark', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: NBD_MAX_VIEW }), { maxLength: 12 }),
        async (sizes) => {
          const { reader } = recordingReader(1000);
          let sent = 0;
          const held: { view: Uint8Array; first: number }[] = [];
          let read = 0;
          for (const size of sizes) {
            const waiting = reader.view(size);
            while (sent < read + size + 7) {
              const room = reader.nextBuffer();
              const count = Math.min(room.byteLength, 100_000, read + size + 7 - sent);
              for (let at = 0; at < count; at++) room[at] = (sent + at) % 251;
              reader.received(count);
              sent += count;
            }
            held.push({ view: await waiting, first: read });
            read += size;
          }
          for (const { view, first } of held) {
            assert.ok(view.every((byte, at) => byte === (first + at) % 251));
            assert.ok(reader.release(view));
          }
        },
      ),
      { numRuns: 20 },
    );
  });

  it('reads a large payload straight into its destination once nothing else is there', async () => {
    const { reader } = recordingReader(1000);
    const target = new Uint8Array(200_000);
    reader.push(Buffer.from('xy'));
    const done = reader.readInto(target);
    const room = reader.nextBuffer();
    assert.equal(room.buffer, target.buffer);
    assert.equal(room.byteOffset, 2);
    reader.received(199_000);
    assert.notEqual(reader.nextBuffer().buffer, target.buffer);
    reader.push(Buffer.alloc(998));
    await done;
    assert.equal(Buffer.from(target.subarray(0, 3)).toString(), 'xy\0');
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
