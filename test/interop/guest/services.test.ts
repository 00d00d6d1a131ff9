/** The guest's services keep to their bounds whatever clients send. Those of the i386 guest are the same program. */
import assert from 'node:assert/strict';
import { Agent } from 'node:http';
import { after, before, describe, it } from 'node:test';
import { httpGet } from './guest-clients.ts';
import { GuestLab } from './guest-machine.ts';

const ARCH = 'amd64';

describe("the guest's services", { skip: await GuestLab.whyNot(ARCH) }, () => {
  let lab: GuestLab;
  before(async () => {
    lab = await GuestLab.open(ARCH);
  });
  after(async () => {
    await lab.close();
  });

  it('bounds, orders and survives what clients send', async () => {
    await lab.withGuest({ nic: 'virtio-net-pci' }, async (machine) => {
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
    await lab.withGuest({ nic: 'e1000' }, async (machine) => {
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
});
