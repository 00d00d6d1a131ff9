import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { startSwitch, type RunningSwitch, type StartSwitchOptions } from '../../../src/switch/index.ts';
import { BROADCAST, Client, frame, framed, mac, textOf } from './frames.ts';

/** Times that a slow machine cannot miss. */
const PATIENT = { windowMs: 60_000, recordMs: 60_000 };

interface Bench {
  readonly running: RunningSwitch;
  readonly unix: string;
  readonly tcp: string;
  readonly client: (address: string, isReading?: boolean) => Promise<Client>;
}

async function tempDir(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'colo-switch-'));
  t.after(() => rm(dir, { recursive: true }));
  return dir;
}

async function setUp(t: TestContext, options: StartSwitchOptions = {}): Promise<Bench> {
  const dir = await tempDir(t);
  const running = await startSwitch({ listen: [`unix:${dir}/s`, 'tcp:127.0.0.1:0'], ...options });
  const clients: Client[] = [];
  t.after(async () => {
    await Promise.all(clients.map((client) => client.close()));
    await running.close();
  });
  const [unix, tcp] = running.addresses as [string, string];
  const client = async (address: string, isReading = true): Promise<Client> => {
    const made = await Client.connect(address, isReading);
    clients.push(made);
    return made;
  };
  return { running, unix, tcp, client };
}

const isText =
  (text: string) =>
  (bytes: Uint8Array): boolean =>
    textOf(bytes) === text;

/** Makes the switch know `client` under `address`: `peer` sees its announcement. */
async function announce(client: Client, address: number, peer: Client): Promise<void> {
  client.send(frame(address, BROADCAST, `announce ${address}`));
  await peer.take(isText(`announce ${address}`));
}

void test(
  'two clients exchange frames, one on a unix socket and one on TCP',
  { timeout: 20_000 },
  async (t) => {
    const { unix, tcp, client } = await setUp(t);
    assert.match(unix, /^unix:.*\/s$/);
    assert.match(tcp, /^tcp:127\.0\.0\.1:[1-9]\d*$/);
    const a = await client(unix);
    const b = await client(tcp);
    await announce(b, mac(2), a);
    a.send(frame(mac(1), mac(2), 'ping'));
    assert.equal(textOf(await b.take()), 'ping');
    b.send(frame(mac(2), mac(1), 'pong'));
    assert.equal(textOf(await a.take()), 'pong');
  },
);

void test(
  'frames cut anywhere, of length 0 and of the greatest length pass or are skipped',
  { timeout: 20_000 },
  async (t) => {
    const { unix, client } = await setUp(t);
    const a = await client(unix);
    const b = await client(unix);
    await announce(b, mac(2), a);
    const longest = Buffer.alloc(69_632, 7);
    longest.set(frame(mac(1), mac(2)));
    const bytes = Buffer.concat([
      framed(new Uint8Array(0)),
      framed(frame(mac(1), mac(2), 'one')),
      framed(longest),
    ]);
    for (const cut of [1, 4, 5, 20, 30, 40_000]) {
      a.socket.write(bytes.subarray(0, cut));
      await new Promise((resolve) => setImmediate(resolve));
      a.socket.write(bytes.subarray(cut));
      assert.equal(textOf(await b.take()), 'one');
      assert.deepEqual(Buffer.from(await b.take()), longest);
    }
  },
);

void test(
  'a client that sends garbage is closed, and nobody else notices',
  { timeout: 20_000 },
  async (t) => {
    const { unix, client } = await setUp(t);
    const a = await client(unix);
    const b = await client(unix);
    const garbage = await client(unix);
    await announce(b, mac(2), a);
    const closed = new Promise((resolve) => garbage.socket.once('close', resolve));
    garbage.socket.write(Buffer.concat([Buffer.from([0, 1, 0x10, 1]), Buffer.alloc(100_000, 0xa5)]));
    await closed;
    a.send(frame(mac(1), mac(2), 'still here'));
    assert.equal(textOf(await b.take()), 'still here');
  },
);

