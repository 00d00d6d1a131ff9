/** STARTTLS as a dialogue, and what a hostile peer may try around it. Pre-shared keys: they need no other program. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { EventEmitter } from 'node:events';
import { connect as connectSocket, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { Deferred } from '../../../src/base/async.ts';
import { createTlsCredentials } from '../../../src/base/tls/objects.ts';
import type { TlsCredentials } from '../../../src/base/tls/credentials.ts';
import { secureAsClient, secureAsServer } from '../../../src/base/tls/upgrade.ts';
import { encodeInfoRequest, encodeOption, encodeOptionReply } from '../../../src/nbd/handshake-wire.ts';
import { NbdClient, NbdServer } from '../../../src/nbd/index.ts';
import { PacedWriter } from '../../../src/nbd/paced-writer.ts';
import { MemorySource, RawPeer, startLiar } from './support.ts';

const dir = mkdtempSync(join(tmpdir(), 'nbd-tls-'));
writeFileSync(join(dir, 'keys.psk'), `# users\nqemu:${'1f'.repeat(32)}\nalice:${'2e'.repeat(16)}\n`);
after(() => rmSync(dir, { recursive: true }));
const credentials = (endpoint: 'client' | 'server'): TlsCredentials =>
  createTlsCredentials('tls-creds-psk', { dir, endpoint });
const clientTls = { credentials: credentials('client'), hostname: null };

const STARTTLS = 5;
const NONE = Buffer.alloc(0);
const TLS_REQD = '80000005';

interface Setup {
  readonly server: NbdServer;
  readonly address: { host: string; port: number };
  readonly source: MemorySource;
}

async function setUp(t: TestContext, handshakeTimeoutMs = 10_000): Promise<Setup> {
  const server = new NbdServer({ tls: credentials('server'), handshakeTimeoutMs });
  t.after(() => server.close());
  const source = new MemorySource(2 ** 20);
  server.addExport({ name: 'disk', source, writable: true });
  const address = await server.listen({ host: '127.0.0.1', port: 0 });
  if (!('port' in address)) throw new Error('not an inet address');
  return { server, address, source };
}

/** A raw client behind the greeting. */
async function greet(t: TestContext, address: Setup['address'], flags = '00000003'): Promise<RawPeer> {
  const peer = await RawPeer.connect(t, address);
  await peer.receive(18);
  peer.send(flags);
  return peer;
}

/** An option reply: its type in hexadecimal, and its text. */
async function reply(peer: RawPeer): Promise<[string, string]> {
  const header = await peer.receive(20);
  const text = await peer.receive(parseInt(header.slice(32, 40), 16));
  return [header.slice(24, 32), Buffer.from(text, 'hex').toString()];
}

/** A raw client past STARTTLS. */
async function secure(
  t: TestContext,
  address: Setup['address'],
): Promise<{ peer: RawPeer; socket: TLSSocket }> {
  const clear = await greet(t, address);
  clear.send(encodeOption(STARTTLS, NONE));
  assert.deepEqual(await reply(clear), ['00000001', '']);
  clear.socket.removeAllListeners('data');
  const socket = await secureAsClient(clear.socket, clientTls.credentials, null);
  t.after(() => void socket.destroy());
  return { peer: new RawPeer(socket), socket };
}

/** The server is still there for others. */
async function serves({ address, server }: Setup): Promise<void> {
  const client = await NbdClient.connect(address, { exportName: 'disk', tls: clientTls });
  await client.write(1, Buffer.from('x'));
  await client.close();
  while (server.clientCount > 0) await new Promise((resolve) => setImmediate(resolve));
}

