import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { TcpFields } from './frames.ts';
import { keyOf, payloadText, tcp } from './frames.ts';
import type { Rig } from './compare-rig.ts';
import { withRig } from './compare-rig.ts';

const p = (rig: Rig, fields: TcpFields): void => rig.primary.giveFrame(tcp(fields));
const s = (rig: Rig, fields: TcpFields): void =>
  rig.secondary.giveFrame(tcp({ id: 99, window: 7, ttl: 3, ...fields }));
const texts = (rig: Rig): string[] => rig.released().map(payloadText);

test('equal payload is released, whoever comes first, and header differences are held against nobody', () =>
  withRig((rig) => {
    p(rig, { seq: 100, ack: 1, payload: 'abc' });
    assert.deepEqual(texts(rig), []);
    s(rig, { seq: 100, ack: 1, payload: 'abc', options: new Uint8Array(12).fill(1) });
    assert.deepEqual(texts(rig), ['abc']);
    s(rig, { seq: 103, ack: 1, payload: 'de' });
    p(rig, { seq: 103, ack: 1, payload: 'de', flags: 'P' });
    assert.deepEqual(texts(rig), ['de']);
    assert.equal(rig.compare.heldPackets, 0);
  }));

test('the streams are compared, not the segments', () =>
  withRig((rig) => {
    s(rig, { seq: 100, ack: 1, payload: 'abcd' });
    p(rig, { seq: 100, ack: 1, payload: 'abcdefghij' });
    assert.deepEqual(texts(rig), []);
    s(rig, { seq: 104, ack: 1, payload: 'efghij' });
    assert.deepEqual(texts(rig), ['abcdefghij']);
    s(rig, { seq: 110, ack: 1, payload: '0123456789' });
    p(rig, { seq: 110, ack: 1, payload: '0123' });
    p(rig, { seq: 114, ack: 1, payload: '456789' });
    assert.deepEqual(texts(rig), ['0123', '456789']);
    assert.deepEqual(rig.requests, []);
  }));

test('a difference asks for a checkpoint at once and leaves nothing out', () =>
  withRig(async (rig) => {
    p(rig, { seq: 100, ack: 1, payload: 'abc' });
    s(rig, { seq: 100, ack: 1, payload: 'abX' });
    assert.deepEqual(texts(rig), []);
    assert.deepEqual(rig.requests, [
      {
        cause: 'payload',
        flow: 'tcp/10.0.2.15:80>10.0.2.2:40000',
        key: keyOf(tcp({})),
        difference: { packetOffset: 56, payloadOffset: 2, primaryByte: 0x63, secondaryByte: 0x58 },
      },
    ]);
    s(rig, { seq: 100, ack: 1, payload: 'abX' });
    assert.equal(rig.requests.length, 1, 'one request until it is answered');
    await rig.checkpoint();
    assert.deepEqual(texts(rig), ['abc']);
    p(rig, { seq: 103, ack: 1, payload: 'd' });
    s(rig, { seq: 103, ack: 1, payload: 'd' });
    assert.deepEqual(texts(rig), ['d']);
  }));

test('a retransmission of what was released needs no twin', () =>
  withRig((rig) => {
    s(rig, { seq: 100, ack: 1, payload: 'abcdef' });
    p(rig, { seq: 100, ack: 1, payload: 'abcdef' });
    p(rig, { seq: 100, ack: 1, payload: 'abc' });
    assert.deepEqual(texts(rig), ['abcdef', 'abc']);
    p(rig, { seq: 103, ack: 1, payload: 'defghi' });
    assert.deepEqual(texts(rig), [], 'its new part does');
    s(rig, { seq: 100, ack: 1, payload: 'abcdefghi' });
    assert.deepEqual(texts(rig), ['defghi']);
  }));

