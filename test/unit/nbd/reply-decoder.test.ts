import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ProtocolError } from '../../../src/base/errors.ts';
import { ReplyDecoder, type ReplySink } from '../../../src/nbd/reply-decoder.ts';
import { HANDSHAKE_STEPS, QEMU_CONVERSATION, sentBy } from './captures.ts';

/** Writes down what it is told. Simple replies carry as much data as `simpleData` says. */
class Recorder implements ReplySink {
  readonly events: string[] = [];
  readonly #open: (() => string)[] = [];
  simpleData = 0;

  chunkBegins(): void {
    // Every cookie is fine here.
  }

  simpleReply(_hi: number, _lo: number, error: number): Uint8Array | null {
    this.events.push(`simple ${error}`);
    return this.simpleData > 0 && error === 0 ? this.#memory(this.simpleData) : null;
  }

  dataChunk(_hi: number, _lo: number, offset: number, length: number): Uint8Array {
    this.events.push(`data at ${offset}`);
    return this.#memory(length);
  }

  holeChunk(_hi: number, _lo: number, offset: number, length: number): void {
    this.events.push(`hole ${offset} ${length}`);
  }

  statusChunk(_hi: number, _lo: number, contextId: number, runs: Buffer): void {
    this.events.push(`status ${contextId} ${runs.toString('hex')}`);
  }

  errorChunk(_hi: number, _lo: number, error: number, message: string): void {
    this.events.push(`error ${error} ${message}`);
  }

  replyDone(hi: number, lo: number): void {
    for (const text of this.#open.splice(0)) this.events.push(text());
    this.events.push(`done ${hi.toString(16)}:${lo.toString(16)}`);
  }

  #memory(length: number): Uint8Array {
    const memory = new Uint8Array(length);
    this.#open.push(() => Buffer.from(memory).toString('hex'));
    return memory;
  }
}

function decode(pieces: readonly Uint8Array[], simpleData = 0): string[] {
  const sink = new Recorder();
  sink.simpleData = simpleData;
  const decoder = new ReplyDecoder(sink, true);
  for (const piece of pieces) decoder.feed(Buffer.from(piece));
  return sink.events;
}

const RECORDED = sentBy('S', HANDSHAKE_STEPS, QEMU_CONVERSATION.length);
/** Chunks that the recording lacks: a hole, both errors, NONE, a read in two pieces out of order. */
const MADE = Buffer.from(
  [
    '668e33ef' + '0000' + '0002' + '0000000100000002' + '0000000c' + '0000000000001000' + '00000200',
    '668e33ef' + '0000' + '0001' + '0000000100000002' + '0000000a' + '0000000000001300' + 'abcd',
    '668e33ef' + '0001' + '0001' + '0000000100000002' + '00000009' + '0000000000001200' + 'ef',
    '668e33ef' + '0000' + '8001' + '0000000100000002' + '00000008' + '00000005' + '0002' + '6e6f',
    '668e33ef' + '0000' + '8002' + '0000000100000002' + '0000000e' + '00000005' + '0000' + '0000000000001000',
    '668e33ef' + '0001' + '0000' + '0000000100000002' + '00000000',
  ].join(''),
  'hex',
);
const ALL = Buffer.concat([RECORDED, MADE]);

