import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { Deferred } from '../../../src/base/async.ts';
import { IoError } from '../../../src/base/errors.ts';
import { encodeInfoRequest, encodeMetaRequest, encodeOption } from '../../../src/nbd/handshake-wire.ts';
import { NbdClient, NbdServer } from '../../../src/nbd/index.ts';
import { encodeRequest } from '../../../src/nbd/wire.ts';
import { QEMU_CONVERSATION } from './captures.ts';
import { MemorySource, RawPeer, startServer, temporaryDirectory } from './support.ts';

const READ = 0;
const WRITE = 1;
const DISC = 2;
const FLUSH = 3;
const TRIM = 4;
const CACHE = 5;
const WRITE_ZEROES = 6;
const BLOCK_STATUS = 7;

function request(type: number, offset: number, length: number, flags = 0, cookie = 7): Buffer {
  const out = Buffer.alloc(28);
  encodeRequest(out, 0, flags, type, 0, cookie, offset, length);
  return out;
}

interface Setup {
  readonly server: NbdServer;
  readonly address: { host: string; port: number };
  readonly source: MemorySource;
  readonly peer: RawPeer;
  /** Sends a request and returns the error of its simple reply. */
  readonly ask: (bytes: Uint8Array) => Promise<number>;
}

/** A server with an export `disk` of 1 MiB and a client past the handshake, with simple replies. */
async function setUp(
  t: TestContext,
  options: { writable?: boolean; fastZeroes?: boolean } = {},
): Promise<Setup> {
  const { server, ...address } = await startServer(t);
  const source = new MemorySource(2 ** 20);
  server.addExport({ name: 'disk', source, writable: true, ...options });
  const peer = await enter(t, address);
  const ask = async (bytes: Uint8Array): Promise<number> => {
    peer.send(bytes);
    const reply = await peer.receive(16);
    assert.equal(reply.slice(0, 8) + reply.slice(16), '67446698' + '0000000000000007');
    return parseInt(reply.slice(8, 16), 16);
  };
  return { server, address, source, peer, ask };
}

async function enter(t: TestContext, address: { host: string; port: number }): Promise<RawPeer> {
  const peer = await RawPeer.connect(t, address);
  peer.send('00000003', encodeOption(7, encodeInfoRequest('disk', [])));
  await peer.receive(18 + 34 + 32 + 20);
  return peer;
}

async function enterStructured(t: TestContext, address: { host: string; port: number }): Promise<RawPeer> {
  const peer = await RawPeer.connect(t, address);
  const meta = encodeMetaRequest('disk', ['base:allocation']);
  peer.send('00000003', encodeOption(8, Buffer.alloc(0)), encodeOption(10, meta));
  peer.send(encodeOption(7, encodeInfoRequest('disk', [])));
  await peer.receive(18 + 20 + 39 + 20 + 34 + 32 + 20);
  return peer;
}