test('an acknowledgment waits for the secondary to have acknowledged as much', () =>
  withRig((rig) => {
    p(rig, { seq: 100, ack: 50 });
    assert.deepEqual(rig.released().length, 0);
    s(rig, { seq: 100, ack: 40 });
    assert.deepEqual(rig.released().length, 0, 'any packet is not enough');
    s(rig, { seq: 100, ack: 60 });
    assert.deepEqual(rig.released().length, 1);
    p(rig, { seq: 100, ack: 60 });
    p(rig, { seq: 100, ack: 55 });
    assert.deepEqual(rig.released().length, 2, 'without another packet of the secondary');
    s(rig, { seq: 100, ack: 60, payload: 'same' });
    p(rig, { seq: 100, ack: 61, payload: 'same' });
    assert.deepEqual(texts(rig), [], 'equal segments do not excuse an acknowledgment that is ahead');
    s(rig, { seq: 104, ack: 0x7fffffff });
    assert.deepEqual(texts(rig), ['same']);
  }));

test('an acknowledgment that stays ahead ends in a checkpoint', () =>
  withRig(async (rig) => {
    s(rig, { seq: 100, ack: 40 });
    p(rig, { seq: 100, ack: 50 });
    rig.clock.ms = 3001;
    rig.compare.scan();
    assert.equal(rig.requests[0]?.cause, 'ack');
    await rig.checkpoint();
    assert.equal(rig.released().length, 1);
    p(rig, { seq: 100, ack: 50 });
    assert.equal(rig.released().length, 1, 'the checkpoint holds what it acknowledges');
    p(rig, { seq: 100, ack: 51 });
    assert.equal(rig.released().length, 0);
  }));

test('what the secondary acknowledged before a checkpoint is void after it', () =>
  withRig(async (rig) => {
    p(rig, { seq: 100, ack: 10 });
    s(rig, { seq: 100, ack: 90 });
    assert.equal(rig.released().length, 1);
    await rig.checkpoint();
    p(rig, { seq: 100, ack: 80 });
    assert.equal(rig.released().length, 0, 'the guest that had acknowledged 90 is no more');
    p(rig, { seq: 100, ack: 80 });
    s(rig, { seq: 100, ack: 80 });
    assert.equal(rig.released().length, 2);
  }));

test('what the secondary said before a checkpoint is void after it', () =>
  withRig(async (rig) => {
    s(rig, { seq: 100, ack: 1, payload: 'ahead' });
    await rig.checkpoint();
    p(rig, { seq: 100, ack: 1, payload: 'ahead' });
    assert.deepEqual(texts(rig), []);
    s(rig, { seq: 100, ack: 1, payload: 'ahead' });
    assert.deepEqual(texts(rig), ['ahead']);
  }));

test('a segment from before a checkpoint may be repeated by the primary alone', () =>
  withRig(async (rig) => {
    p(rig, { seq: 100, ack: 1, payload: 'abc' });
    await rig.checkpoint();
    assert.deepEqual(texts(rig), ['abc']);
    p(rig, { seq: 100, ack: 1, payload: 'abc' });
    assert.deepEqual(texts(rig), ['abc']);
    s(rig, { seq: 100, ack: 1, payload: 'abc' });
    p(rig, { seq: 103, ack: 1, payload: 'd' });
    assert.deepEqual(texts(rig), []);
    rig.clock.ms = 1_000_000;
    s(rig, { seq: 103, ack: 1, payload: 'd' });
    assert.deepEqual(texts(rig), ['d']);
    rig.compare.scan();
    assert.deepEqual(rig.requests, []);
  }));

