import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';
import { RECEIVE_SLAB } from '../../../src/base/packet-memory.ts';
import { ChardevInUseError } from '../../../src/chardev/chardev.ts';
import { RecordingFrontend, connectTo, openSocket, portOf, tempFolder, turns } from './support.ts';

test('two chardevs name one connection alike, crossed, and count its bytes', async (t) => {
  const server = await openSocket(t, { id: 's', address: { type: 'inet', host: '', port: '0' } });
  const client = await openSocket(t, {
    id: 'c',
    server: false,
    address: { type: 'inet', host: '127.0.0.1', port: String(portOf(server)) },
  });
  await server.waitConnected();
  const [left, right] = [new RecordingFrontend(), new RecordingFrontend()];
  server.attach(left, 'left');
  client.attach(right, 'right');
  assert.equal(client.write(Buffer.from('abc')), true);
  assert.equal(server.writePair(Buffer.from('de'), Buffer.from('f')), true);
  await left.until(() => left.received.length === 3);
  await right.until(() => right.received.length === 3);
  assert.equal(right.received.toString(), 'def');
  assert.deepEqual([client.bytesOut, client.bytesIn, server.bytesOut, server.bytesIn], [3, 3, 3, 3]);
  assert.ok(client.connection);
  assert.match(client.connection.outgoing, /^127\.0\.0\.1:\d+>127\.0\.0\.1:\d+$/);
  assert.deepEqual(server.connection, {
    outgoing: client.connection.incoming,
    incoming: client.connection.outgoing,
  });
});

test('bytes wait in the kernel until a frontend attaches, and while it does not read', async (t) => {
  const server = await openSocket(t);
  const peer = await connectTo(t, server);
  await server.waitConnected();
  // More than the kernel holds: the peer cannot get rid of it unless somebody reads.
  const sent = Buffer.alloc(32 * 1024 * 1024);
  for (let at = 0; at < sent.length; at += 4) sent.writeUInt32LE(at, at);
  peer.write(sent);
  await turns(200);
  assert.equal(server.bytesIn, 0);
  assert.ok(peer.writableLength > 0);

  const frontend = new RecordingFrontend();
  const chunks: Buffer[] = [];
  let length = 0;
  let stoppedAt = -1;
  frontend.onData = (chunk) => {
    assert.notEqual(length, stoppedAt, 'read while reading was off');
    chunks.push(Buffer.from(chunk));
    length += chunk.length;
    if (length > sent.length / 2 && stoppedAt < 0) {
      stoppedAt = length;
      server.setReading(false);
      assert.equal(server.bytesIn, length);
      void turns(50).then(() => {
        stoppedAt = -2;
        server.setReading(true);
      });
    }
    if (length === sent.length) frontend.onClose();
  };
  server.attach(frontend, 'test');
  await frontend.until(() => length === sent.length);
  assert.ok(Buffer.concat(chunks).equals(sent));
  assert.equal(server.bytesIn, sent.length);
});

test('of two peers that always have more, neither is read far ahead of the other', async (t) => {
  const total = 24 * 1024 * 1024;
  const aTurn = RECEIVE_SLAB.length;
  const order: { name: string; bytes: number }[] = [];
  const ends: Promise<void>[] = [];
  for (const name of ['left', 'right']) {
    const server = await openSocket(t, { id: name });
    const peer = await connectTo(t, server);
    await server.waitConnected();
    peer.write(Buffer.alloc(total));
    const frontend = new RecordingFrontend();
    let length = 0;
    frontend.onData = (chunk) => {
      order.push({ name, bytes: chunk.length });
      length += chunk.length;
      if (length === total) frontend.onClose();
    };
    server.attach(frontend, 'test');
    server.setReading(false);
    // By then the kernel has all that it takes.
    void turns(100).then(() => server.setReading(true));
    ends.push(frontend.until(() => length === total));
  }
  await Promise.all(ends);
  const last = order.at(-1)?.name;
  const until = order.findLastIndex(({ name }) => name !== last);
  let longest = 0;
  let run = 0;
  for (let at = 0; at < until; at++) {
    run = at > 0 && order[at]!.name === order[at - 1]!.name ? run + order[at]!.bytes : order[at]!.bytes;
    longest = Math.max(longest, run);
  }
  t.diagnostic(`${order.length} reads, the longest run ${longest / aTurn} turns`);
  assert.ok(longest <= 4 * aTurn, `${longest} bytes in a row`);
});

test('a server serves one client at a time and the next when it leaves', async (t) => {
  const server = await openSocket(t);
  const frontend = new RecordingFrontend();
  server.attach(frontend, 'test');
  const first = await connectTo(t, server);
  await frontend.until(() => frontend.calls.length === 1);
  const second = await connectTo(t, server);
  second.write('two');
  await turns(50);
  assert.deepEqual(frontend.calls, ['open']);
  assert.equal(frontend.received.length, 0);
  assert.equal(server.write(Buffer.from('x')), true);
  first.end();
  await frontend.until(() => frontend.received.length === 3);
  assert.deepEqual(frontend.calls, ['open', 'close', 'open']);
  assert.equal(server.bytesOut, 0);
  assert.equal(server.bytesIn, 3);
});

test('a client that comes when enough others wait is refused', async (t) => {
  const server = await openSocket(t);
  const clients: net.Socket[] = [];
  for (let i = 0; i < 5; i++) clients.push(await connectTo(t, server));
  const refused = await connectTo(t, server);
  await once(refused.resume(), 'close');
  assert.equal(
    clients.some((client) => client.destroyed),
    false,
  );
});

