/** The guest boots on stock QEMU with each NIC and disk that matters, and its services do what they promise. */
import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { copyFile, mkdtemp, rm } from 'node:fs/promises';
import { Agent, get, type IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { buildGuest } from '../../../src/guest/build.ts';
import { GuestMachine, isOnPath, TEST_CACHE, type MachineOptions } from './guest-machine.ts';

const QEMU = 'qemu-system-i386';
const missing = (await isOnPath(QEMU)) ? ((await isOnPath('apt-get')) ? false : 'no apt-get') : `no ${QEMU}`;

describe('the guest on QEMU', { skip: missing }, () => {
  let directory = '';
  let image = '';
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'colo-boot-'));
    image = join(directory, 'guest.qcow2');
    await buildGuest({ output: image, cacheDir: TEST_CACHE });
  });
  after(async () => {
    await rm(directory, { recursive: true, force: true });
  });

  /** Runs `body` against a guest booted from a fresh copy of the image. */
  async function withGuest(
    options: Omit<MachineOptions, 'image'>,
    body: (machine: GuestMachine) => Promise<void>,
  ): Promise<void> {
    const copy = join(directory, 'run.qcow2');
    await copyFile(image, copy);
    const machine = await GuestMachine.boot({ ...options, image: copy });
    try {
      await body(machine);
    } finally {
      await machine.kill();
    }
  }

  const hardware: readonly Omit<MachineOptions, 'image'>[] = [
    { nic: 'rtl8139' },
    { nic: 'e1000' },
    { nic: 'ne2k_pci' },
    { nic: 'virtio-net-pci', diskInterface: 'virtio' },
    { nic: 'e1000e', args: ['-machine', 'q35'] },
  ];
  for (const options of hardware) {
    it(`answers through ${options.nic} with a ${options.diskInterface ?? 'SATA/IDE'} disk`, async () => {
      await withGuest(options, async (machine) => {
        const ledger = machine.client(7000);
        assert.equal(await ledger.ask('count'), 'count 0');
        assert.equal(await ledger.ask('append first line'), 'ok 1');
        assert.equal(await ledger.ask('read 1'), 'line first line');
        assert.equal(await machine.client(7).ask('echo me'), 'echo me');
        assert.match(await machine.client(7001).ask('hello'), /^session \S+ 1$/);
        assert.equal((await httpGet(machine.url('/'))).statusCode, 200);
        assert.equal(await udpEcho(machine.ports.get(7)!), 'datagram');
      });
    });
  }

  it('keeps every acknowledged line when its plug is pulled', async () => {
    const copy = join(directory, 'plug.qcow2');
    await copyFile(image, copy);
    const first = await GuestMachine.boot({ image: copy, nic: 'rtl8139' });
    const writer = first.client(7000);
    for (let line = 1; line <= 50; line += 1)
      assert.equal(await writer.ask(`append line ${line}`), `ok ${line}`);
    await first.kill();
    const second = await GuestMachine.boot({ image: copy, nic: 'rtl8139' });
    try {
      const reader = second.client(7000);
      assert.equal(await reader.ask('count'), 'count 50');
      assert.equal(await reader.ask('read 50'), 'line line 50');
      assert.equal(await reader.ask('append after'), 'ok 51');
    } finally {
      await second.kill();
    }
  });

  it('bounds, orders and survives what clients send', async () => {
    await withGuest({ nic: 'virtio-net-pci' }, async (machine) => {
      const ledger = machine.client(7000);
      assert.equal(await ledger.ask('read 1'), 'err no such line');
      assert.equal(await ledger.ask('frobnicate'), 'err usage: append TEXT, read N or count');
      // Pipelined: one write, answers in order, appends counted before the question that follows them.
      ledger.socket.write('append a\nappend b\r\ncount\nread 2\nappend c\n');
      const answers = [];
      for (let n = 0; n < 5; n += 1) answers.push(await ledger.next());
      assert.deepEqual(answers, ['ok 1', 'ok 2', 'count 2', 'line b', 'ok 3']);

      const session = machine.client(7001);
      const other = machine.client(7001);
      const id = (await session.ask('x')).split(' ')[1];
      assert.equal(await session.ask('y'), `session ${id} 2`);
      assert.notEqual((await other.ask('x')).split(' ')[1], id);

      const tooLong = machine.client(7000);
      assert.equal(await tooLong.ask('z'.repeat(10_000)), 'err line too long');
      assert.equal(await tooLong.next(), '(closed)');
      const garbage = machine.client(80);
      garbage.socket.write(Buffer.from(Array.from({ length: 9000 }, (_, at) => (at * 89) % 256)));
      assert.match(await garbage.next(), /^HTTP\/1\.1 4/);

      // More clients than the guest keeps: the newest are served, and so is everyone after them.
      const crowd = Array.from({ length: 300 }, () => machine.client(7001));
      assert.match(await crowd.at(-1)!.ask('last'), /^session/);
      for (const client of crowd) client.socket.destroy();
      assert.equal(await machine.client(7000).ask('count'), 'count 3');
    });
  });

  it('serves HTTP on a connection that stays, and closes when asked', async () => {
    await withGuest({ nic: 'e1000' }, async (machine) => {
      const agent = new Agent({ keepAlive: true, maxSockets: 1 });
      const first = await httpGet(machine.url('/'), { agent });
      const second = await httpGet(machine.url('/'), { agent });
      assert.match(first.body, /<b id=uptime>\d+<\/b>/);
      assert.match(second.body, /<b id=hits>2<\/b>/);
      assert.equal(first.localPort, second.localPort);
      agent.destroy();
      const closing = await httpGet(machine.url('/'), { headers: { Connection: 'close' } });
      assert.equal(closing.connection, 'close');
      assert.equal((await httpGet(machine.url('/bytes/1000000'))).body.length, 1_000_000);
      assert.equal((await httpGet(machine.url('/nothing'))).statusCode, 404);
    });
  });

  it('takes its address from the image, has a shell on the console, and powers off', async () => {
    const own = join(directory, 'own-address.qcow2');
    await buildGuest({ output: own, cacheDir: TEST_CACHE, ip: '192.168.76.9/24', gateway: '192.168.76.2' });
    const machine = await GuestMachine.boot({
      image: own,
      nic: 'rtl8139',
      net: 'net=192.168.76.0/24',
      address: '192.168.76.9',
    });
    try {
      assert.equal(await machine.client(7000).ask('count'), 'count 0');
      machine.type('echo sum $((40+2)); ip route\n');
      await machine.waitFor('sum 42');
      await machine.waitFor('default via 192.168.76.2');
      machine.type('poweroff\n');
      await machine.poweredOff();
    } finally {
      await machine.kill();
    }
  });
});

interface Answer {
  readonly statusCode: number | undefined;
  readonly body: string;
  readonly connection: string | undefined;
  readonly localPort: number | undefined;
}

async function httpGet(
  url: string,
  options: { readonly agent?: Agent; readonly headers?: Record<string, string> } = {},
): Promise<Answer> {
  const request = get(url, { ...options, timeout: 15_000 });
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  const { localPort } = response.socket;
  let body = '';
  for await (const chunk of response) body += (chunk as Buffer).toString('latin1');
  return { statusCode: response.statusCode, body, connection: response.headers.connection, localPort };
}

async function udpEcho(port: number): Promise<string> {
  const socket = createSocket('udp4');
  try {
    socket.send('datagram', port, '127.0.0.1');
    const [data] = (await once(socket, 'message', { signal: AbortSignal.timeout(10_000) })) as [Buffer];
    return data.toString();
  } finally {
    socket.close();
  }
}
