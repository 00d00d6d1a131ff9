import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ProtocolError } from '../../../src/base/errors.ts';
import { decodeDevice, encodeDevice } from '../../../src/engine/qemu/device-codec.ts';

const bytes = fc.uint8Array({ maxLength: 6000 });

void describe('the device part of a snapshot of the QEMU engine', () => {
  it('comes back as it was, from any other one', () => {
    fc.assert(
      fc.property(bytes, bytes, (before, after) => {
        const base = { id: 7n, stream: before };
        const full = encodeDevice({ id: 8n, stream: after }, null);
        assert.deepEqual(Buffer.from(decodeDevice(full, 8n, null).stream), Buffer.from(after));
        const delta = encodeDevice({ id: 8n, stream: after }, base);
        assert.deepEqual(Buffer.from(decodeDevice(delta, 8n, base).stream), Buffer.from(after));
      }),
    );
  });

  it('holds only what changed', () => {
    const stream = new Uint8Array(1_000_001).fill(3);
    const after = stream.slice();
    after[5000] = 4;
    after[1_000_000] = 9;
    const base = { id: 1n, stream };
    const delta = encodeDevice({ id: 2n, stream: after }, base);
    assert.ok(delta.length < 400, `${delta.length} bytes`);
    assert.deepEqual(decodeDevice(delta, 2n, base).stream, after);
    const longer = new Uint8Array(1_000_300).fill(3);
    const second = encodeDevice({ id: 3n, stream: longer }, base);
    assert.ok(second.length < 900, `${second.length} bytes`);
    assert.deepEqual(decodeDevice(second, 3n, base).stream, longer);
  });

  it('that is of another state or builds on another one is refused', () => {
    const base = { id: 1n, stream: new Uint8Array(3000) };
    const delta = encodeDevice({ id: 2n, stream: new Uint8Array(3000).fill(1, 0, 9) }, base);
    assert.throws(() => decodeDevice(delta, 3n, base), /belong to different states/);
    assert.throws(() => decodeDevice(delta, 2n, null), /does not hold/);
    assert.throws(() => decodeDevice(delta, 2n, { ...base, id: 9n }), /does not hold/);
  });

  it('changed anywhere gives a stream of bounded length or a ProtocolError, nothing else', () => {
    const stream = Uint8Array.from({ length: 3000 }, (_, at) => at & 0xff);
    const base = { id: 1n, stream };
    const delta = encodeDevice({ id: 2n, stream: stream.slice().fill(0, 700, 900) }, base);
    fc.assert(
      fc.property(
        fc.nat(delta.length - 1),
        fc.nat(255),
        fc.option(fc.nat(delta.length)),
        (at, value, length) => {
          const bad = delta.slice(0, length ?? delta.length);
          if (at < bad.length) bad[at] = value;
          try {
            assert.ok(decodeDevice(bad, 2n, base).stream.length <= stream.length + bad.length);
          } catch (error) {
            assert.ok(error instanceof ProtocolError);
          }
        },
      ),
      { numRuns: 2000 },
    );
  });

  it('that leaves a part out which the other one does not have is refused', () => {
    const base = { id: 1n, stream: new Uint8Array(300) };
    const delta = encodeDevice({ id: 2n, stream: new Uint8Array(300).fill(1, 0, 9) }, base);
    assert.equal(decodeDevice(delta, 2n, base).stream.length, 300);
    new DataView(delta.buffer).setUint32(24, 400, true);
    assert.throws(() => decodeDevice(delta, 2n, base), /leaves something out/);
  });
});