describe('NBD server', () => {
  it('answers a recorded conversation of qemu-io byte for byte as qemu-nbd did', async (t) => {
    const { server, ...address } = await startServer(t);
    server.addExport({
      name: 'disk',
      source: new MemorySource(2 ** 20),
      writable: true,
      description: 'a disk',
    });
    const peer = await RawPeer.connect(t, address);
    for (const [side, hex] of QEMU_CONVERSATION) {
      if (side === 'S') assert.equal(await peer.receive(hex.length / 2), hex);
      else for (const byte of Buffer.from(hex, 'hex')) peer.send(Uint8Array.of(byte));
    }
    await peer.closed;
  });

  it('refuses with EINVAL whatever is out of range, unknown or misflagged, and goes on', async (t) => {
    const { ask, peer, source } = await setUp(t);
    const end = 2 ** 20;
    assert.equal(await ask(request(READ, end - 1, 2)), 22);
    assert.equal(await ask(Buffer.concat([request(WRITE, end, 1), Buffer.alloc(1)])), 22);
    assert.equal(await ask(request(READ, 2 ** 53 - 1, 1)), 22);
    const beyond = request(READ, 0, 1);
    beyond.fill(0xff, 16, 24);
    assert.equal(await ask(beyond), 22);
    assert.equal(await ask(request(READ, 0, 32 * 2 ** 20 + 1)), 22);
    assert.equal(await ask(request(READ, 0, 512, 8)), 22);
    assert.equal(await ask(request(BLOCK_STATUS, 0, 512)), 22);
    assert.equal(await ask(request(9, 0, 0)), 22);
    assert.deepEqual(source.calls, []);
    peer.send(request(READ, 1, 3));
    assert.equal(await peer.receive(19), '67446698' + '00000000' + '0000000000000007' + '000000');
  });

  it('hands each command to the source with its flags', async (t) => {
    const { ask, source } = await setUp(t, { fastZeroes: true });
    assert.equal(await ask(Buffer.concat([request(WRITE, 512, 4, 1), Buffer.from('abcd')])), 0);
    assert.equal(await ask(request(FLUSH, 0, 0)), 0);
    assert.equal(await ask(request(TRIM, 0, 4096, 1)), 0);
    assert.equal(await ask(request(CACHE, 0, 4096)), 0);
    assert.equal(await ask(request(WRITE_ZEROES, 0, 4096)), 0);
    assert.equal(await ask(request(WRITE_ZEROES, 0, 4096, 1 | 2)), 0);
    assert.equal(await ask(request(WRITE_ZEROES, 0, 4096, 16)), 0);
    assert.deepEqual(source.calls, [
      'write 512 4 fua',
      'flush',
      ...['discard 0 4096', 'flush'],
      'zero 0 4096 unmap',
      'zero 0 4096 fua',
      'zero 0 4096 unmap',
    ]);
  });

  it('gives the source plain arrays, whose slices are copies, and uses their memory again later', async (t) => {
    const { ask, source } = await setUp(t);
    const kept: Uint8Array[] = [];
    source.write = (_offset, bytes) => {
      kept.push(bytes.slice());
      return Promise.resolve();
    };
    for (const fill of [1, 2, 3]) {
      assert.equal(await ask(Buffer.concat([request(WRITE, 0, 100_000), Buffer.alloc(100_000, fill)])), 0);
    }
    assert.equal(await ask(Buffer.concat([request(WRITE, 0, 10), Buffer.alloc(10, 4)])), 0);
    assert.deepEqual(
      kept.map((bytes) => [bytes.length, bytes.every((byte) => byte === bytes[0]), bytes[0]]),
      [1, 2, 3].map((fill) => [100_000, true, fill] as unknown[]).concat([[10, true, 4]]),
    );
  });

  it('refuses a fast zero where zeroing is slow', async (t) => {
    const { ask, source } = await setUp(t);
    assert.equal(await ask(request(WRITE_ZEROES, 0, 4096, 16)), 95);
    assert.deepEqual(source.calls, []);
  });

  it('writes nothing to a read-only export, and says so in its flags', async (t) => {
    const { ask, source, address } = await setUp(t, { writable: false });
    assert.equal(await ask(Buffer.concat([request(WRITE, 0, 1), Buffer.alloc(1)])), 22);
    assert.equal(await ask(request(WRITE_ZEROES, 0, 1)), 22);
    assert.equal(await ask(request(TRIM, 0, 1)), 22);
    assert.equal(await ask(request(FLUSH, 0, 0)), 0);
    assert.deepEqual(source.calls, ['flush']);
    const peer = await RawPeer.connect(t, address);
    peer.send('00000003', encodeOption(1, Buffer.from('disk')));
    assert.equal((await peer.receive(28)).slice(36), '0000000000100000050f');
  });

  it("tells the source's errors, with their text when replies are structured", async (t) => {
    const { ask, source, address } = await setUp(t);
    source.before = () => Promise.reject(new IoError('ENOSPC', 'disk full'));
    assert.equal(await ask(Buffer.concat([request(WRITE, 0, 1), Buffer.alloc(1)])), 28);
    assert.equal(await ask(request(READ, 0, 512)), 28);
    const peer = await enterStructured(t, address);
    peer.send(request(READ, 0, 512));
    const expected = '668e33ef' + '0001' + '8001' + '0000000000000007' + '0000000f' + '0000001c' + '0009';
    assert.equal(await peer.receive(35), expected + Buffer.from('disk full').toString('hex'));
  });

  it('answers empty structured reads, and several extents', async (t) => {
    const { source, address } = await setUp(t);
    await source.write(4096, Buffer.alloc(8192, 1));
    const peer = await enterStructured(t, address);
    peer.send(request(READ, 0, 0));
    assert.equal(await peer.receive(20), '668e33ef' + '0001' + '0000' + '0000000000000007' + '00000000');
    peer.send(request(BLOCK_STATUS, 2048, 12288));
    assert.equal(
      await peer.receive(48),
      '668e33ef' +
        '0001' +
        '0005' +
        '0000000000000007' +
        '0000001c' +
        '00000000' +
        ('00000800' + '00000003') +
        ('00002000' + '00000000') +
        ('00000800' + '00000003'),
    );
  });

  it('says no to an oversized write and hangs up', async (t) => {
    const { ask, peer } = await setUp(t);
    assert.equal(await ask(request(WRITE, 0, 32 * 2 ** 20 + 1)), 22);
    await peer.closed;
  });

  it('hangs up on a wrong magic, and serves on', async (t) => {
    const { peer, address } = await setUp(t);
    peer.send('00'.repeat(28));
    await peer.closed;
    const client = await NbdClient.connect(address, { exportName: 'disk' });
    await client.read(0, new Uint8Array(10));
    await client.close();
  });

  it('works on at most 16 requests of a client, and stops reading meanwhile', async (t) => {
    const { peer, source } = await setUp(t);
    const held = new Deferred<void>();
    const sixteen = new Deferred<void>();
    source.before = () => {
      if (source.calls.length === 16) sixteen.resolve();
      return held.promise;
    };
    for (let index = 0; index < 40; index++) peer.send(request(READ, 0, 1, 0, index));
    await sixteen.promise;
    // Whatever else the server might start, it would start before it answers another client's request.
    await peerRoundTrip(t, peer);
    assert.equal(source.calls.length, 16);
    held.resolve();
    await peer.receive(40 * 17);
    assert.equal(source.calls.length, 40);
  });

  it('finishes what a client sent before DISC, and what one sent before it hung up', async (t) => {
    const { source, address, peer } = await setUp(t);
    const held = new Deferred<void>();
    const started = new Deferred<void>();
    source.before = () => {
      started.resolve();
      return held.promise;
    };
    peer.send(request(WRITE, 0, 2), '6869', request(DISC, 0, 0));
    await started.promise;
    held.resolve();
    assert.equal(await peer.receive(16), '67446698' + '00000000' + '0000000000000007');
    await peer.closed;
    const rude = await enter(t, address);
    rude.send(request(WRITE, 2, 1), '21');
    rude.socket.end();
    await rude.closed;
    assert.equal(source.bytes.toString('latin1', 0, 3), 'hi!');
    const half = await enter(t, address);
    half.send(request(WRITE, 2, 2), '21');
    half.socket.end();
    await half.closed;
    assert.equal(source.calls.length, 2);
  });

  it('holds a bounded amount for a client that does not read, and drops it at once on close', async (t) => {
    const { peer, source, server } = await setUp(t);
    const big = new MemorySource(64 * 2 ** 20);
    server.addExport({ name: 'big', source: big, writable: false });
    const client = await RawPeer.connect(t, server.address as { host: string; port: number });
    client.send('00000003', encodeOption(1, Buffer.from('big')));
    await client.receive(28);
    client.socket.pause();
    const full = new Deferred<void>();
    big.before = () => {
      if (big.calls.length === 3) full.resolve();
      return Promise.resolve();
    };
    for (let index = 0; index < 16; index++) client.send(request(READ, 0, 16 * 2 ** 20));
    await full.promise;
    // 48 MiB in flight: the next read has to wait for this client to read.
    await peerRoundTrip(t, peer);
    assert.equal(big.calls.length, 3);
    // A source that never answers does not hold it either.
    source.before = () => new Promise(() => undefined);
    peer.send(request(FLUSH, 0, 0));
    await server.close();
    await peer.closed;
  });

  it('removes an export after its requests, and keeps the clients of others', async (t) => {
    const { server, source, peer, address } = await setUp(t);
    server.addExport({ name: 'other', source: new MemorySource(4096), writable: false });
    const other = await NbdClient.connect(address, { exportName: 'other' });
    const held = new Deferred<void>();
    const started = new Deferred<void>();
    source.before = () => {
      started.resolve();
      return held.promise;
    };
    peer.send(request(FLUSH, 0, 0));
    await started.promise;
    const removed = server.removeExport('disk');
    await assert.rejects(
      NbdClient.connect(address, { exportName: 'disk' }),
      /Requested export not available/,
    );
    held.resolve();
    assert.equal(await peer.receive(16), '67446698' + '00000000' + '0000000000000007');
    assert.equal(await removed, true);
    await peer.closed;
    assert.equal(await server.removeExport('disk'), false);
    await other.read(0, new Uint8Array(1));
    await other.close();
  });

  it('drops a client that dawdles in the handshake, and one that floods options without reading', async (t) => {
    const { server, ...address } = await startServer(t, { handshakeTimeoutMs: 50 });
    server.addExport({ name: 'disk', source: new MemorySource(512), writable: false });
    const slow = await RawPeer.connect(t, address);
    slow.send('00000003');
    await slow.closed;
    const flood = await RawPeer.connect(t, address);
    flood.socket.pause();
    const options = Buffer.concat(Array<Buffer>(1000).fill(encodeOption(3, Buffer.alloc(0))));
    flood.send('00000003');
    const closed = once(flood.socket, 'close').catch(() => undefined);
    for (let index = 0; index < 200; index++) flood.send(options);
    await waitFor(() => server.clientCount === 0);
    flood.socket.destroy();
    await closed;
  });

  it('takes no more clients than allowed', async (t) => {
    const { server, ...address } = await startServer(t, { maxConnections: 1 });
    server.addExport({ name: '', source: new MemorySource(512), writable: true });
    const first = await NbdClient.connect(address);
    assert.equal(first.canMultiConn, false);
    const second = await RawPeer.connect(t, address);
    await second.closed;
    await first.close();
    await waitFor(() => server.clientCount === 0);
    await (await NbdClient.connect(address)).close();
  });

  it('listens on a unix socket, over one that was left behind, and says why it cannot listen', async (t) => {
    const path = join(await temporaryDirectory(t), 'socket');
    const abandoned = createServer();
    await new Promise<void>((resolve) => abandoned.listen(path, resolve));
    const server = new NbdServer();
    t.after(() => server.close());
    t.after(() => void abandoned.close());
    server.addExport({ name: '', source: new MemorySource(512), writable: true });
    await server.listen({ path });
    await (await NbdClient.connect({ path })).close();
    await assert.rejects(server.listen({ path }), { message: 'NBD server already running' });
    const { port } = (await startServer(t)) as { port: number };
    await assert.rejects(new NbdServer().listen({ host: '127.0.0.1', port }), {
      message: `Failed to listen on '127.0.0.1:${port}': Address already in use`,
    });
    assert.throws(
      () => server.addExport({ name: '', source: new MemorySource(1), writable: true }),
      /already has/,
    );
  });
});

/** A request of a second client of `peer`'s server, there and back. */
async function peerRoundTrip(t: TestContext, peer: RawPeer): Promise<void> {
  const { remoteAddress, remotePort } = peer.socket;
  const other = await RawPeer.connect(t, { host: remoteAddress ?? '', port: remotePort ?? 0 });
  other.send('00000003', encodeOption(3, Buffer.alloc(0)), encodeOption(2, Buffer.alloc(0)));
  await other.closed;
}

async function waitFor(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
}