describe('ReplyDecoder', () => {
  it('decodes what qemu-nbd sent', () => {
    const cookie = '555d:7e738000';
    assert.deepEqual(decode([RECORDED]), [
      ...['simple 0', `done ${cookie}`],
      ...['data at 512', '5a'.repeat(16), `done ${cookie}`],
      ...['simple 0', `done ${cookie}`, 'simple 0', `done ${cookie}`],
      ...['simple 0', `done ${cookie}`, 'simple 0', `done ${cookie}`],
      ...['status 0 0000200000000000', `done ${cookie}`, 'status 0 000fe00000000003', `done ${cookie}`],
      ...['simple 0', `done ${cookie}`],
    ]);
    assert.deepEqual(decode([MADE]), [
      ...['hole 4096 512', 'data at 4864', 'data at 4608', 'abcd', 'ef', 'done 1:2'],
      ...['error 5 no', 'error 5 ', 'done 1:2'],
    ]);
  });

  it('decodes the same at every split, and byte by byte', () => {
    const whole = decode([ALL]);
    for (let split = 0; split <= ALL.length; split++) {
      assert.deepEqual(decode([ALL.subarray(0, split), ALL.subarray(split)]), whole);
    }
    assert.deepEqual(decode(Array.from(ALL, (byte) => Uint8Array.of(byte))), whole);
  });

  it('takes the data of simple replies, split anywhere', () => {
    const bytes = Buffer.from('67446698' + '00000000' + '0000000100000002' + 'cafebabe', 'hex');
    for (let split = 0; split <= bytes.length; split++) {
      const events = decode([bytes.subarray(0, split), bytes.subarray(split)], 4);
      assert.deepEqual(events, ['simple 0', 'cafebabe', 'done 1:2']);
    }
    const failed = Buffer.from('67446698' + '00000005' + '0000000100000002', 'hex');
    assert.deepEqual(decode([failed], 4), ['simple 5', 'done 1:2']);
  });

  it('lets the owner fill the memory of a read itself', () => {
    const sink = new Recorder();
    const decoder = new ReplyDecoder(sink, true);
    decoder.feed(Buffer.from('668e33ef' + '0001' + '0001' + '0000000100000002' + '0000000c', 'hex'));
    // Read through a function, for it changes behind the type checker's back.
    const missing = (): Uint8Array | null => decoder.directTarget;
    assert.equal(missing(), null);
    decoder.feed(Buffer.from('0000000000000200' + '61', 'hex'));
    assert.equal(decoder.currentCookieLo, 2);
    missing()?.set([0x62, 0x63]);
    decoder.directFilled(2);
    assert.equal(missing()?.byteLength, 1);
    missing()?.set([0x64]);
    decoder.directFilled(1);
    assert.equal(missing(), null);
    assert.equal(decoder.currentCookieLo, -1);
    assert.deepEqual(sink.events, ['data at 512', '61626364', 'done 1:2']);
  });

  it('refuses chunks whose length cannot be', () => {
    const cases: [string, string][] = [
      ['bad magic', 'deadbeef' + '0001' + '0000' + '0000000100000002' + '00000000'],
      ['NONE with data', '668e33ef' + '0001' + '0000' + '0000000100000002' + '00000001'],
      ['NONE that is not the last', '668e33ef' + '0000' + '0000' + '0000000100000002' + '00000000'],
      ['data without bytes', '668e33ef' + '0001' + '0001' + '0000000100000002' + '00000008'],
      ['data above 32 MiB', '668e33ef' + '0001' + '0001' + '0000000100000002' + '02000009'],
      ['hole of a wrong size', '668e33ef' + '0001' + '0002' + '0000000100000002' + '0000000d'],
      ['status of no extent', '668e33ef' + '0001' + '0005' + '0000000100000002' + '00000004'],
      ['status of half an extent', '668e33ef' + '0001' + '0005' + '0000000100000002' + '00000010'],
      ['status without bounds', '668e33ef' + '0001' + '0005' + '0000000100000002' + '7ffffffc'],
      ['error too short', '668e33ef' + '0001' + '8001' + '0000000100000002' + '00000005'],
      ['error too long', '668e33ef' + '0001' + '8001' + '0000000100000002' + '00010000'],
      ['unknown type', '668e33ef' + '0001' + '0003' + '0000000100000002' + '0000000c'],
      [
        'error message beyond its end',
        '668e33ef' + '0001' + '8001' + '0000000100000002' + '00000006' + '00000005' + '0001',
      ],
      [
        'error with stray bytes',
        '668e33ef' + '0001' + '8001' + '0000000100000002' + '00000007' + '00000005' + '0000' + '00',
      ],
    ];
    for (const [what, hex] of cases) {
      assert.throws(() => decode([Buffer.from(hex, 'hex')]), ProtocolError, what);
    }
    const structured = Buffer.from(cases[1]![1], 'hex');
    assert.throws(() => new ReplyDecoder(new Recorder(), false).feed(structured), /not negotiated/);
  });

  it('meets mutated bytes with messages or a ProtocolError', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(ALL.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 }),
        fc.nat(ALL.length),
        (changes, split) => {
          const bytes = Buffer.from(ALL);
          for (const [at, value] of changes) bytes[at] = value;
          try {
            decode([bytes.subarray(0, split), bytes.subarray(split)]);
          } catch (error) {
            assert.ok(error instanceof ProtocolError, String(error));
          }
        },
      ),
      { numRuns: 2000 },
    );
  });
});