describe('NBD server that requires TLS', () => {
  it("refuses every option before it, in QEMU's words", async (t) => {
    const setup = await setUp(t);
    const peer = await greet(t, setup.address);
    const options: [number, Uint8Array][] = [
      [3, NONE],
      [6, encodeInfoRequest('disk', [])],
      [7, encodeInfoRequest('disk', [])],
      [8, NONE],
      [10, Buffer.from('garbage')],
      [99, Buffer.alloc(100_000)],
      [2, NONE],
    ];
    for (const [option, data] of options) {
      peer.send(encodeOption(option, data));
      const expected = [TLS_REQD, `Option 0x${option.toString(16)} not permitted before TLS`];
      assert.deepEqual(await reply(peer), expected);
    }
    // The last one was ABORT.
    await peer.closed;
    assert.deepEqual(setup.source.calls, []);
    await serves(setup);
  });

  it('hangs up on EXPORT_NAME, on a client without fixed newstyle, and on STARTTLS with data', async (t) => {
    const setup = await setUp(t);
    const byName = await greet(t, setup.address);
    byName.send(encodeOption(1, Buffer.from('disk')));
    const old = await greet(t, setup.address, '00000000');
    old.send(encodeOption(STARTTLS, NONE));
    for (const peer of [byName, old]) {
      await peer.closed;
      assert.equal(peer.reader.bufferedBytes, 0);
    }
    const withData = await greet(t, setup.address);
    withData.send(encodeOption(STARTTLS, Buffer.from('abc')));
    assert.deepEqual(await reply(withData), ['80000003', "option 'starttls' has unexpected length"]);
    await withData.closed;
    await serves(setup);
  });

  it('takes nothing for secure that came in clear behind STARTTLS', async (t) => {
    const setup = await setUp(t);
    const peer = await greet(t, setup.address);
    // In one segment: a server that buffers would find the second option behind the handshake.
    peer.send(Buffer.concat([encodeOption(STARTTLS, NONE), encodeOption(8, NONE)]));
    await peer.closed;
    assert.equal(peer.reader.bufferedBytes, 0);
    await serves(setup);
  });

  it('forgets what was negotiated before, and offers no second TLS', async (t) => {
    const setup = await setUp(t);
    const { peer } = await secure(t, setup.address);
    peer.send(encodeOption(STARTTLS, NONE));
    assert.deepEqual(await reply(peer), ['80000003', 'TLS already enabled']);
    // SET_META_CONTEXT needs structured replies: they are not there until they are asked for in TLS.
    peer.send(encodeOption(10, Buffer.from('00000004' + '6469736b' + '00000000', 'hex')));
    assert.deepEqual(await reply(peer), ['80000003', 'structured reply must be negotiated first']);
    peer.send(encodeOption(2, NONE));
    assert.deepEqual(await reply(peer), ['00000001', '']);
    await peer.closed;
  });

  it('refuses STARTTLS without credentials', async (t) => {
    const server = new NbdServer();
    t.after(() => server.close());
    const address = await server.listen({ host: '127.0.0.1', port: 0 });
    const attempt = NbdClient.connect(address, { tls: clientTls });
    await assert.rejects(attempt, {
      name: 'NbdNegotiationError',
      message: 'Denied by server for option 5 (starttls)\nserver reported: TLS not configured',
    });
  });

  it('wants credentials that were made for a server', () => {
    assert.throws(() => new NbdServer({ tls: credentials('client') }), {
      message: 'Expected TLS credentials for a server endpoint',
    });
  });

  it('drops who stalls in the TLS handshake', async (t) => {
    const hasty = await setUp(t, 1000);
    const stalled = await greet(t, hasty.address);
    stalled.send(encodeOption(STARTTLS, NONE));
    assert.deepEqual(await reply(stalled), ['00000001', '']);
    stalled.send('16030100'); // the beginning of a record
    await stalled.closed;
    while (hasty.server.clientCount > 0) await new Promise((resolve) => setImmediate(resolve));
  });

  it('drops who sends garbage in place of TLS, and who cannot do 1.2', async (t) => {
    const setup = await setUp(t);
    const garbage = await greet(t, setup.address);
    garbage.send(encodeOption(STARTTLS, NONE));
    assert.deepEqual(await reply(garbage), ['00000001', '']);
    garbage.send(Buffer.alloc(65536, 0x41));
    await garbage.closed;
    const old = await greet(t, setup.address);
    old.send(encodeOption(STARTTLS, NONE));
    await reply(old);
    old.socket.removeAllListeners('data');
    const options = { ...clientTls.credentials.clientOptions(null), minVersion: 'TLSv1' as const };
    const ciphers = 'PSK:@SECLEVEL=0';
    const socket = connectTls({ ...options, maxVersion: 'TLSv1.1', ciphers, socket: old.socket });
    await new Promise((resolve) => socket.once('error', resolve));
    await old.closed;
    await serves(setup);
  });

  it('does not renegotiate', async (t) => {
    const setup = await setUp(t);
    const clear = await greet(t, setup.address);
    clear.send(encodeOption(STARTTLS, NONE));
    await reply(clear);
    clear.socket.removeAllListeners('data');
    const options = clientTls.credentials.clientOptions(null);
    const socket = connectTls({ ...options, maxVersion: 'TLSv1.2', socket: clear.socket });
    t.after(() => void socket.destroy());
    await new Promise((resolve) => socket.once('secureConnect', resolve));
    assert.match(socket.getCipher().name, /DHE-PSK/);
    socket.on('error', () => undefined);
    const refused = await new Promise((resolve) => {
      socket.renegotiate({}, (error) => resolve(error));
      socket.once('close', resolve);
    });
    assert.ok(refused !== null);
    await serves(setup);
  });

  it('slows a client down that does not read', async (t) => {
    const setup = await setUp(t);
    const big = new MemorySource(64 * 2 ** 20);
    setup.server.addExport({ name: 'big', source: big, writable: false });
    const { peer, socket } = await secure(t, setup.address);
    peer.send(encodeOption(1, Buffer.from('big')));
    await peer.receive(10);
    socket.pause();
    const full = new Deferred<void>();
    big.before = () => {
      if (big.calls.length === 2) full.resolve();
      return Promise.resolve();
    };
    const request = Buffer.alloc(28);
    request.writeUInt32BE(0x25609513);
    request.writeUInt32BE(16 * 2 ** 20, 24);
    for (let index = 0; index < 6; index++) peer.send(request);
    await full.promise;
    const client = await NbdClient.connect(setup.address, { exportName: 'disk', tls: clientTls });
    await client.write(1, Buffer.from('x'));
    await client.close();
    assert.equal(big.calls.length, 2);
    // It reads on, and gets everything it asked for.
    socket.resume();
    for (let index = 0; index < 6; index++) await peer.reader.skip(16 + 16 * 2 ** 20);
    assert.equal(big.calls.length, 6);
  });
});