void test(
  'a client that does not read loses frames; the others lose none',
  { timeout: 60_000 },
  async (t) => {
    const { running, unix, client } = await setUp(t);
    const sender = await client(unix);
    const reader = await client(unix);
    await client(unix, false);
    const payload = 'x'.repeat(1400);
    // More than the bound (4 MiB) and the kernel's buffers hold; at the reader's pace.
    for (let i = 0; i < 6000; i++) {
      sender.send(frame(mac(1), BROADCAST, `${i} ${payload}`));
      if (i % 100 === 99) await reader.take((bytes) => textOf(bytes).startsWith(`${i} `));
    }
    const [, atReader, atSleeper] = running.stats().ports;
    assert.equal(atReader?.dropped, 0);
    assert.equal(atReader.framesOut, 6000);
    assert.ok(atSleeper!.dropped > 0);
    assert.ok(atSleeper!.bytesOut < 6 * 1024 * 1024);
  },
);

void test(
  "frames in a killed client's socket and those after its death reach its twin in order",
  { timeout: 20_000 },
  async (t) => {
    const { running, unix, tcp, client } = await setUp(t, { hold: PATIENT });
    const peer = await client(unix);
    const twin = await client(tcp);
    const primary = await client(unix, false);
    await announce(primary, mac(1), peer);
    const expected: string[] = [];
    const send = (text: string): void => {
      expected.push(text);
      peer.send(frame(mac(9), mac(1), text));
    };
    for (let i = 0; i < 20; i++) send(`unread ${i}`);
    // A frame to the twin shows that the switch has dealt with those before it.
    await announce(twin, mac(2), peer);
    peer.send(frame(mac(9), mac(2), 'mark'));
    await twin.take(isText('mark'));
    await primary.close();
    for (let i = 0; i < 20; i++) send(`gap ${i}`);
    peer.send(frame(mac(9), mac(2), 'mark'));
    await twin.take(isText('mark'));
    assert.ok(!twin.frames.some((bytes) => textOf(bytes).startsWith('gap')), 'held, not flooded');
    twin.send(frame(mac(1), BROADCAST, 'announcement'));
    send('after');
    await twin.take(isText('after'));
    const got = twin.frames.map(textOf).filter((text) => !text.startsWith('announce'));
    assert.deepEqual([...got, 'after'], expected);
    assert.equal(running.stats().hold?.dropped, 0);
  },
);

void test('connects out, and again after the peer went away', { timeout: 20_000 }, async (t) => {
  const dir = await tempDir(t);
  const server = createServer();
  const sockets: Socket[] = [];
  server.listen(`${dir}/peer`);
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const accepted = async (): Promise<Socket> => {
    const [socket] = (await once(server, 'connection')) as [Socket];
    sockets.push(socket.on('error', () => undefined));
    return socket;
  };
  const first = accepted();
  const { running, unix, client } = await setUp(t, { connect: [`unix:${dir}/peer`] });
  assert.equal(running.addresses.length, 2);
  const second = first.then((socket) => {
    const next = accepted();
    socket.destroy();
    return next;
  });
  const peer = await second;
  const a = await client(unix);
  peer.write(framed(frame(mac(5), BROADCAST, 'from the peer')));
  assert.equal(textOf(await a.take()), 'from the peer');
});

void test('a socket file left behind is replaced, one in use is not', { timeout: 20_000 }, async (t) => {
  const dir = await tempDir(t);
  const path = `${dir}/s`;
  const { spawnSync } = await import('node:child_process');
  const script = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
  spawnSync(process.execPath, ['-e', script]);
  assert.ok((await stat(path)).isSocket());
  const running = await startSwitch({ listen: [`unix:${path}`] });
  t.after(() => running.close());
  await assert.rejects(startSwitch({ listen: [`unix:${path}`] }), /another process is listening/);
  const client = await Client.connect(running.addresses[0]!);
  await client.close();
});

void test(
  'an address that cannot be had is an error, and nothing is left behind',
  { timeout: 20_000 },
  async (t) => {
    const dir = await tempDir(t);
    await assert.rejects(
      startSwitch({ listen: [`unix:${dir}/a`, `unix:${dir}/no/such/b`] }),
      /cannot listen at unix:/,
    );
    await assert.rejects(stat(`${dir}/a`), { code: 'ENOENT' });
    await assert.rejects(startSwitch({}), /at least one address/);
  },
);
