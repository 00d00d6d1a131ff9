import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ColoError, ProtocolError } from '../../../src/base/errors.ts';
import { ByteReader } from '../../../src/nbd/byte-reader.ts';
import type { NbdExport } from '../../../src/nbd/export.ts';
import { negotiateAsClient } from '../../../src/nbd/handshake-client.ts';
import { negotiateAsServer, type ServerAgreement } from '../../../src/nbd/handshake-server.ts';
import { encodeInfoRequest, encodeMetaRequest, encodeOption } from '../../../src/nbd/handshake-wire.ts';
import { HANDSHAKE_STEPS, sentBy } from './captures.ts';
import { MemorySource } from './support.ts';

const CLIENT_BYTES = sentBy('C', 0, HANDSHAKE_STEPS);
const SERVER_BYTES = sentBy('S', 0, HANDSHAKE_STEPS);
const WISHES = { exportName: 'disk', structured: true, baseAllocation: true };

const disk: NbdExport = {
  name: 'disk',
  description: 'a disk',
  source: new MemorySource(2 ** 20 + 100),
  writable: true,
  fastZeroes: false,
};
const host = {
  multiConn: true,
  requiresTls: false,
  findExport: (name: string) => (name === 'disk' ? disk : null),
  listExports: () => [disk],
};

/** A transport without a socket: input is given in pieces, output is collected. */
function pipe(pieces: readonly Uint8Array[]): {
  reader: ByteReader;
  send(bytes: Uint8Array): Promise<void>;
  startTls(lastClear: Uint8Array): Promise<void>;
  sent: Buffer[];
} {
  const sent: Buffer[] = [];
  const reader = new ByteReader({ pause: () => undefined, resume: () => undefined }, 2 ** 30);
  const rest = [...pieces];
  const next = (): void => {
    const piece = rest.shift();
    if (!piece) {
      reader.end();
      return;
    }
    reader.push(Buffer.from(piece));
    setImmediate(next);
  };
  next();
  const send = (bytes: Uint8Array): Promise<void> => {
    sent.push(Buffer.from(bytes));
    return Promise.resolve();
  };
  // Taken for secure from here on: these tests are about what is said, not about ciphers.
  return { reader, send, startTls: send, sent };
}

async function serve(...pieces: Uint8Array[]): Promise<{ agreement: ServerAgreement | null; sent: string }> {
  const transport = pipe(pieces);
  const agreement = await negotiateAsServer(transport, host);
  return { agreement, sent: Buffer.concat(transport.sent).toString('hex') };
}

/** What the server answers to options after client flags 3: hex behind the greeting. */
async function answersTo(...options: Buffer[]): Promise<string> {
  const { sent } = await serve(Buffer.concat([Buffer.from('00000003', 'hex'), ...options]));
  return sent.slice(36);
}

function option(number: number, hex = ''): Buffer {
  return encodeOption(number, Buffer.from(hex, 'hex'));
}

/** The reply types (u32) of a run of option replies. */
function replyTypes(hex: string): number[] {
  const bytes = Buffer.from(hex, 'hex');
  const types: number[] = [];
  for (let at = 0; at < bytes.length; at += 20 + bytes.readUInt32BE(at + 16))
    types.push(bytes.readUInt32BE(at + 12));
  return types;
}

