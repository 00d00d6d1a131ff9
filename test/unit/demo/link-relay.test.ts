/** The demo's network between its two hosts: it carries bytes both ways, and a cut is heard by nobody. */
import assert from 'node:assert/strict';
import net from 'node:net';
import { once } from 'node:events';
import { test } from 'node:test';
import { freePorts } from '../../../src/demo/free-ports.ts';
import { LinkRelay, relayedCables } from '../../../src/demo/link-relay.ts';

const HOST = '127.0.0.1';

/** A server that sends back what it is sent, and its port. */
async function echo(t: {
  after(done: () => unknown): void;
}): Promise<{ port: number; sockets: net.Socket[] }> {
  const sockets: net.Socket[] = [];
  const server = net.createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => undefined);
    socket.pipe(socket);
  });
  server.listen(0, HOST);
  await once(server, 'listening');
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { port: (server.address() as net.AddressInfo).port, sockets };
}

test('a relay carries bytes until it is cut, and then tells nobody', async (t) => {
  const { port, sockets } = await echo(t);
  const [at = 0] = await freePorts(1, [HOST]);
  const relay = new LinkRelay();
  t.after(() => relay.close());
  await relay.listen(HOST, at, port);
  const client = net.connect(at, HOST);
  t.after(() => client.destroy());
  const ended = once(client, 'close');
  client.on('error', () => undefined);
  const said: Buffer[] = [];
  client.on('data', (bytes: Buffer) => said.push(bytes));
  const big = Buffer.alloc(1 << 20, 'x');
  client.write(big);
  while (Buffer.concat(said).length < big.length) await once(client, 'data');

  relay.cut();
  client.write('nobody hears this');
  const before = Buffer.concat(said).length;
  // The other end goes away, which is not heard either; nor is a new connection made.
  sockets[0]?.destroy();
  const late = net.connect(at, HOST);
  t.after(() => late.destroy());
  await once(late, 'connect');
  // What has been sent on loopback has arrived by the time that another connection has been made and answered.
  const { port: direct } = await echo(t);
  const probe = net.connect(direct, HOST).end('done');
  await once(probe.resume(), 'end');
  assert.equal(Buffer.concat(said).length, before);
  assert.equal(client.closed, false);
  assert.equal(sockets.length, 1);

  relay.close();
  await ended;
});

test('the secondary listens itself, the primary connects to the relay, and packets go direct', async (t) => {
  const cables = await relayedCables(HOST);
  t.after(() => cables.close());
  const { forPrimary, forSecondary } = cables;
  assert.equal(cables.isCuttable, true);
  for (const port of [forPrimary.nbdPort, forPrimary.migrationPort]) {
    const socket = net.connect({ host: forPrimary.secondaryHost, port });
    socket.on('error', () => undefined);
    await once(socket, 'connect');
    // Nobody listens behind it.
    await once(socket, 'close');
  }
  assert.deepEqual(forPrimary.nics, forSecondary.nics);
  const ports = [forPrimary, forSecondary].flatMap(({ nbdPort, migrationPort }) => [nbdPort, migrationPort]);
  assert.equal(new Set(ports).size, 4);
});
