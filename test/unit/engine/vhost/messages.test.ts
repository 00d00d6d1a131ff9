/** The protocol's messages as a running QEMU 7.2 sends them (iPXE boots, then `stop`), and such as none may send. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ProtocolError } from '../../../../src/base/errors.ts';
import {
  HEADER_BYTES,
  MAX_PAYLOAD_BYTES,
  encodeStateReply,
  encodeU64Reply,
  parseHeader,
  parseMessage,
} from '../../../../src/engine/qemu/vhost/messages.ts';
import type { Message } from '../../../../src/engine/qemu/vhost/messages.ts';

function parse(hex: string, fds: number): Message {
  const bytes = Buffer.from(hex, 'hex');
  const header = parseHeader(bytes);
  assert.equal(header.payloadBytes, bytes.length - HEADER_BYTES);
  return parseMessage(header, bytes.subarray(HEADER_BYTES), fds);
}

const CAPTURED: [hex: string, fds: number, Message][] = [
  ['010000000100000000000000', 0, { name: 'GET_FEATURES' }],
  ['0f0000000100000000000000', 0, { name: 'GET_PROTOCOL_FEATURES' }],
  ['1000000001000000080000000200000000000000', 0, { name: 'SET_PROTOCOL_FEATURES', value: 2n }],
  ['030000000100000000000000', 0, { name: 'SET_OWNER' }],
  ['0d00000001000000080000000100000000000000', 1, { name: 'SET_VRING_CALL', ring: 1, isPolled: false }],
  ['0e00000001000000080000000000000000000000', 1, { name: 'SET_VRING_ERR', ring: 0, isPolled: false }],
  ['1200000001000000080000000100000001000000', 0, { name: 'SET_VRING_ENABLE', ring: 1, value: 1 }],
  ['0200000001000000080000000000004001000000', 0, { name: 'SET_FEATURES', value: 0x140000000n }],
  [
    '05000000010000002800000001000000000000000000000000000000000000020000000000d08f5c8d7f00000000000000000000',
    1,
    {
      name: 'SET_MEM_TABLE',
      regions: [{ guestAddress: 0, byteLength: 0x2000000, userAddress: 0x7f8d5c8fd000, fileOffset: 0 }],
    },
  ],
  ['0800000001000000080000000000000000010000', 0, { name: 'SET_VRING_NUM', ring: 0, value: 256 }],
  ['0a00000001000000080000000100000000000000', 0, { name: 'SET_VRING_BASE', ring: 1, value: 0 }],
  [
    '090000000100000028000000010000000000000000207f5e8d7f000000407f5e8d7f000000307f5e8d7f00000070ef0100000000',
    0,
    {
      name: 'SET_VRING_ADDR',
      ring: 1,
      descriptors: 0x7f8d5e7f2000,
      used: 0x7f8d5e7f4000,
      available: 0x7f8d5e7f3000,
    },
  ],
  ['0c00000001000000080000000100000000000000', 1, { name: 'SET_VRING_KICK', ring: 1, isPolled: false }],
  ['0b00000001000000080000000100000000000000', 0, { name: 'GET_VRING_BASE', ring: 1, value: 0 }],
];

void describe('vhost-user messages', () => {
  it('are read as QEMU means them', () => {
    for (const [hex, fds, message] of CAPTURED) assert.deepEqual(parse(hex, fds), message);
    assert.deepEqual(parse('0c00000001000000080000000101000000000000', 0), {
      name: 'SET_VRING_KICK',
      ring: 1,
      isPolled: true,
    });
    assert.equal(parseHeader(Buffer.from('010000000900000000000000', 'hex')).needsReply, true);
  });

  it('are answered as it expects', () => {
    assert.equal(encodeU64Reply(1, 0x140000000n).toString('hex'), '0100000005000000080000000000004001000000');
    assert.equal(encodeStateReply(11, 1, 0x1234).toString('hex'), '0b00000005000000080000000100000034120000');
  });

  it('that make no sense are refused', () => {
    const cases: [string, string, number][] = [
      ['another version', '010000000200000000000000', 0],
      ['an answer', '010000000500000000000000', 0],
      ['request 0', '000000000100000000000000', 0],
      ['a request that was not offered', '210000000100000000000000', 0],
      ['a long payload', '05000000010000000a010000', 0],
      ['features of four bytes', '02000000010000000400000000000040', 0],
      ['descriptors where none belong', '010000000100000000000000', 1],
      ['a kick without a descriptor', '0c00000001000000080000000000000000000000', 0],
      ['a kick with one that is to be polled', '0c00000001000000080000000001000000000000', 1],
      ['an empty table', '050000000100000000000000', 0],
      ['a table that is shorter than it says', '0500000001000000080000000100000000000000', 1],
      ['a table of nine', '0500000001000000080000000900000000000000', 9],
      ['more regions than descriptors', CAPTURED[8]![0], 0],
      [
        'an address beyond all memory',
        '050000000100000028000000010000000000000000000000000000ff0000000200000000000d08f5c8d7f00000000000000000000'.slice(
          0,
          104,
        ),
        1,
      ],
    ];
    for (const [what, hex, fds] of cases) assert.throws(() => parse(hex, fds), ProtocolError, what);
  });

  it('of random bytes are refused or read', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 24 }),
        fc.uint8Array({ maxLength: MAX_PAYLOAD_BYTES }),
        fc.nat(9),
        (request, payload, fds) => {
          const bytes = Buffer.alloc(HEADER_BYTES);
          bytes.writeUInt32LE(request, 0);
          bytes.writeUInt32LE(1, 4);
          bytes.writeUInt32LE(payload.length, 8);
          try {
            parseMessage(parseHeader(bytes), Buffer.from(payload), fds);
          } catch (error) {
            assert.ok(error instanceof ProtocolError, String(error));
          }
        },
      ),
    );
  });
});