describe('server handshake', () => {
  it('answers qemu-io as qemu-nbd does, at every split of its bytes', async () => {
    for (let split = 0; split <= CLIENT_BYTES.length; split++) {
      const { agreement, sent } = await serve(CLIENT_BYTES.subarray(0, split), CLIENT_BYTES.subarray(split));
      assert.equal(sent, SERVER_BYTES.toString('hex'));
      assert.ok(agreement?.structured && agreement.baseAllocation && agreement.writable);
      assert.equal(agreement.sizeBytes, 2 ** 20);
    }
  });

  it('ends by an error or a polite null at every truncation', async () => {
    for (let end = 0; end < CLIENT_BYTES.length; end++) {
      const result = await serve(CLIENT_BYTES.subarray(0, end)).catch((error: unknown) => error);
      if (!(result instanceof ColoError)) assert.equal((result as { agreement: unknown }).agreement, null);
    }
  });

  it('meets mutated bytes with an answer or a refusal, never anything else', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(CLIENT_BYTES.length - 1), fc.nat(255)), { minLength: 1, maxLength: 6 }),
        async (changes) => {
          const bytes = Buffer.from(CLIENT_BYTES);
          for (const [at, value] of changes) bytes[at] = value;
          await serve(bytes).catch((error: unknown) => assert.ok(error instanceof ColoError, String(error)));
        },
      ),
      { numRuns: 500 },
    );
  });

  it('starts transmission by EXPORT_NAME, with and without the zeroes', async () => {
    const name = encodeOption(1, Buffer.from('disk'));
    const noZeroes = await serve(Buffer.from('00000003', 'hex'), name);
    assert.equal(noZeroes.sent.slice(36), '00000000001000000d6d');
    const zeroes = await serve(Buffer.from('00000000', 'hex'), name);
    assert.equal(zeroes.sent.slice(36), '00000000001000000d6d' + '00'.repeat(124));
    await assert.rejects(serve(Buffer.from('00000003', 'hex'), encodeOption(1, Buffer.from('abc'))), {
      message: "export 'abc' not present",
    });
  });

  it('refuses with the recorded types and texts, and goes on', async () => {
    const unknown = await answersTo(encodeOption(7, encodeInfoRequest('abc', [])));
    assert.equal(
      unknown,
      '0003e889045565a90000000780000006' +
        '00000018' +
        Buffer.from("export 'abc' not present").toString('hex'),
    );
    const tls = await answersTo(option(5));
    assert.equal(
      tls,
      '0003e889045565a90000000580000002' + '00000012' + Buffer.from('TLS not configured').toString('hex'),
    );
    const odd = await answersTo(option(99, 'abcdef'), option(99));
    assert.deepEqual(replyTypes(odd), [0x80000001, 0x80000001]);
    assert.ok(odd.includes(Buffer.from('Unsupported option 99 (<unknown>)').toString('hex')));
  });

  it('refuses malformed options with ERR_INVALID', async () => {
    const meta = encodeMetaRequest('disk', ['base:allocation']);
    const cases: [string, Buffer][] = [
      ['list with data', option(3, '00')],
      ['structured reply with data', option(8, '00')],
      ['go without a name', option(7)],
      ['go with a name beyond its end', option(7, '000000ff61')],
      ['go with too few info requests', option(7, '000000046469736b0002')],
      ['set meta context before structured replies', encodeOption(10, meta)],
      ['list meta context with stray bytes', encodeOption(9, Buffer.concat([meta, Buffer.alloc(1)]))],
      ['list meta context with too many queries', option(9, '000000046469736bffffffff')],
    ];
    for (const [what, bytes] of cases)
      assert.deepEqual(replyTypes(await answersTo(bytes)), [0x80000003], what);
    assert.deepEqual(replyTypes(await answersTo(option(8), option(8))), [1, 0x80000003]);
  });

  it('skips an oversized option that is within reason, and hangs up on one that is not', async () => {
    const large = await answersTo(encodeOption(7, Buffer.alloc(70_000)), option(8));
    assert.deepEqual(replyTypes(large), [0x80000009, 1]);
    const huge = Buffer.concat([option(7).subarray(0, 12), Buffer.from('02000001', 'hex')]);
    await assert.rejects(answersTo(huge), ProtocolError);
  });

  it('lists exports, gives information, and says goodbye', async () => {
    const listed = await answersTo(option(3));
    assert.deepEqual(replyTypes(listed), [2, 1]);
    assert.ok(listed.includes('000000046469736b' + Buffer.from('a disk').toString('hex')));
    const info = await answersTo(encodeOption(6, encodeInfoRequest('disk', [1])));
    assert.deepEqual(replyTypes(info), [3, 3, 3, 3, 1]);
    const { agreement, sent } = await serve(Buffer.from('00000003', 'hex'), option(2));
    assert.equal(agreement, null);
    assert.deepEqual(replyTypes(sent.slice(36)), [1]);
  });

  it('knows base:allocation alone, and only for the export it was asked about', async () => {
    const set = (queries: string[]): Buffer => encodeOption(10, encodeMetaRequest('disk', queries));
    assert.deepEqual(replyTypes(await answersTo(option(8), set(['qemu:allocation-depth']))), [1, 1]);
    assert.deepEqual(replyTypes(await answersTo(option(8), set(['x:y', 'base:allocation']))), [1, 4, 1]);
    const list = encodeOption(9, encodeMetaRequest('disk', []));
    assert.deepEqual(replyTypes(await answersTo(list)), [4, 1]);
    const unknown = encodeOption(10, encodeMetaRequest('abc', ['base:allocation']));
    assert.deepEqual(replyTypes(await answersTo(option(8), unknown)), [1, 0x80000006]);
  });

  it('drops clients with unknown flags, and options of clients without fixed newstyle', async () => {
    await assert.rejects(serve(Buffer.from('00000007', 'hex')), ProtocolError);
    await assert.rejects(serve(Buffer.from('00000002', 'hex'), option(3)), ProtocolError);
  });
});