describe('NBD client that wants TLS', () => {
  const greeting = '4e42444d41474943' + '49484156454f5054';

  it('does not go on in clear, whatever the server says', async (t) => {
    const refusals: [string, Buffer, RegExp][] = [
      ['0001', encodeOptionReply(STARTTLS, 0x80000001, NONE), /Unsupported option 5 \(starttls\)/],
      ['0001', encodeOptionReply(STARTTLS, 1, Buffer.from('x')), /data with its reply to STARTTLS/],
      ['0000', NONE, /Server does not support STARTTLS/],
    ];
    for (const [flags, answer, message] of refusals) {
      const said: number[] = [];
      const address = await startLiar(t, async (peer) => {
        peer.send(greeting + flags);
        await peer.reader.read(4);
        for (;;) {
          const header = await peer.reader.read(16);
          said.push(header.readUInt32BE(8));
          peer.send(answer);
        }
      });
      await assert.rejects(NbdClient.connect(address, { tls: clientTls }), { message });
      assert.ok(said.every((option) => option === STARTTLS));
    }
  });

  it('takes nothing for secure that came in clear behind the reply', async (t) => {
    const address = await startLiar(t, async (peer) => {
      peer.send(greeting + '0001');
      await peer.reader.read(20);
      // A structured reply option that nobody asked for, acknowledged in clear.
      peer.send(Buffer.concat([encodeOptionReply(STARTTLS, 1, NONE), encodeOptionReply(8, 1, NONE)]));
    });
    await assert.rejects(NbdClient.connect(address, { tls: clientTls }), {
      name: 'ProtocolError',
      message: /data in clear behind its reply/,
    });
  });

  it('does not wait for ever for a server that stalls', async (t) => {
    const address = await startLiar(t, async (peer) => {
      peer.send(greeting + '0001');
      await peer.reader.read(20);
      peer.send(encodeOptionReply(STARTTLS, 1, NONE));
    });
    const attempt = NbdClient.connect(address, { tls: clientTls, connectTimeoutMs: 50 });
    await assert.rejects(attempt, { name: 'NbdConnectError' });
  });
});