test('unsent bytes are bounded, and what was accepted arrives although the caller reuses its memory', async (t) => {
  const server = await openSocket(t);
  const peer = await connectTo(t, server);
  peer.pause();
  await server.waitConnected();
  const [head, body] = [Buffer.alloc(4), Buffer.alloc(60_000)];
  let accepted = 0;
  for (;;) {
    head.writeUInt32BE(accepted);
    body.fill(accepted & 255);
    if (!server.writePair(head, body)) break;
    accepted++;
    assert.ok(accepted < 2000, 'no bound');
  }
  assert.ok(accepted > 60, 'less than 4 MiB were accepted');
  assert.equal(server.bytesOut, accepted * 60_004);
  const chunks: Buffer[] = [];
  let length = 0;
  peer.on('data', (chunk: Buffer) => {
    chunks.push(chunk);
    length += chunk.length;
    if (length === accepted * 60_004) peer.emit('all');
  });
  peer.resume();
  await once(peer, 'all');
  const all = Buffer.concat(chunks);
  for (let i = 0; i < accepted; i++) {
    assert.equal(all.readUInt32BE(i * 60_004), i);
    const piece = all.subarray(i * 60_004 + 4, (i + 1) * 60_004);
    assert.ok(piece.equals(Buffer.alloc(60_000, i & 255)), `piece ${i}`);
  }
});

test('a client with reconnect finds a server that comes later, and again after it left', async (t) => {
  const file = path.join(await tempFolder(t), 'later.sock');
  const client = await openSocket(t, {
    server: false,
    address: { type: 'unix', path: file },
    reconnectMs: 5,
  });
  const frontend = new RecordingFrontend();
  client.attach(frontend, 'test');
  assert.equal(client.connected, false);
  assert.equal(client.write(Buffer.from('lost')), false);
  const accepted: net.Socket[] = [];
  const server = net.createServer((socket) => accepted.push(socket.on('error', () => undefined)));
  t.after(() => {
    for (const socket of accepted) socket.destroy();
    server.close();
  });
  server.listen(file);
  await frontend.until(() => frontend.calls.length === 1);
  assert.equal(client.write(Buffer.from('one')), true);
  assert.equal(client.bytesOut, 3);
  await client.waitConnected();
  while (accepted.length === 0) await turns(1);
  accepted[0]!.destroy();
  await frontend.until(() => frontend.calls.length === 3);
  assert.deepEqual(frontend.calls, ['open', 'close', 'open']);
  assert.equal(client.bytesOut, 0);
});

test('closing ends at once: while retrying, while waiting for a client, while connected', async (t) => {
  const file = path.join(await tempFolder(t), 'absent.sock');
  const client = await openSocket(t, {
    server: false,
    address: { type: 'unix', path: file },
    reconnectMs: 2 ** 30,
  });
  await turns(10);
  await client.close();
  await client.close();

  const server = await openSocket(t);
  const waiting = assert.rejects(server.waitConnected(), /was closed/);
  await server.close();
  await waiting;
  await assert.rejects(server.waitConnected(), /gave up/);

  const connected = await openSocket(t);
  const peers = [await connectTo(t, connected), await connectTo(t, connected)];
  const frontend = new RecordingFrontend();
  connected.attach(frontend, 'test');
  await frontend.until(() => frontend.calls.length === 1);
  const gone = peers.map((peer) => once(peer.resume(), 'close'));
  await connected.close();
  await Promise.all(gone);
  assert.deepEqual(frontend.calls, ['open', 'close']);
  assert.equal(connected.connected, false);
  assert.equal(connected.connection, null);
});

test('waiting for a client can be broken off', async (t) => {
  const server = await openSocket(t);
  const abort = new AbortController();
  const waiting = assert.rejects(server.waitConnected(abort.signal), /gave up waiting/);
  abort.abort();
  await waiting;
  const peer = await connectTo(t, server);
  await server.waitConnected(AbortSignal.timeout(10_000));
  peer.destroy();
});

test('use is exclusive, and a new user gets what its predecessor left unread', async (t) => {
  const server = await openSocket(t);
  const peer = await connectTo(t, server);
  const [first, second] = [new RecordingFrontend(), new RecordingFrontend()];
  server.attach(first, 'first');
  assert.equal(server.user, 'first');
  assert.throws(() => server.attach(second, 'second'), ChardevInUseError);
  server.detach(second);
  await first.until(() => first.calls.length === 1);
  server.detach(first);
  assert.equal(server.user, null);
  peer.write('later');
  await turns(20);
  server.attach(second, 'second');
  await second.until(() => second.received.length === 5);
  assert.equal(first.received.length, 0);
});

test('a frontend that throws loses its connection, nothing else', async (t) => {
  const server = await openSocket(t);
  const frontend = new RecordingFrontend();
  let failures = 0;
  const record = frontend.onData.bind(frontend);
  frontend.onData = (chunk) => {
    if (failures++ === 0) throw new Error('bug');
    record(chunk);
  };
  server.attach(frontend, 'test');
  const peer = await connectTo(t, server);
  peer.write('x');
  await once(peer.resume(), 'close');
  const next = await connectTo(t, server);
  next.write('y');
  await frontend.until(() => frontend.received.length === 1);
  assert.deepEqual(frontend.calls, ['open', 'close', 'open']);
});

test('a stale unix socket is replaced, another file is not', async (t) => {
  const folder = await tempFolder(t);
  const file = path.join(folder, 'stale.sock');
  const stale = net.createServer().listen(file);
  await once(stale, 'listening');
  const server = await openSocket(t, { address: { type: 'unix', path: file } });
  assert.equal(server.filename, `disconnected:unix:${file},server=on`);
  await connectTo(t, server);
  stale.close();
  await assert.rejects(
    openSocket(t, { address: { type: 'unix', path: folder } }),
    /Failed to unlink socket .*not a socket/,
  );
});
