/** Socket chardevs with TLS: what passes, who is turned away and with which words, and what goes on all the same. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { after, before, test } from 'node:test';
import type { TestContext } from 'node:test';
import type { TlsCredentials, TlsEndpoint } from '../../../src/base/tls/credentials.ts';
import { createTlsCredentials } from '../../../src/base/tls/objects.ts';
import { SocketChardev } from '../../../src/chardev/socket.ts';
import { makeCertificates } from '../../helpers/certificates.ts';
import type { Certificates } from '../../helpers/certificates.ts';
import { RecordingFrontend, connectTo, portOf, socketConfig, turns } from './support.ts';

let certificates: Certificates;
before(async () => {
  certificates = await makeCertificates();
});
after(() => certificates.remove());

const x509 = (endpoint: TlsEndpoint, dir = certificates.dir): TlsCredentials =>
  createTlsCredentials('tls-creds-x509', { endpoint, dir, 'sanity-check': 'off' });
const psk = (endpoint: TlsEndpoint, dir = certificates.psk): TlsCredentials =>
  createTlsCredentials('tls-creds-psk', { endpoint, dir });

async function openServer(t: TestContext, credentials: TlsCredentials, port = 0): Promise<SocketChardev> {
  const address = { type: 'inet', host: '127.0.0.1', port: String(port) } as const;
  const server = new SocketChardev(socketConfig({ id: 'server', address }), credentials);
  t.after(() => server.close());
  await server.open();
  return server;
}

function makeClient(
  t: TestContext,
  port: number,
  credentials: TlsCredentials,
  reconnectMs = 0,
): SocketChardev {
  const address = { type: 'inet', host: '127.0.0.1', port: String(port) } as const;
  const client = new SocketChardev(
    socketConfig({ id: 'client', server: false, address, reconnectMs }),
    credentials,
  );
  t.after(() => client.close());
  return client;
}

test('bytes pass both ways, with keys and with certificates, counted and named as in clear', async (t) => {
  for (const make of [x509, psk]) {
    const server = await openServer(t, make('server'));
    const client = makeClient(t, portOf(server), make('client'));
    const [left, right] = [new RecordingFrontend(), new RecordingFrontend()];
    server.attach(left, 'left');
    client.attach(right, 'right');
    await client.open();
    await server.waitConnected();
    assert.equal(client.writePair(Buffer.from('se'), Buffer.from('cret')), true);
    await left.until(() => left.received.length === 6);
    assert.equal(server.write(Buffer.from('answer')), true);
    await right.until(() => right.received.length === 6);
    assert.deepEqual([left.received.toString(), right.received.toString()], ['secret', 'answer']);
    assert.deepEqual([client.bytesOut, client.bytesIn, server.bytesOut, server.bytesIn], [6, 6, 6, 6]);
    assert.ok(client.connection);
    assert.match(client.connection.outgoing, /^127\.0\.0\.1:\d+>127\.0\.0\.1:\d+$/);
    assert.equal(server.connection?.incoming, client.connection.outgoing);
    assert.match(server.filename, /^tcp:127\.0\.0\.1:\d+,server=on <-> 127\.0\.0\.1:\d+$/);
    await client.close();
    await left.until(() => left.calls.length === 2);
  }
});

test('what is unsent and unread is bounded as in clear, and arrives whole', async (t) => {
  const server = await openServer(t, psk('server'));
  const client = makeClient(t, portOf(server), psk('client'));
  await client.open();
  await server.waitConnected();
  // Nobody reads yet: the sender comes to its bound.
  const piece = Buffer.alloc(60_000);
  let accepted = 0;
  for (let refused = 0; refused < 50;) {
    piece.fill(accepted & 255);
    if (client.write(piece)) accepted++;
    else {
      refused++;
      await turns(2);
    }
    assert.ok(accepted < 1000, 'nothing bounds it');
  }
  assert.equal(server.bytesIn, 0);
  const frontend = new RecordingFrontend();
  let length = 0;
  let stoppedAt = -1;
  frontend.onData = (chunk) => {
    assert.notEqual(length, stoppedAt, 'read while reading was off');
    for (let at = 0; at < chunk.length; at++) {
      if (chunk[at] !== (Math.floor((length + at) / piece.length) & 255)) assert.fail(`byte ${length + at}`);
    }
    length += chunk.length;
    if (stoppedAt === -1 && length > 1 << 20) {
      stoppedAt = length;
      server.setReading(false);
      void turns(50).then(() => {
        stoppedAt = -2;
        server.setReading(true);
      });
    }
    if (length === accepted * piece.length) frontend.onClose();
  };
  server.attach(frontend, 'test');
  await frontend.until(() => length === accepted * piece.length);
  assert.equal(server.bytesIn, length);
});

test('who speaks in clear, or says nothing, is turned away, and keeps nobody out', async (t) => {
  const server = await openServer(t, x509('server'));
  const frontend = new RecordingFrontend();
  server.attach(frontend, 'test');
  const mute: net.Socket[] = [];
  for (let at = 0; at < 6; at++) mute.push(await connectTo(t, server));
  const plain = await connectTo(t, server);
  const gone = new Promise((resolve) => plain.once('close', resolve));
  plain.resume();
  plain.write('a frame in clear that is no handshake');
  await gone;
  const client = makeClient(t, portOf(server), x509('client'));
  await client.open();
  client.write(Buffer.from('hello'));
  await frontend.until(() => frontend.received.length === 5);
  assert.equal(frontend.received.toString(), 'hello');
  assert.deepEqual(frontend.calls, ['open']);
  assert.ok(mute.every((socket) => !socket.destroyed));
  await server.close();
  for (const socket of mute) if (!socket.destroyed) await once(socket.resume(), 'close');
});

test('who is of another CA, or has another key, is told so, and the server goes on', async (t) => {
  const server = await openServer(t, x509('server'));
  const frontend = new RecordingFrontend();
  server.attach(frontend, 'test');
  const port = portOf(server);
  await assert.rejects(makeClient(t, port, x509('client', certificates.foreign)).open(), {
    name: 'ChardevOpenError',
    message: `Failed to connect to '127.0.0.1:${port}': TLS handshake failed: The certificate hasn't got a known issuer`,
  });
  // In TLS 1.3 a client has finished before the server has looked at its certificate.
  for (const dir of [certificates.impostor, certificates.caOnly]) {
    const refused = makeClient(t, port, x509('client', dir));
    const seen = new RecordingFrontend();
    refused.attach(seen, 'test');
    await refused.open().then(
      () => seen.until(() => seen.calls.includes('close')),
      () => undefined,
    );
    assert.equal(refused.connected, false);
  }
  assert.deepEqual(frontend.calls, []);
  await assert.rejects(
    makeClient(t, port, psk('client')).open(),
    /Failed to connect to .*TLS handshake failed: /,
  );
  const keys = await openServer(t, psk('server'));
  await assert.rejects(
    makeClient(t, portOf(keys), psk('client', certificates.otherPsk)).open(),
    /Failed to connect to .*TLS handshake failed: /,
  );
  // A server in clear.
  const clear = net.createServer((socket) => socket.on('error', () => undefined).end('not TLS at all'));
  clear.listen(0, '127.0.0.1');
  t.after(() => clear.close());
  await new Promise((resolve) => clear.once('listening', resolve));
  await assert.rejects(
    makeClient(t, (clear.address() as net.AddressInfo).port, x509('client')).open(),
    /Failed to connect to .*TLS handshake failed: the other side does not speak TLS/,
  );
  const welcome = makeClient(t, port, x509('client'));
  await welcome.open();
  await server.waitConnected();
});

test('a client with reconnect comes back, and a mute server does not hold it for ever', async (t) => {
  const first = await openServer(t, x509('server'));
  const port = portOf(first);
  const client = makeClient(t, port, x509('client'), 20);
  const frontend = new RecordingFrontend();
  client.attach(frontend, 'test');
  await client.open();
  await client.waitConnected();
  await first.close();
  await frontend.until(() => frontend.calls.length === 2);
  const second = await openServer(t, x509('server'), port);
  await second.waitConnected();
  second.write(Buffer.from('again'));
  await frontend.until(() => frontend.received.length === 5);
  assert.deepEqual(frontend.calls, ['open', 'close', 'open']);

  const mute = net.createServer();
  mute.listen(0, '127.0.0.1');
  t.after(() => mute.close());
  await new Promise((resolve) => mute.once('listening', resolve));
  const address = {
    type: 'inet',
    host: '127.0.0.1',
    port: String((mute.address() as net.AddressInfo).port),
  } as const;
  const waiting = new SocketChardev(
    socketConfig({ id: 'w', server: false, address, connectDeadlineMs: 100 }),
    x509('client'),
  );
  await assert.rejects(waiting.open(), /TLS handshake failed: no answer within 100 ms/);
  await waiting.close();
});