test('a handshake: each SYN needs its kind, not its number', () =>
  withRig((rig) => {
    p(rig, { seq: 1000, ack: 501, flags: 'S' });
    s(rig, { seq: 7777, ack: 501 });
    assert.equal(rig.released().length, 0);
    s(rig, { seq: 7777, ack: 501, flags: 'S' });
    assert.equal(rig.released().length, 1);
    p(rig, { seq: 1000, ack: 501, flags: 'S' });
    assert.equal(rig.released().length, 1, 'repeated');
    s(rig, { seq: 1001, ack: 501, payload: 'hi' });
    p(rig, { seq: 1001, ack: 501, payload: 'hi' });
    assert.deepEqual(texts(rig), ['hi']);
    p(rig, { seq: 2000, flags: 'S', sourcePort: 3333 });
    s(rig, { seq: 2, ack: 1, flags: 'S', sourcePort: 3333 });
    assert.equal(rig.released().length, 0, 'a SYN+ACK is no SYN');
    s(rig, { seq: 2, flags: 'S', sourcePort: 3333 });
    assert.equal(rig.released().length, 1);
  }));

test('a second connection under the same name is compared afresh', () =>
  withRig((rig) => {
    const open = (initial: number): void => {
      p(rig, { seq: initial, ack: 501, flags: 'S' });
      s(rig, { seq: initial ^ 0xffff, ack: 501, flags: 'S' });
    };
    open(0xf0000000);
    s(rig, { seq: 0xf0000001, ack: 501, payload: 'one' });
    p(rig, { seq: 0xf0000001, ack: 501, payload: 'one' });
    assert.equal(rig.released().length, 2);
    open(0x1000);
    p(rig, { seq: 0x1001, ack: 501, payload: 'two' });
    assert.equal(rig.released().length, 1, 'not taken for a retransmission');
    s(rig, { seq: 0x1001, ack: 501, payload: 'two' });
    assert.deepEqual(texts(rig), ['two']);
    assert.deepEqual(rig.requests, []);
  }));

test('a FIN needs the same end of the stream', () =>
  withRig((rig) => {
    s(rig, { seq: 100, ack: 1, payload: 'abc' });
    p(rig, { seq: 100, ack: 1, payload: 'abc', flags: 'F' });
    assert.deepEqual(texts(rig), []);
    s(rig, { seq: 103, ack: 1, flags: 'F' });
    assert.deepEqual(texts(rig), ['abc']);
    p(rig, { seq: 103, ack: 1, flags: 'F' });
    assert.equal(rig.released().length, 1, 'repeated');
    assert.deepEqual(rig.requests, []);
  }));

test('a stream that ends on one side only is a difference', async () => {
  await withRig((rig) => {
    s(rig, { seq: 100, ack: 1, payload: 'ab', flags: 'F' });
    p(rig, { seq: 100, ack: 1, payload: 'abc' });
    assert.deepEqual([texts(rig), rig.requests[0]?.cause], [[], 'length']);
  });
  await withRig((rig) => {
    s(rig, { seq: 100, ack: 1, payload: 'abcd' });
    p(rig, { seq: 100, ack: 1, payload: 'ab', flags: 'F' });
    assert.deepEqual([texts(rig), rig.requests[0]?.cause], [[], 'length']);
  });
});

test('a RST needs a RST', () =>
  withRig((rig) => {
    p(rig, { seq: 0, ack: 501, flags: 'R' });
    s(rig, { seq: 100, ack: 501, payload: 'x' });
    assert.equal(rig.released().length, 0);
    s(rig, { seq: 0, ack: 501, flags: 'R' });
    assert.equal(rig.released().length, 1);
    p(rig, { seq: 99, flags: 'R', sourcePort: 2 });
    s(rig, { seq: 98, flags: 'R', sourcePort: 2 });
    assert.equal(rig.released().length, 1);
  }));

test('padding is not payload', () =>
  withRig((rig) => {
    rig.primary.giveFrame(tcp({ seq: 100, ack: 1, payload: 'a', padTo: 60 }));
    rig.secondary.giveFrame(tcp({ seq: 100, ack: 1, payload: 'a' }));
    assert.equal(rig.released().length, 1);
  }));

