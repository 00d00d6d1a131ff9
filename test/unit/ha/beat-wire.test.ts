/** The wire of heartbeats: whatever the pieces, the same messages; whatever the bytes, an error and nothing worse. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ProtocolError } from '../../../src/base/errors.ts';
import { FrameReader, MAX_BEAT_BYTES, encodeFrame } from '../../../src/ha/beat/frames.ts';
import {
  MAX_BEAT_HOSTS,
  MAX_BEAT_VMS,
  parseMessage,
  versionTrouble,
  type BeatMessage,
  type Hello,
  type VmBeat,
} from '../../../src/ha/beat/messages.ts';

const vm = fc.record(
  {
    name: fc.string({ minLength: 1, maxLength: 63 }),
    pid: fc.option(fc.nat()),
    condition: fc.constantFrom('alive', 'stopped', 'mute', 'dead', 'unknown'),
    state: fc.constantFrom('running', 'stopped', 'waiting', 'gone', 'unknown'),
    answerMs: fc.option(fc.nat()),
    phase: fc.string({ maxLength: 32 }),
    epoch: fc.nat(),
  },
  { noNullPrototype: true },
) as fc.Arbitrary<VmBeat>;
const host = fc.string({ minLength: 1, maxLength: 20 });
const message: fc.Arbitrary<BeatMessage> = fc.oneof(
  fc.constant({ kind: 'bye' as const }),
  vm.map((one) => ({ kind: 'change' as const, vm: one })),
  fc
    .record(
      { vms: fc.array(vm, { maxLength: 5 }), hears: fc.array(host), misses: fc.array(host) },
      { noNullPrototype: true },
    )
    .map((said) => ({ kind: 'beat' as const, ...said })),
);

test('messages arrive as they were sent, however they are cut', () => {
  fc.assert(
    fc.property(
      fc.array(message, { maxLength: 5 }),
      fc.infiniteStream(fc.integer({ min: 1, max: 300 })),
      (sent, cuts) => {
        let bytes = Buffer.concat(sent.map((one) => encodeFrame(one)));
        const reader = new FrameReader();
        const got: (BeatMessage | null)[] = [];
        while (bytes.length > 0) {
          const piece = cuts.next().value as number;
          got.push(...reader.push(bytes.subarray(0, piece)).map(parseMessage));
          bytes = bytes.subarray(piece);
        }
        assert.deepEqual(got, sent);
      },
    ),
  );
});

test('any bytes are messages or a ProtocolError', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
      try {
        for (const text of new FrameReader().push(Buffer.from(bytes))) parseMessage(text);
      } catch (error) {
        assert.ok(error instanceof ProtocolError, String(error));
      }
    }),
  );
});

test('any JSON is a message, one that is not known, or a ProtocolError', () => {
  fc.assert(
    fc.property(fc.json(), (text) => {
      try {
        assert.equal(parseMessage(text), null);
      } catch (error) {
        assert.ok(error instanceof ProtocolError, String(error));
      }
    }),
  );
});

test('what is too long is refused by its first four bytes', () => {
  const header = Buffer.alloc(4);
  header.writeUInt32BE(MAX_BEAT_BYTES + 1);
  assert.throws(() => new FrameReader().push(header), ProtocolError);
  assert.throws(() => new FrameReader().push(Buffer.alloc(4)), ProtocolError);
});

test('the largest beat that is sent fits a frame', () => {
  const one: VmBeat = {
    name: 'n'.repeat(63),
    pid: 4_194_304,
    condition: 'unknown',
    state: 'unknown',
    answerMs: 123_456.789_012_3,
    phase: 'p'.repeat(32),
    epoch: Number.MAX_SAFE_INTEGER,
  };
  const hosts = Array.from({ length: MAX_BEAT_HOSTS }, (_, index) => `${index}`.padEnd(63, 'h'));
  const beat: BeatMessage = {
    kind: 'beat',
    vms: Array.from({ length: MAX_BEAT_VMS }, () => one),
    hears: hosts,
    misses: hosts,
  };
  assert.ok(encodeFrame(beat).length < MAX_BEAT_BYTES);
});

test('a newer daemon may say more: members, words and kinds that are not known', () => {
  const beat = { kind: 'beat', vms: [], hears: [], misses: [], weather: 'fair' };
  assert.deepEqual(parseMessage(JSON.stringify(beat)), { kind: 'beat', vms: [], hears: [], misses: [] });
  const vm = {
    name: 'a',
    pid: 1,
    condition: 'sleepy',
    state: 'odd',
    answerMs: 0,
    phase: 'x',
    epoch: 1,
    y: 1,
  };
  const change = parseMessage(JSON.stringify({ kind: 'change', vm }));
  assert.equal(change?.kind === 'change' && change.vm.condition, 'unknown');
  assert.equal(parseMessage('{"kind":"song"}'), null);
});

test('versions: two talk if either understands the other', () => {
  const hello = (version: number, oldest: number): Hello => ({
    kind: 'hello',
    version,
    oldest,
    host: 'a',
    instance: 'i',
  });
  assert.equal(versionTrouble(hello(1, 1), hello(2, 1)), null);
  assert.equal(versionTrouble(hello(2, 1), hello(1, 1)), null);
  assert.match(versionTrouble(hello(1, 1), hello(3, 2)) ?? '', /version 3.*is 1/);
  assert.match(versionTrouble(hello(3, 2), hello(1, 1)) ?? '', /version 1.*is 3/);
});
