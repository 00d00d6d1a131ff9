import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { Deferred } from '../../../src/base/async.ts';
import { ClosedError, IoError, ProtocolError } from '../../../src/base/errors.ts';
import { NbdClient, type NbdClientOptions } from '../../../src/nbd/index.ts';
import { standStill } from '../../helpers/stand-still.ts';
import { HANDSHAKE_STEPS, QEMU_CONVERSATION, sentBy } from './captures.ts';
import type { RawPeer } from './support.ts';
import { MemorySource, startLiar, startServer } from './support.ts';

const MIB = 2 ** 20;
const SERVER = path.join(import.meta.dirname, 'hostile-server.ts');

/** A client of a real server with one source. */
async function setUp(
  t: TestContext,
  options: NbdClientOptions & { lengthBytes?: number } = {},
): Promise<{ client: NbdClient; source: MemorySource }> {
  const { server, ...address } = await startServer(t);
  const source = new MemorySource(options.lengthBytes ?? MIB);
  server.addExport({ name: '', source, writable: true });
  const client = await NbdClient.connect(address, options);
  t.after(() => client.abort());
  return { client, source };
}

interface WireRequest {
  readonly type: number;
  readonly cookie: string;
  readonly length: number;
}

/** A client of a server that shakes hands as recorded from qemu-nbd, then answers as `lie` says. */
async function setUpLiar(
  t: TestContext,
  lie: (peer: RawPeer, next: () => Promise<WireRequest>) => Promise<void>,
  options: NbdClientOptions = {},
): Promise<NbdClient> {
  const address = await startLiar(t, async (peer) => {
    for (const [side, hex] of QEMU_CONVERSATION.slice(0, HANDSHAKE_STEPS)) {
      if (side === 'S') peer.send(hex);
      else await peer.receive(hex.length / 2);
    }
    const next = async (): Promise<WireRequest> => {
      const header = await peer.reader.read(28);
      const [type, length] = [header.readUInt16BE(6), header.readUInt32BE(24)];
      if (type === 1) await peer.reader.skip(length);
      return { type, cookie: header.toString('hex', 8, 16), length };
    };
    await lie(peer, next);
  });
  const client = await NbdClient.connect(address, { exportName: 'disk', ...options });
  t.after(() => client.abort());
  return client;
}

function chunk(cookie: string, flags: number, type: number, payload: string): string {
  const [f, k] = [flags, type].map((value) => value.toString(16).padStart(4, '0'));
  return `668e33ef${f}${k}${cookie}${(payload.length / 2).toString(16).padStart(8, '0')}${payload}`;
}

function u64(value: number): string {
  return value.toString(16).padStart(16, '0');
}

/** Expects `work` to fail with an IoError whose cause is a ProtocolError. */
async function assertProtocolError(work: Promise<unknown>, message: RegExp): Promise<void> {
  await assert.rejects(work, (error: unknown) => {
    assert.ok(error instanceof IoError && error.cause instanceof ProtocolError, String(error));
    assert.equal(error.errno, 'EIO');
    assert.match(error.message, message);
    return true;
  });
}

