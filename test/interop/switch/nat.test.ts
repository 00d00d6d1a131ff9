import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { startSwitch, type NatOptions, type RunningSwitch } from '../../../src/switch/index.ts';
import { Client, mac } from '../../unit/switch/frames.ts';
import { MiniGuest } from './mini-guest.ts';
import { missingSlirp, TextClient } from './support.ts';

const skip = missingSlirp();
const options = { skip, timeout: 60_000 };

async function setUp(t: TestContext, nat: NatOptions) {
  const dir = await mkdtemp(join(tmpdir(), 'colo-nat-'));
  const running = await startSwitch({
    listen: [`unix:${dir}/s`],
    nat,
    hold: { windowMs: 60_000, recordMs: 60_000 },
  });
  const clients: Client[] = [];
  t.after(async () => {
    await Promise.all(clients.map((client) => client.close()));
    await running.close();
    await rm(dir, { recursive: true });
  });
  const newClient = async (): Promise<Client> => {
    const client = await Client.connect(running.addresses[0]!);
    clients.push(client);
    return client;
  };
  const guest = new MiniGuest(mac(1), '10.0.2.15');
  return { running, guest, newClient };
}

function portOf(running: RunningSwitch, index = 0): number {
  return running.forwards[index]!.hostPort;
}

void test('the gateway and the name server answer ARP', options, async (t) => {
  const { guest, newClient } = await setUp(t, {});
  const client = await newClient();
  const asker = new MiniGuest(mac(1), '10.0.2.15');
  // Not served by the mini guest's loop: the answers are looked at here.
  const request = (ip: number): Buffer => {
    const out = Buffer.alloc(60);
    Buffer.from('ffffffffffff', 'hex').copy(out);
    guest.mac.copy(out, 6);
    Buffer.from('08060001080006040001', 'hex').copy(out, 12);
    asker.mac.copy(out, 22);
    asker.ip.copy(out, 28);
    Buffer.from([10, 0, 2, ip]).copy(out, 38);
    return out;
  };
  for (const host of [2, 3]) {
    client.send(request(host));
    const answer = Buffer.from(await client.take((bytes) => bytes[12] === 8 && bytes[13] === 6));
    assert.equal(answer.readUInt16BE(20), 2, 'an ARP reply');
    assert.deepEqual([...answer.subarray(28, 32)], [10, 0, 2, host]);
    assert.deepEqual(answer.subarray(0, 6), guest.mac);
    assert.equal(answer.subarray(6, 12).toString('hex'), `52550a00020${host}`);
  }
});

void test('a forwarded port leads to the guest and back', options, async (t) => {
  const { running, guest, newClient } = await setUp(t, {
    hostForwards: ['tcp::0-:7', 'tcp:127.0.0.1:0-10.0.2.15:8'],
  });
  guest.moveTo(await newClient());
  assert.notEqual(portOf(running, 0), portOf(running, 1));
  for (const index of [0, 1]) {
    const client = await TextClient.connect(portOf(running, index));
    for (const word of ['one\n', 'two\n', 'x'.repeat(20_000) + '\n']) {
      client.socket.write(word);
      assert.equal(await client.until('\n'), word);
    }
    client.close();
  }
});

void test('many connections at once, and after they closed', options, async (t) => {
  const { running, guest, newClient } = await setUp(t, { hostForwards: ['tcp::0-:7'] });
  guest.moveTo(await newClient());
  for (let round = 0; round < 3; round++) {
    await Promise.all(
      Array.from({ length: 24 }, async (_, i) => {
        const client = await TextClient.connect(portOf(running));
        client.socket.write(`${round}.${i}\n`);
        assert.equal(await client.until('\n'), `${round}.${i}\n`);
        const closed = once(client.socket, 'close');
        client.socket.end();
        await closed;
      }),
    );
  }
});

void test(
  'a connection bears its own beginning again, but no other number within its window',
  options,
  async (t) => {
    const { running, guest, newClient } = await setUp(t, { hostForwards: ['tcp::0-:7'] });
    guest.moveTo(await newClient());
    const client = await TextClient.connect(portOf(running));
    const say = async (word: string): Promise<void> => {
      client.socket.write(word);
      await client.until(word);
    };
    await say('first\n');
    guest.beginAgain(0);
    await say('the same\n');
    guest.beginAgain(1_000_000);
    await say('far away\n');
    const closed = once(client.socket, 'close');
    guest.beginAgain(20_000);
    await closed;
  },
);

