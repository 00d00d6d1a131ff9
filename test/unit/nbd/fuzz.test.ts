/**
 * A live server against random clients: recorded conversations with bytes changed, cut out and repeated, and requests
 * made at random with a knowledge of the format. It must not crash, hang or touch a byte outside of its image, and must
 * serve a friendly client all the while. Seeds are printed by fast-check when something is found.
 *
 * COLO_FUZZ=N runs N conversations of each kind in place of a few.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import type { NbdExportSource, NbdExtent } from '../../../src/nbd/export.ts';
import { encodeInfoRequest, encodeMetaRequest, encodeOption } from '../../../src/nbd/handshake-wire.ts';
import { NbdClient, NbdServer } from '../../../src/nbd/index.ts';
import { encodeRequest } from '../../../src/nbd/wire.ts';
import { QEMU_CONVERSATION } from './captures.ts';

const RUNS = Number(process.env['COLO_FUZZ'] ?? 60);
const IMAGE_BYTES = 2 ** 20;

/** Notes each access that does not lie in the image; keeps the bytes. */
class WatchedSource implements NbdExportSource {
  readonly lengthBytes = IMAGE_BYTES;
  readonly readOnly: boolean;
  readonly bytes = new Uint8Array(IMAGE_BYTES);
  readonly violations: string[] = [];
  writes = 0;

  constructor(readOnly: boolean) {
    this.readOnly = readOnly;
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    this.#check('read', offset, target.byteLength, false);
    target.set(this.bytes.subarray(offset, offset + target.byteLength));
    return Promise.resolve();
  }

  write(offset: number, source: Uint8Array): Promise<void> {
    this.#check('write', offset, source.byteLength, true);
    this.bytes.set(source, offset);
    return Promise.resolve();
  }

  flush(): Promise<void> {
    return new Promise((resolve) => setImmediate(resolve));
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    this.#check('zero', offset, length, true);
    this.bytes.fill(0, offset, offset + length);
    return Promise.resolve();
  }

  discard(offset: number, length: number): Promise<void> {
    this.#check('discard', offset, length, true);
    return Promise.resolve();
  }

  blockStatus(offset: number, length: number): Promise<NbdExtent[]> {
    this.#check('status', offset, length, false);
    return Promise.resolve([{ offset, length, zero: false, data: true }]);
  }

  #check(what: string, offset: number, length: number, mutates: boolean): void {
    const isInside =
      Number.isSafeInteger(offset) && offset >= 0 && length >= 0 && offset + length <= IMAGE_BYTES;
    if (!isInside || (mutates && this.readOnly)) this.violations.push(`${what} ${offset} ${length}`);
    if (mutates) this.writes++;
  }
}

let server: NbdServer;
let address: { host: string; port: number };
const disk = new WatchedSource(false);
const readOnly = new WatchedSource(true);
const kept = new WatchedSource(false);
let friend: NbdClient;
const rejections: unknown[] = [];
const note = (reason: unknown): void => void rejections.push(reason);

before(async () => {
  process.on('unhandledRejection', note);
  server = new NbdServer({ handshakeTimeoutMs: 2000, maxConnections: 0 });
  server.addExport({ name: 'disk', source: disk, writable: true, description: 'a disk' });
  server.addExport({ name: 'ro', source: readOnly, writable: true });
  server.addExport({ name: 'kept', source: kept, writable: true });
  const listening = await server.listen({ host: '127.0.0.1', port: 0 });
  if (!('port' in listening)) throw new Error('not an inet address');
  address = listening;
  friend = await NbdClient.connect(address, { exportName: 'kept', requestTimeoutMs: Infinity });
});
after(async () => {
  await friend.close();
  await server.close();
  process.off('unhandledRejection', note);
});

/** Sends the pieces as they are, ends, and reads to the end; the server has to hang up by itself. */
async function converse(pieces: readonly Uint8Array[], end: 'fin' | 'reset'): Promise<number> {
  const socket = connect(address.port, address.host);
  socket.on('error', () => undefined);
  let received = 0;
  socket.on('data', (chunk: Buffer) => (received += chunk.length));
  const closed = once(socket, 'close');
  await once(socket, 'connect');
  for (const piece of pieces) socket.write(piece);
  if (end === 'fin') socket.end();
  else {
    await new Promise((resolve) => setImmediate(resolve));
    socket.resetAndDestroy();
  }
  await closed;
  return received;
}

let marks = 0;

/** What must hold after each conversation. */
async function stillSound(): Promise<void> {
  const mark = Buffer.alloc(8);
  mark.writeUInt32BE(++marks);
  await friend.write(512, mark);
  const back = Buffer.alloc(8);
  await friend.read(512, back);
  assert.equal(back.compare(mark), 0);
  assert.deepEqual([...disk.violations, ...readOnly.violations, ...kept.violations], []);
  assert.equal(kept.writes, marks);
  assert.deepEqual(rejections, []);
}

const recorded = QEMU_CONVERSATION.filter(([side]) => side === 'C').map(([, hex]) => Buffer.from(hex, 'hex'));
const end = fc.constantFrom('fin' as const, 'reset' as const);

