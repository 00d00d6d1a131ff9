import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import { EthernetSwitch, type SwitchOptions } from '../../../src/switch/switch.ts';
import { BROADCAST, FakePort, frame, mac, NOBODY } from './frames.ts';

function setUp(t: TestContext, count: number, options: SwitchOptions = {}) {
  const ethernet = new EthernetSwitch(options);
  t.after(() => ethernet.close());
  const ports = Array.from({ length: count }, (_, i) => new FakePort(ethernet, `p${i}`));
  return { ethernet, ports };
}

void test('unknown, broadcast and multicast go everywhere but back; known addresses to one port', (t) => {
  const { ethernet, ports } = setUp(t, 3);
  const [a, b, c] = ports as [FakePort, FakePort, FakePort];
  a.port.receive(frame(mac(1), mac(2), 'unknown'));
  a.port.receive(frame(mac(1), BROADCAST, 'broadcast'));
  a.port.receive(frame(mac(1), 0x0100_5e00_0001, 'multicast'));
  a.port.receive(frame(mac(1), 0x3333_ff00_000f, 'neighbour solicitation'));
  const flooded = ['unknown', 'broadcast', 'multicast', 'neighbour solicitation'];
  for (const port of [b, c]) assert.deepEqual(port.take(), flooded);
  b.port.receive(frame(mac(2), mac(1), 'answer'));
  assert.deepEqual([a.take(), b.take(), c.take()], [['answer'], [], []]);
  a.port.receive(frame(mac(1), mac(2), 'known'));
  assert.deepEqual([a.take(), b.take(), c.take()], [[], ['known'], []]);
  assert.equal(ethernet.stats().flooded, 4);
});

void test('a frame to an address on its own port goes nowhere', (t) => {
  const { ports } = setUp(t, 2);
  const [a, b] = ports as [FakePort, FakePort];
  a.port.receive(frame(mac(1), BROADCAST));
  a.port.receive(frame(mac(2), BROADCAST));
  b.take();
  a.port.receive(frame(mac(1), mac(2), 'local'));
  assert.deepEqual([a.take(), b.take()], [[], []]);
});

void test('an address that moves is followed from its next frame', (t) => {
  const { ethernet, ports } = setUp(t, 3);
  const [a, b, c] = ports as [FakePort, FakePort, FakePort];
  a.port.receive(frame(mac(1), BROADCAST));
  b.port.receive(frame(mac(1), BROADCAST, 'announcement'));
  ports.forEach((port) => port.take());
  c.port.receive(frame(mac(3), mac(1), 'to it'));
  assert.deepEqual([a.take(), b.take()], [[], ['to it']]);
  assert.equal(ethernet.stats().moved, 1);
});

void test('runts and impossible sources are counted and change nothing', (t) => {
  const { ethernet, ports } = setUp(t, 2);
  const [a, b] = ports as [FakePort, FakePort];
  a.port.receive(new Uint8Array(13));
  a.port.receive(new Uint8Array(0));
  a.port.receive(frame(BROADCAST, mac(2)));
  a.port.receive(frame(0, mac(2)));
  assert.deepEqual(b.take(), []);
  assert.equal(ethernet.stats().macs, 0);
  assert.equal(a.port.counters.invalid, 4);
});

void test('ports flush once per burst; a full port drops and counts, alone', (t) => {
  const { ethernet, ports } = setUp(t, 3);
  const [a, b, c] = ports as [FakePort, FakePort, FakePort];
  b.hasRoom = false;
  for (let i = 0; i < 5; i++) a.port.receive(frame(mac(1), BROADCAST, String(i)));
  ethernet.flush();
  ethernet.flush();
  assert.deepEqual(c.take(), ['0', '1', '2', '3', '4']);
  assert.equal(c.flushes, 1);
  assert.equal(b.port.counters.dropped, 5);
  assert.equal(b.port.counters.framesOut, 0);
  assert.equal(c.port.counters.bytesOut, 5 * 15);
});

void test('the number of ports is bounded, and a detached port makes room', (t) => {
  const { ethernet, ports } = setUp(t, 2, { maxPorts: 2 });
  assert.throws(() => new FakePort(ethernet, 'third'));
  ports[0]!.port.detach();
  ports[0]!.port.detach();
  assert.ok(new FakePort(ethernet, 'third'));
});

void test('a silent address is forgotten after the ageing time', (t) => {
  t.mock.timers.enable({ apis: ['setInterval'] });
  const { ports } = setUp(t, 3);
  const [a, b, c] = ports as [FakePort, FakePort, FakePort];
  a.port.receive(frame(mac(1), BROADCAST));
  ports.forEach((port) => port.take());
  t.mock.timers.tick(299_000);
  b.port.receive(frame(mac(2), mac(1), 'known'));
  assert.deepEqual(c.take(), []);
  t.mock.timers.tick(30_000);
  b.port.receive(frame(mac(2), mac(1), 'flooded'));
  assert.deepEqual(c.take(), ['flooded']);
});

void test('after a port died its twin gets the unread frames and those since, before anything new', (t) => {
  const { ethernet, ports } = setUp(t, 3);
  const [client, primary, bystander] = ports as [FakePort, FakePort, FakePort];
  primary.port.receive(frame(mac(1), BROADCAST));
  client.port.receive(frame(mac(9), mac(1), 'read'));
  primary.unreadFrames = [frame(mac(9), mac(1), 'unread'), frame(mac(9), NOBODY, 'not its own')];
  ports.forEach((port) => port.take());
  primary.port.detach();
  client.port.receive(frame(mac(9), mac(1), 'into the gap'));
  client.port.receive(frame(mac(9), BROADCAST, 'who has'));
  assert.deepEqual(bystander.take(), ['who has'], 'held frames are not flooded');
  const twin = new FakePort(ethernet, 'twin');
  twin.port.receive(frame(mac(1), BROADCAST, 'announcement'));
  client.port.receive(frame(mac(9), mac(1), 'after'));
  assert.deepEqual(twin.take(), ['unread', 'into the gap', 'who has', 'after']);
  assert.deepEqual(ethernet.stats().hold, { kept: 3, delivered: 3, expired: 0, dropped: 0 });
});

void test('a frame from a dead port after its end is not switched', (t) => {
  const { ports } = setUp(t, 2);
  const [a, b] = ports as [FakePort, FakePort];
  a.port.detach();
  a.port.receive(frame(mac(1), BROADCAST));
  assert.deepEqual(b.take(), []);
});

void test('an address that had moved away before its old port closed is not held for', (t) => {
  const { ethernet, ports } = setUp(t, 3);
  const [client, primary, twin] = ports as [FakePort, FakePort, FakePort];
  primary.port.receive(frame(mac(1), BROADCAST));
  twin.port.receive(frame(mac(1), BROADCAST));
  primary.port.detach();
  client.port.receive(frame(mac(9), mac(1), 'direct'));
  assert.ok(twin.take().includes('direct'));
  assert.equal(ethernet.stats().hold?.kept, 0);
});

void test('without hold frames for a dead port are flooded as unknown', (t) => {
  const { ethernet, ports } = setUp(t, 3, { hold: false });
  const [client, primary, bystander] = ports as [FakePort, FakePort, FakePort];
  primary.port.receive(frame(mac(1), BROADCAST));
  bystander.take();
  primary.port.detach();
  client.port.receive(frame(mac(9), mac(1), 'flooded'));
  assert.deepEqual(bystander.take(), ['flooded']);
  assert.equal(ethernet.stats().hold, null);
});