describe('NBD client in TLS with a reconnect delay', () => {
  it('comes back in TLS, and never to a server without it', async (t) => {
    const { server, address, source } = await setUp(t);
    const options = { exportName: 'disk', tls: clientTls, reconnectDelayMs: 60_000 };
    const client = await NbdClient.connect(address, options);
    t.after(() => client.abort());
    await client.write(0, Buffer.from('one'));
    await server.close();
    const write = client.write(0, Buffer.from('two'));
    const inClear = new NbdServer();
    const decoy = new MemorySource(2 ** 20);
    inClear.addExport({ name: 'disk', source: decoy, writable: true });
    const asked = new Deferred<void>();
    const clients = setInterval(() => {
      if (inClear.clientCount > 0) asked.resolve();
    }, 1);
    await inClear.listen(address);
    await asked.promise;
    clearInterval(clients);
    await inClear.close();
    const again = new NbdServer({ tls: credentials('server') });
    t.after(() => again.close());
    again.addExport({ name: 'disk', source, writable: true });
    await again.listen(address);
    await write;
    assert.equal(source.bytes.toString('latin1', 0, 3), 'two');
    assert.deepEqual(decoy.calls, []);
    await client.close();
  });
});

describe('PacedWriter', () => {
  it('gives the socket no more than its window, in order, and tells of every reply once', () => {
    const given: { bytes: Uint8Array; done: () => void }[] = [];
    const socket = new EventEmitter();
    const write = (bytes: Uint8Array, done: () => void): number => given.push({ bytes, done });
    const writer = new PacedWriter(
      Object.assign(socket, { destroyed: false, write }) as unknown as Socket,
      10,
    );
    const told: string[] = [];
    writer.write(Buffer.from('abc'), () => told.push('abc'));
    writer.write(Buffer.from('0123456789abcdefghij!'), () => told.push('long'));
    writer.write(Buffer.from('z'), () => told.push('z'));
    const text = (): string => given.map(({ bytes }) => Buffer.from(bytes).toString()).join('|');
    assert.equal(text(), 'abc|0123456');
    given[0]!.done();
    assert.equal(text(), 'abc|0123456|789');
    given[1]!.done();
    given[2]!.done();
    assert.equal(text(), 'abc|0123456|789|abcdefg|hij');
    assert.deepEqual(told, ['abc']);
    // The peer is gone: what was given is told of by the socket, what was not by the writer.
    socket.emit('close');
    given[3]!.done();
    given[4]!.done();
    assert.deepEqual(told, ['abc', 'long', 'z']);
  });
});

describe('secureAsServer', () => {
  it('fails when the peer hangs up', async (t) => {
    const address = await startLiar(t, async (peer) => {
      peer.socket.removeAllListeners('data');
      peer.socket.pause();
      await assert.rejects(secureAsServer(peer.socket, credentials('server'), 5000), { name: 'TlsError' });
      done();
    });
    let done: () => void = () => undefined;
    const rejected = new Promise<void>((resolve) => (done = resolve));
    const socket = connectSocket(address.port, address.host, () => socket.destroy());
    await rejected;
  });
});