/** A change of a recorded conversation: where, and what. */
const mutation = fc.oneof(
  fc.record({ kind: fc.constant('set' as const), at: fc.nat(), value: fc.nat(255) }),
  fc.record({ kind: fc.constant('flip' as const), at: fc.nat(), value: fc.nat(7) }),
  fc.record({ kind: fc.constant('cut' as const), at: fc.nat(), value: fc.nat(64) }),
  fc.record({ kind: fc.constant('repeat' as const), at: fc.nat(), value: fc.nat(64) }),
  fc.record({ kind: fc.constant('extreme' as const), at: fc.nat(), value: fc.nat(3) }),
);

function mutate(bytes: Buffer, { kind, at, value }: { kind: string; at: number; value: number }): Buffer {
  if (bytes.length === 0) return bytes;
  const position = at % bytes.length;
  const out = Buffer.from(bytes);
  switch (kind) {
    case 'set':
      out[position] = value;
      return out;
    case 'flip':
      out[position] = out[position]! ^ (1 << value);
      return out;
    case 'cut':
      return Buffer.concat([out.subarray(0, position), out.subarray(position + value)]);
    case 'repeat':
      return Buffer.concat([out.subarray(0, position + value), out.subarray(position)]);
    default:
      // A length or an offset at its edges.
      if (position + 4 <= out.length)
        out.writeUInt32BE([0, 0xffffffff, 0x80000000, 32 * 2 ** 20 + 1][value]!, position);
      return out;
  }
}

const number = fc.oneof(
  fc.nat(IMAGE_BYTES),
  fc.constantFrom(
    0,
    1,
    511,
    IMAGE_BYTES - 1,
    IMAGE_BYTES,
    IMAGE_BYTES + 1,
    2 ** 31,
    2 ** 32 - 1,
    2 ** 53 - 1,
  ),
);
const anyRequest = fc
  .record({
    type: fc.oneof(fc.nat(10), fc.nat(65535)),
    flags: fc.oneof(fc.constant(0), fc.nat(31), fc.nat(65535)),
    cookie: fc.nat(),
    offset: number,
    length: number,
    payload: fc.oneof(
      { weight: 9, arbitrary: fc.constant('right' as const) },
      fc.constantFrom('short' as const, 'long' as const),
    ),
  })
  .map(({ type, flags, cookie, offset, length, payload }) => {
    const header = Buffer.alloc(28);
    encodeRequest(header, 0, flags, type, 0, cookie, offset, length % 2 ** 32);
    if (type !== 1 || length > IMAGE_BYTES + 1) return header;
    const bytes = Math.max(0, length + { right: 0, short: -1, long: 1 }[payload]);
    return Buffer.concat([header, Buffer.alloc(bytes, 0x77)]);
  });

const exportName = fc.constantFrom('disk', 'ro', 'nowhere', '');
const anyOption = fc.oneof(
  fc
    .record({ option: fc.nat(12), data: fc.uint8Array({ maxLength: 80 }) })
    .map(({ option, data }) => encodeOption(option, data)),
  exportName.map((name) => encodeOption(6, encodeInfoRequest(name, [0, 1, 2, 3]))),
  exportName.map((name) => encodeOption(10, encodeMetaRequest(name, ['base:allocation', 'qemu:x']))),
  fc.constant(encodeOption(8, Buffer.alloc(0))),
  fc.constant(encodeOption(3, Buffer.alloc(0))),
  fc.constant(encodeOption(5, Buffer.alloc(0))),
);
const go = fc.constantFrom('disk', 'ro').map((name) => encodeOption(7, encodeInfoRequest(name, [])));

describe('a live NBD server', () => {
  it('bears recorded conversations with changes', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(mutation, { minLength: 1, maxLength: 6 }), end, async (changes, how) => {
        const bytes = changes.reduce(mutate, Buffer.concat(recorded));
        await converse([bytes], how);
        await stillSound();
      }),
      { numRuns: RUNS },
    );
  });

  it('bears options and requests made at random, in pieces of any size', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(anyOption, { maxLength: 8 }),
        go,
        fc.array(anyRequest, { maxLength: 40 }),
        fc.integer({ min: 1, max: 70_000 }),
        end,
        async (options, enter, requests, pieceBytes, how) => {
          const flags = Buffer.from('00000003', 'hex');
          const bytes = Buffer.concat([flags, ...options, enter, ...requests]);
          const step = Math.max(pieceBytes, Math.ceil(bytes.length / 50));
          const pieces = [];
          for (let at = 0; at < bytes.length; at += step) pieces.push(bytes.subarray(at, at + step));
          await converse(pieces, how);
          await stillSound();
        },
      ),
      { numRuns: RUNS },
    );
  });

  it('bears many such clients at once', async () => {
    const crowd = fc.sample(
      fc.tuple(go, fc.array(anyRequest, { minLength: 5, maxLength: 30 }), end),
      Math.min(RUNS, 200),
    );
    const flags = Buffer.from('00000003', 'hex');
    await Promise.all(crowd.map(([enter, requests, how]) => converse([flags, enter, ...requests], how)));
    await stillSound();
    while (server.clientCount > 1) await new Promise((resolve) => setImmediate(resolve));
  });
});