void test('a connection loses nothing when the guest dies and goes on elsewhere', options, async (t) => {
  const { running, guest, newClient } = await setUp(t, { hostForwards: ['tcp::0-:7'] });
  let port = await newClient();
  guest.moveTo(port);
  const client = await TextClient.connect(portOf(running));
  for (let round = 0; round < 3; round++) {
    client.socket.write(`before ${round}\n`);
    await client.until(`before ${round}\n`);
    const before = running.stats();
    await port.close();
    client.socket.write(`gap ${round}\n`);
    // The frame is out of slirp and in the hold (the port's own record may be there already).
    while (running.stats().ports.find(({ name }) => name === 'nat')!.framesIn === natIn(before)) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    port = await newClient();
    guest.moveTo(port);
    assert.equal(await client.until('\n'), `gap ${round}\n`);
  }
  const held = running.stats().hold!;
  assert.ok(held.delivered >= 3, JSON.stringify(held));
  assert.equal(held.dropped + held.expired, 0);
  client.close();
});

void test('without hold the connection survives by retransmission', options, async () => {
  const dir = await mkdtemp(join(tmpdir(), 'colo-nat-'));
  const running = await startSwitch({
    listen: [`unix:${dir}/s`],
    nat: { hostForwards: ['tcp::0-:7'] },
    hold: false,
  });
  const guest = new MiniGuest(mac(1), '10.0.2.15');
  const first = await Client.connect(running.addresses[0]!);
  guest.moveTo(first);
  const client = await TextClient.connect(portOf(running));
  client.socket.write('before\n');
  await client.until('before\n');
  const before = running.stats();
  await first.close();
  client.socket.write('gap\n');
  while (natIn(running.stats()) === natIn(before)) await new Promise((resolve) => setImmediate(resolve));
  const second = await Client.connect(running.addresses[0]!);
  guest.moveTo(second);
  assert.equal(await client.until('\n'), 'gap\n');
  client.close();
  await second.close();
  await running.close();
  await rm(dir, { recursive: true });
});

void test('a UDP port is forwarded', options, async (t) => {
  const { running, guest, newClient } = await setUp(t, { hostForwards: ['udp::0-:9'] });
  const client = await newClient();
  client.send(announcement(guest));
  const socket = createSocket('udp4');
  t.after(() => socket.close());
  socket.send('datagram', portOf(running), '127.0.0.1');
  const isUdp = (bytes: Uint8Array): boolean => bytes[12] === 8 && bytes[13] === 0 && bytes[23] === 17;
  const got = Buffer.from(await client.take(isUdp));
  assert.equal(got.readUInt16BE(36), 9);
  assert.equal(got.subarray(42).toString(), 'datagram');
});

void test('a forward that cannot be had is an error with its cause', options, async (t) => {
  const taken = createServer().listen(0, '127.0.0.1');
  t.after(() => taken.close());
  await once(taken, 'listening');
  const { port } = taken.address() as AddressInfo;
  const dir = await mkdtemp(join(tmpdir(), 'colo-nat-'));
  t.after(() => rm(dir, { recursive: true }));
  await assert.rejects(
    startSwitch({ listen: [`unix:${dir}/s`], nat: { hostForwards: [`tcp:127.0.0.1:${port}-:7`] } }),
    new RegExp(`cannot forward tcp:127\\.0\\.0\\.1:${port} to the guest: address already in use`),
  );
});

void test('garbage of every length does not end the NAT', options, async (t) => {
  const { running, guest, newClient } = await setUp(t, { hostForwards: ['tcp::0-:7'] });
  guest.moveTo(await newClient());
  const noisy = await newClient();
  for (let length = 1; length < 400; length++) {
    const bytes = Buffer.alloc(length, length & 0xff);
    bytes.set(
      [0x52, 0x55, 10, 0, 2, 2, 0x52, 0x54, 0, 0, 0, 9, 8, length % 3 === 0 ? 6 : 0].slice(0, length),
    );
    noisy.send(bytes);
  }
  const client = await TextClient.connect(portOf(running));
  client.socket.write('alive\n');
  assert.equal(await client.until('\n'), 'alive\n');
  client.close();
});

function natIn(stats: ReturnType<RunningSwitch['stats']>): number {
  return stats.ports.find(({ name }) => name === 'nat')!.framesIn;
}

/** A gratuitous ARP. */
function announcement(guest: MiniGuest): Buffer {
  const out = Buffer.alloc(60);
  Buffer.from('ffffffffffff', 'hex').copy(out);
  guest.mac.copy(out, 6);
  Buffer.from('08060001080006040001', 'hex').copy(out, 12);
  guest.mac.copy(out, 22);
  guest.ip.copy(out, 28);
  guest.ip.copy(out, 38);
  return out;
}