describe('NBD client', () => {
  for (const structuredReplies of [true, false]) {
    it(`moves data of any size, many at once (${structuredReplies ? 'structured' : 'simple'} replies)`, async (t) => {
      const { client, source } = await setUp(t, { structuredReplies, lengthBytes: 40 * MIB });
      assert.equal(client.hasStructuredReplies, structuredReplies);
      const big = Buffer.alloc(33 * MIB, 'some pattern');
      await client.write(100, big);
      const back = Buffer.alloc(33 * MIB);
      await client.read(100, back);
      assert.ok(back.equals(big));
      assert.deepEqual(
        source.calls.map((call) => call.split(' ')[2]),
        [32, 1, 32, 1].map((size) => String(size * MIB)),
      );
      await Promise.all(
        Array.from({ length: 100 }, async (_, index) => {
          const bytes = Buffer.alloc(1 + index * 997, index + 1);
          await client.write(index * 100_000, bytes);
          const read = Buffer.alloc(bytes.length);
          await client.read(index * 100_000, read);
          assert.ok(read.equals(bytes), `piece ${index}`);
        }),
      );
      await client.read(0, new Uint8Array(0));
      await client.close();
    });
  }

  it('passes flags on, and puts a flush in the place of a missing FUA', async (t) => {
    const { client, source } = await setUp(t);
    await client.write(0, Buffer.from('x'), { fua: true });
    await client.writeZeroes(0, 4096, { unmap: false });
    await client.writeZeroes(0, 4096, { fua: true });
    await client.trim(4096, 4096);
    await client.cache(0, 4096);
    await client.flush();
    const expected = ['write 0 1 fua', 'zero 0 4096', 'zero 0 4096 fua unmap', 'discard 4096 4096', 'flush'];
    assert.deepEqual(source.calls, expected);
    const types: number[] = [];
    const address = await startLiar(t, async (peer) => {
      // No structured replies, no GO; an export with flush and nothing else.
      peer.send(sentBy('S', 0, 1));
      await peer.receive(4 + 16);
      peer.send('0003e889045565a9', '00000008', '80000001', '00000000');
      await peer.receive(16 + 8);
      peer.send('0003e889045565a9', '00000007', '80000001', '00000000');
      await peer.receive(16);
      peer.send(u64(MIB), '0005');
      for (;;) {
        const header = await peer.reader.read(28);
        types.push(header.readUInt16BE(6) * 16 + header.readUInt16BE(4));
        await peer.reader.skip(header.readUInt16BE(6) === 1 ? header.readUInt32BE(24) : 0);
        peer.send('67446698', '00000000', header.subarray(8, 16));
      }
    });
    const poor = await NbdClient.connect(address);
    await poor.write(0, Buffer.from('x'), { fua: true });
    await poor.trim(0, 512);
    await poor.cache(0, 512);
    await assert.rejects(poor.writeZeroes(0, 512), { errno: 'ENOTSUP' });
    assert.deepEqual(await poor.blockStatus(0, 512), [{ offset: 0, length: 512, zero: false, data: true }]);
    poor.abort();
    assert.deepEqual(types, [0x10, 0x30]);
  });

  it('tells data from holes, in extents that cover exactly the range', async (t) => {
    const { client, source } = await setUp(t);
    await source.write(8192, Buffer.alloc(5000, 1));
    assert.deepEqual(await client.blockStatus(100, 20_000), [
      { offset: 100, length: 8092, zero: true, data: false },
      { offset: 8192, length: 8192, zero: false, data: true },
      { offset: 16384, length: 3716, zero: true, data: false },
    ]);
  });

  it('checks ranges and read-only exports itself', async (t) => {
    const { client } = await setUp(t);
    await assert.rejects(client.read(MIB, new Uint8Array(1)), { errno: 'EINVAL' });
    await assert.rejects(client.write(-1, new Uint8Array(1)), { errno: 'EINVAL' });
    const { server, ...address } = await startServer(t);
    server.addExport({ name: '', source: new MemorySource(512), writable: false });
    const reader = await NbdClient.connect(address);
    await assert.rejects(reader.write(0, new Uint8Array(1)), { errno: 'EPERM' });
    await reader.close();
  });

  it("gives the server's errors to the one request they belong to", async (t) => {
    const { client, source } = await setUp(t);
    source.before = (call) =>
      call.startsWith('read 512 ') ? Promise.reject(new IoError('ENOSPC', 'no room')) : Promise.resolve();
    const results = await Promise.allSettled([
      client.read(0, new Uint8Array(1)),
      client.read(512, new Uint8Array(1)),
      client.read(1024, new Uint8Array(1)),
    ]);
    assert.deepEqual(
      results.map(({ status }) => status),
      ['fulfilled', 'rejected', 'fulfilled'],
    );
    const { reason } = results[1] as { reason: IoError };
    assert.equal(reason.errno, 'ENOSPC');
    assert.match(reason.message, /No space left on device \(server reported: no room\)/);
    assert.equal(client.death, null);
  });

  it("says in QEMU's words what it cannot connect to", async (t) => {
    const { server, ...address } = await startServer(t);
    await assert.rejects(NbdClient.connect(address, { exportName: 'badexport' }), {
      message: "Requested export not available\nserver reported: export 'badexport' not present",
    });
    await server.close();
    await assert.rejects(NbdClient.connect(address), {
      name: 'NbdConnectError',
      message: `Failed to connect to '127.0.0.1:${address.port}': Connection refused`,
    });
    await assert.rejects(NbdClient.connect({ path: '/nonexistent/socket' }), {
      message: "Failed to connect to '/nonexistent/socket': No such file or directory",
    });
  });

  it('gives up connecting at its deadline or when told to', async (t) => {
    const address = await startLiar(t, () => new Promise(() => undefined));
    await assert.rejects(NbdClient.connect(address, { connectTimeoutMs: 30 }), /Connection timed out/);
    const abort = new AbortController();
    const connecting = NbdClient.connect(address, { signal: abort.signal });
    abort.abort();
    await assert.rejects(connecting, ClosedError);
  });

  it('fails everything in order when the server stalls, and stays dead', async (t) => {
    const client = await setUpLiar(
      t,
      async (_peer, next) => {
        for (;;) await next();
      },
      { requestTimeoutMs: 60 },
    );
    const lost = new Deferred<IoError>();
    client.onLost(lost.resolve);
    const order: number[] = [];
    const work = Array.from({ length: 40 }, (_, index) =>
      client.read(index, new Uint8Array(1)).catch((error: unknown) => {
        order.push(index);
        return (error as IoError).errno;
      }),
    );
    assert.deepEqual(new Set(await Promise.all(work)), new Set(['ETIMEDOUT']));
    assert.deepEqual(order, [...Array(40).keys()]);
    assert.equal((await lost.promise).errno, 'ETIMEDOUT');
    await assert.rejects(client.flush(), { errno: 'ETIMEDOUT' });
    await client.close();
  });

  it('waits longer than its deadline for a reply that gets on', async (t) => {
    const client = await setUpLiar(
      t,
      async (peer, next) => {
        const { cookie } = await next();
        const bytes = Buffer.from(chunk(cookie, 1, 1, u64(0) + '61'.repeat(8)), 'hex');
        peer.send(bytes.subarray(0, 20));
        for (const byte of bytes.subarray(20)) {
          await new Promise((resolve) => setTimeout(resolve, 100));
          peer.send(Uint8Array.of(byte));
        }
      },
      { requestTimeoutMs: 1000 },
    );
    const target = Buffer.alloc(8);
    await client.read(0, target);
    assert.equal(target.toString(), 'aaaaaaaa');
  });

  it('does not hold a server to the time for which its own process stood still', async (t) => {
    const server = spawn(process.execPath, ['--import', 'tsx', SERVER], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    t.after(() => server.kill('SIGKILL'));
    const [port] = (await once(server.stdout, 'data')) as [Buffer];
    const address = { host: '127.0.0.1', port: Number(port.toString()) };
    const client = await NbdClient.connect(address, { requestTimeoutMs: 500 });
    t.after(() => client.abort());
    for (const act of [
      () => client.read(0, Buffer.alloc(4096)),
      // More than the kernel takes at once.
      () => client.write(0, Buffer.alloc(24 * MIB)),
    ]) {
      const done = act();
      await new Promise((resolve) => setImmediate(resolve));
      standStill();
      await done;
    }
    await client.close();
  });

  it('notices a server that stops taking a long write', async (t) => {
    const stops = (peer: RawPeer): Promise<void> => {
      peer.socket.pause();
      return new Promise(() => undefined);
    };
    const client = await setUpLiar(t, stops, { requestTimeoutMs: 60 });
    await assert.rejects(client.write(0, Buffer.alloc(MIB)), { errno: 'ETIMEDOUT' });
    const large = await setUpLiar(t, stops, { requestTimeoutMs: 60 });
    // Far more than the kernel's buffers hold: the request cannot even be sent.
    const work = Array.from({ length: 30 }, () => large.write(0, Buffer.alloc(MIB)));
    for (const result of await Promise.allSettled(work)) assert.equal(result.status, 'rejected');
  });

  it('fails what is in flight when the connection is lost, or broken off', async (t) => {
    const client = await setUpLiar(t, async (peer, next) => {
      await next();
      peer.socket.destroy();
    });
    await assert.rejects(client.flush(), { errno: 'EIO' });
    const started = new Deferred<void>();
    const stuck = await setUpLiar(
      t,
      async (_peer, next) => {
        await next();
        started.resolve();
      },
      { requestTimeoutMs: Infinity },
    );
    const flush = stuck.flush();
    await started.promise;
    stuck.abort();
    await assert.rejects(flush, { errno: 'ESHUTDOWN' });
    await stuck.close();
  });

  it('sends DISC when closed, and does not wait for ever for the server', async (t) => {
    const last = new Deferred<number>();
    const client = await setUpLiar(
      t,
      async (_peer, next) => {
        last.resolve((await next()).type);
        await new Promise(() => undefined);
      },
      { closeTimeoutMs: 30 },
    );
    const closed = client.close();
    assert.equal(client.close(), closed);
    await closed;
    assert.equal(await last.promise, 2);
    await assert.rejects(client.flush());
  });
});

describe('NBD client against a lying server', () => {
  /** What the server sends in reply to one read of 8 bytes at 0, and what the client must say to it. */
  const lies: [string, (cookie: string) => string, RegExp][] = [
    ['ends a read early', (c) => chunk(c, 1, 1, u64(0) + '61'.repeat(7)), /before all 8 bytes/],
    ['ends a read with nothing', (c) => chunk(c, 1, 0, ''), /before all 8 bytes/],
    [
      'leaves a gap',
      (c) => chunk(c, 0, 1, u64(0) + '6161') + chunk(c, 1, 1, u64(3) + '6161616161'),
      /before all/,
    ],
    ['sends too much', (c) => chunk(c, 1, 1, u64(0) + '61'.repeat(9)), /outside/],
    ['sends other bytes', (c) => chunk(c, 1, 1, u64(4096) + '61'.repeat(8)), /outside/],
    ['sends from far away', (c) => chunk(c, 1, 1, 'ff'.repeat(8) + '61'.repeat(8)), /outside/],
    [
      'sends bytes twice',
      (c) => chunk(c, 0, 1, u64(0) + '61'.repeat(8)) + chunk(c, 1, 1, u64(7) + '62'),
      /before/,
    ],
    [
      'overlaps a hole',
      (c) => chunk(c, 0, 1, u64(0) + '61'.repeat(8)) + chunk(c, 1, 2, u64(0) + '00000008'),
      /before/,
    ],
    ['sends a hole too large', (c) => chunk(c, 1, 2, u64(0) + '00000009'), /outside/],
    ['answers an unknown cookie', () => chunk('0000000100000003', 1, 0, ''), /unknown request/],
    ['answers a cookie of the past', () => chunk('0000000000000000', 1, 0, ''), /unknown request/],
    ['answers a slot that is not there', () => chunk('00000001ffffffff', 1, 0, ''), /unknown request/],
    ['uses a simple reply', (c) => '67446698' + '00000000' + c + '61'.repeat(8), /simple reply/],
    ['sends a wrong magic', (c) => '00000000' + '00000000' + c + '00000000', /Bad reply magic/],
    ['sends an error without one', (c) => chunk(c, 1, 0x8001, '000000000000'), /without an error/],
    ['sends block status', (c) => chunk(c, 1, 5, '00000000' + '0000000800000000'), /block status/],
    [
      'sends block status of another context',
      (c) => chunk(c, 1, 5, '00000001' + '0000000800000000'),
      /context 1/,
    ],
    ['sends an unknown chunk', (c) => chunk(c, 1, 6, ''), /chunk type 6/],
  ];
  for (const [what, lie, message] of lies) {
    it(`gives the connection up when it ${what}`, async (t) => {
      const client = await setUpLiar(t, async (peer, next) => peer.send(lie((await next()).cookie)), {
        requestTimeoutMs: 5000,
      });
      await assertProtocolError(client.read(0, new Uint8Array(8)), message);
      assert.ok(client.death);
    });
  }

  it('takes a second answer to one request for what it is', async (t) => {
    const client = await setUpLiar(t, async (peer, next) => {
      const { cookie } = await next();
      const reply = '67446698' + '00000000' + cookie;
      peer.send(reply + reply);
    });
    const lost = new Deferred<IoError>();
    client.onLost(lost.resolve);
    await client.flush();
    assert.match((await lost.promise).message, /unknown request/);
  });

  it('puts a read in pieces and out of order together, errors and all', async (t) => {
    const client = await setUpLiar(t, async (peer, next) => {
      const { cookie } = await next();
      peer.send(chunk(cookie, 0, 1, u64(6) + '6768'), chunk(cookie, 0, 2, u64(2) + '00000004'));
      peer.send(chunk(cookie, 1, 1, u64(0) + '6162'));
      const failing = await next();
      peer.send(chunk(failing.cookie, 0, 1, u64(0) + '61'));
      peer.send(chunk(failing.cookie, 0, 0x8002, '0000001c' + '0004' + '66756c6c' + u64(1)));
      peer.send(chunk(failing.cookie, 1, 0, ''));
      await next();
    });
    const target = Buffer.alloc(8, 1);
    await client.read(0, target);
    assert.equal(target.toString('latin1'), 'ab\0\0\0\0gh');
    await assert.rejects(client.read(0, target), { errno: 'ENOSPC', message: /server reported: full/ });
    assert.equal(client.death, null);
  });

  it('copes with status beyond the request, and with none at all', async (t) => {
    const client = await setUpLiar(t, async (peer, next) => {
      const { cookie } = await next();
      peer.send(chunk(cookie, 1, 5, '00000000' + '00000200' + '00000003' + '00100000' + '00000000'));
      const second = await next();
      peer.send(chunk(second.cookie, 1, 0, ''));
      const third = await next();
      peer.send(chunk(third.cookie, 1, 5, '00000000' + '00000000' + '00000003'));
    });
    assert.deepEqual(await client.blockStatus(0, 1024), [
      { offset: 0, length: 512, zero: true, data: false },
      { offset: 512, length: 512, zero: false, data: true },
    ]);
    await assert.rejects(client.blockStatus(0, 1024), { errno: 'EIO', message: /any status extents/ });
    await assertProtocolError(client.blockStatus(0, 1024), /empty extent/);
  });

  it('refuses sizes, flags and block sizes that cannot be', async (t) => {
    for (const [from, to, message] of [
      ['00000000001000000ded', 'ff000000001000000ded', /too large/],
      ['0003000000010000100002', '0003000000030000100002', /minimum block size 3/],
    ] as const) {
      const replies = sentBy('S', 5, HANDSHAKE_STEPS).toString('hex');
      const at = replies.lastIndexOf(from);
      const address = await startLiar(t, async (peer) => {
        peer.send(sentBy('S', 0, 5), replies.slice(0, at) + to + replies.slice(at + from.length));
        await peer.closed;
      });
      await assert.rejects(NbdClient.connect(address, { exportName: 'disk' }), message);
    }
  });
});