test('bytes behind a gap are not released before what belongs into it', () =>
  withRig((rig) => {
    s(rig, { seq: 100, ack: 1, payload: 'abcdef' });
    p(rig, { seq: 100, ack: 1, payload: 'ab' });
    p(rig, { seq: 104, ack: 1, payload: 'ef' });
    assert.deepEqual(texts(rig), ['ab']);
    p(rig, { seq: 102, ack: 1, payload: 'cd' });
    assert.deepEqual(texts(rig), ['cd', 'ef']);
  }));

test("the secondary's segments may come in any order, overlapping", () =>
  withRig((rig) => {
    p(rig, { seq: 0xfffffffe, ack: 1, payload: 'abcdefgh' });
    s(rig, { seq: 4, ack: 1, payload: 'gh' });
    s(rig, { seq: 0xfffffffe, ack: 1, payload: 'abc' });
    s(rig, { seq: 0, ack: 1, payload: 'cdefg' });
    assert.deepEqual(texts(rig), ['abcdefgh']);
    assert.deepEqual(rig.requests, []);
  }));

test('packets of either side that find no twin time out', async () => {
  for (const side of ['primary', 'secondary'] as const) {
    await withRig((rig) => {
      (side === 'primary' ? p : s)(rig, { seq: 100, ack: 1, payload: 'abc' });
      rig.clock.ms = 3000;
      rig.compare.scan();
      assert.equal(rig.requests.length, 0, 'not before the limit has passed');
      rig.clock.ms = 3001;
      rig.compare.scan();
      // On this flow only one side has ever spoken.
      assert.equal(rig.requests[0]?.cause, side === 'primary' ? 'new-connection' : 'timeout');
      rig.compare.scan();
      assert.equal(rig.requests.length, 2, 'again with each scan until it is answered');
    });
  }
});

test('while the secondary is silent nothing leaves, however odd', () =>
  withRig((rig) => {
    p(rig, { seq: 509 });
    p(rig, { seq: 509, flags: 'PU' });
    p(rig, { seq: 184, ack: 1012 });
    p(rig, { seq: 146, ack: 1026, payload: 'ab' });
    p(rig, { seq: 0x80000101, payload: 'never said by anybody' });
    p(rig, { seq: 140, payload: 'before' });
    p(rig, { seq: 3, flags: 'R', payload: 'bytes' });
    assert.equal(rig.released().length, 0);
    s(rig, { seq: 77, sourcePort: 81 });
    p(rig, { seq: 77, sourcePort: 81, flags: 'P' });
    assert.equal(rig.released().length, 1, 'nothing is said by both');
  }));

test('what was never compared is no repetition', () =>
  withRig(async (rig) => {
    s(rig, { seq: 100, ack: 1, payload: 'abc' });
    p(rig, { seq: 100, ack: 1, payload: 'abc' });
    p(rig, { seq: 100, ack: 1, payload: 'abc' });
    assert.equal(rig.released().length, 2);
    p(rig, { seq: 97, ack: 1, payload: 'xyzabc' });
    p(rig, { seq: 0x90000000, ack: 1, payload: 'far' });
    assert.equal(rig.released().length, 0);
    await rig.checkpoint();
    assert.equal(rig.released().length, 2);
  }));

test('a RST with bytes is left to a checkpoint', () =>
  withRig(async (rig) => {
    s(rig, { seq: 100, ack: 1, flags: 'R', payload: 'why' });
    p(rig, { seq: 100, ack: 1, flags: 'R', payload: 'why' });
    assert.equal(rig.released().length, 0);
    await rig.checkpoint();
    assert.equal(rig.released().length, 1);
  }));

test('of a connection that is seen in its middle first, segments may come in any order', () =>
  withRig((rig) => {
    p(rig, { seq: 106, ack: 1, payload: 'second' });
    p(rig, { seq: 101, ack: 1, payload: 'first' });
    s(rig, { seq: 101, ack: 1, payload: 'firstsecond' });
    assert.deepEqual(texts(rig), ['first', 'second']);
    assert.deepEqual(rig.requests, []);
  }));