describe('client handshake', () => {
  it('says what qemu-io says to qemu-nbd, at every split of the answers', async () => {
    for (let split = 0; split <= SERVER_BYTES.length; split++) {
      const transport = pipe([SERVER_BYTES.subarray(0, split), SERVER_BYTES.subarray(split)]);
      const agreement = await negotiateAsClient(transport, WISHES);
      assert.equal(Buffer.concat(transport.sent).toString('hex'), CLIENT_BYTES.toString('hex'));
      assert.deepEqual(agreement, {
        sizeBytes: 2 ** 20,
        flags: 0x0ded,
        structured: true,
        allocationId: 0,
        minBlockBytes: 1,
        preferredBlockBytes: 4096,
        maxBlockBytes: 33554432,
        description: 'a disk',
      });
    }
  });

  it('fails at every truncation and never hangs', async () => {
    for (let end = 0; end < SERVER_BYTES.length; end++) {
      await assert.rejects(negotiateAsClient(pipe([SERVER_BYTES.subarray(0, end)]), WISHES), ColoError);
    }
  });

  it('meets mutated bytes with an agreement or a ColoError', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(SERVER_BYTES.length - 1), fc.nat(255)), { minLength: 1, maxLength: 6 }),
        async (changes) => {
          const bytes = Buffer.from(SERVER_BYTES);
          for (const [at, value] of changes) bytes[at] = value;
          const agreement = await negotiateAsClient(pipe([bytes]), WISHES).catch((error: unknown) => {
            assert.ok(error instanceof ColoError, String(error));
          });
          if (agreement) assert.ok(agreement.maxBlockBytes <= 33554432 && agreement.maxBlockBytes > 0);
        },
      ),
      { numRuns: 500 },
    );
  });

  const reply = (number: number, type: string, text = ''): string =>
    '0003e889045565a9' +
    number.toString(16).padStart(8, '0') +
    type +
    text.length.toString(16).padStart(8, '0') +
    Buffer.from(text).toString('hex');
  const greeting = '4e42444d4147494349484156454f5054';
  const against = (hex: string): ReturnType<typeof negotiateAsClient> =>
    negotiateAsClient(pipe([Buffer.from(hex, 'hex')]), WISHES);

  it('falls back to plain replies, to GO without contexts, and to EXPORT_NAME', async () => {
    const plain = await against(
      greeting + '0003' + reply(8, '80000001') + reply(7, '80000001') + '00000000001000000d6d',
    );
    assert.deepEqual([plain.structured, plain.allocationId, plain.flags], [false, null, 0x0d6d]);
    const steps = (from: number, to: number): string => sentBy('S', from, to).toString('hex');
    const noContext = steps(0, 3) + reply(10, '80000001', 'no') + steps(5, 7);
    const agreement = await against(noContext);
    assert.deepEqual([agreement.structured, agreement.allocationId], [true, null]);
    const oldest = await against(greeting + '0000' + '00000000001000000d6d' + '00'.repeat(124));
    assert.equal(oldest.sizeBytes, 2 ** 20);
  });

  it("tells refusals in QEMU's words with the server's behind them", async () => {
    const start = greeting + '0003' + reply(8, '80000001');
    await assert.rejects(against(start + reply(7, '80000006', "export 'badexport' not present")), {
      name: 'NbdNegotiationError',
      message: "Requested export not available\nserver reported: export 'badexport' not present",
    });
    await assert.rejects(against(greeting + '0003' + reply(8, '80000005')), {
      message:
        'TLS negotiation required before option 8 (structured reply)\nDid you forget a valid tls-creds?',
    });
    await assert.rejects(against('4e42444d41474943' + '0000420281861253'), /oldstyle/);
    await assert.rejects(against('485454502f312e31'), /not an NBD server/);
  });
});
