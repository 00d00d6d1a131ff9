import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { Deferred, withDeadline } from '../../../src/base/async.ts';
import type { NetFilter } from '../../../src/net/filter.ts';
import { Netdev } from '../../../src/net/netdev.ts';
import { Hubs, openHubportBackend } from '../../../src/net/netdevs/hubport.ts';
import { parseStreamOptions } from '../../../src/net/netdevs/stream-options.ts';
import { openStreamBackend } from '../../../src/net/netdevs/stream.ts';
import type { StreamBackend } from '../../../src/net/netdevs/stream.ts';
import { framed } from './memory-chardev.ts';

/** A netdev whose guest is a list, and events to wait for. */
class Probe {
  readonly netdev: Netdev;
  readonly frames: string[] = [];
  readonly events: { event: string; data: Record<string, unknown> | undefined }[] = [];
  #changed = new Deferred<void>();

  constructor(id = 'hn0') {
    this.netdev = new Netdev({ id });
    this.netdev.guest = (frame) => {
      this.frames.push(Buffer.from(frame).toString());
      this.#wake();
    };
  }

  readonly emit = (event: string, data?: Record<string, unknown>): void => {
    this.events.push({ event, data });
    this.#wake();
  };

  async until(isTrue: () => boolean, what: string): Promise<void> {
    const wait = async (): Promise<void> => {
      while (!isTrue()) await this.#changed.promise;
    };
    await withDeadline(wait(), 10_000, what);
  }

  #wake(): void {
    const changed = this.#changed;
    this.#changed = new Deferred<void>();
    changed.resolve();
  }
}

async function inFolder(run: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-net-'));
  try {
    await run(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

const portOf = (backend: StreamBackend): string => {
  const { listening } = backend;
  assert.ok(listening?.type === 'inet');
  return listening.port;
};

test('two netdevs talk over TCP and tell of it; a client comes back', async () => {
  const server = new Probe('hn0');
  const client = new Probe('hn1');
  const options = { type: 'stream', id: 'hn0', server: 'on', 'addr.type': 'inet', 'addr.host': '127.0.0.1' };
  const listening = await openStreamBackend(server.netdev, { ...options, 'addr.port': '0' }, server.emit);
  const port = portOf(listening);
  const dialling = await openStreamBackend(
    client.netdev,
    { ...options, id: 'hn1', server: 'off', 'addr.port': port, 'reconnect-ms': '20' },
    client.emit,
  );
  try {
    await server.until(() => server.events.length > 0, 'the connection');
    await client.until(() => client.events.length > 0, 'the connection');
    const { event, data } = client.events[0]!;
    assert.equal(event, 'NETDEV_STREAM_CONNECTED');
    assert.deepEqual(data, {
      'netdev-id': 'hn1',
      addr: { type: 'inet', host: '127.0.0.1', port, ipv4: true, ipv6: false },
    });
    client.netdev.sendFromGuest(Buffer.from('up'));
    await server.until(() => server.frames.length === 1, 'a frame');
    server.netdev.sendFromGuest(Buffer.from('down'));
    await client.until(() => client.frames.length === 1, 'a frame');
    assert.deepEqual([server.frames, client.frames], [['up'], ['down']]);

    await listening.close();
    await client.until(() => client.events.length === 2, 'the end');
    assert.deepEqual(client.events[1], { event: 'NETDEV_STREAM_DISCONNECTED', data: { 'netdev-id': 'hn1' } });
    client.netdev.sendFromGuest(Buffer.from('lost'));
    assert.equal(dialling.lostFrames, 1);
    const again = await openStreamBackend(server.netdev, { ...options, 'addr.port': port }, server.emit);
    await client.until(() => client.events.length === 3, 'the reconnect');
    await again.close();
  } finally {
    await dialling.close();
    await listening.close();
  }
});

test('a server ends a peer that breaks the framing and serves the next one', () =>
  inFolder(async (folder) => {
    const server = new Probe();
    const file = path.join(folder, 's');
    const options = { type: 'stream', id: 'hn0', server: 'on', 'addr.type': 'unix', 'addr.path': file };
    const backend = await openStreamBackend(server.netdev, options, server.emit);
    try {
      const bad = net.connect(file);
      bad.resume();
      bad.write(Buffer.from('ffffffff', 'hex'));
      await once(bad, 'close');
      const good = net.connect(file);
      good.write(framed(Buffer.from('whole')));
      await server.until(() => server.frames.length === 1, 'a frame');
      // One more waits until the one before it has gone; half a frame goes with its connection.
      const next = net.connect(file);
      await once(next, 'connect');
      next.write(framed(Buffer.from('next')));
      good.end(framed(Buffer.from('half')).subarray(0, 6));
      await server.until(() => server.frames.length === 2, "the next one's frame");
      assert.deepEqual(server.frames, ['whole', 'next']);
      next.destroy();
    } finally {
      await backend.close();
    }
  }));

test('socket netdevs are told by other options and tell no events', async () => {
  assert.deepEqual(parseStreamOptions({ type: 'socket', id: 'n', listen: ':1234' }), {
    address: { type: 'inet', host: '', port: '1234' },
    server: true,
    reconnectMs: 0,
    hasEvents: false,
  });
  assert.deepEqual(parseStreamOptions({ type: 'socket', id: 'n', connect: '[::1]:9' }).address, {
    type: 'inet',
    host: '::1',
    port: '9',
  });
  assert.deepEqual(parseStreamOptions({ type: 'socket', fd: '7' }).address, { type: 'fd', fd: 7 });
  const server = new Probe();
  const backend = await openStreamBackend(
    server.netdev,
    { type: 'socket', id: 'n', listen: '127.0.0.1:0' },
    server.emit,
  );
  const peer = net.connect(Number(portOf(backend)), '127.0.0.1');
  peer.write(framed(Buffer.from('x')));
  await server.until(() => server.frames.length === 1, 'a frame');
  peer.destroy();
  await backend.close();
  assert.deepEqual(server.events, []);
});

test('options that make no sense are refused', () => {
  const stream = { type: 'stream', id: 'n', 'addr.type': 'inet', 'addr.port': '1' };
  const errors: [Record<string, string>, RegExp][] = [
    [{ type: 'stream', id: 'n' }, /^Parameter 'addr.type' is missing$/],
    [{ type: 'stream', 'addr.type': 'vsock' }, /^Parameter 'addr.type' does not accept value 'vsock'$/],
    [{ ...stream, server: 'on', reconnect: '1' }, /incompatible with socket in server mode/],
    [{ ...stream, reconnect: '1', 'reconnect-ms': '1' }, /mutually exclusive/],
    [{ ...stream, foo: '1' }, /^Invalid parameter 'foo'$/],
    [{ ...stream, server: 'maybe' }, /^Parameter 'server' expects 'on' or 'off'$/],
    [{ type: 'socket', id: 'n' }, /exactly one of/],
    [{ type: 'socket', listen: ':1', connect: ':2' }, /exactly one of/],
    [{ type: 'socket', mcast: '1.2.3.4:5' }, /^Invalid parameter 'mcast'$/],
  ];
  for (const [options, message] of errors) assert.throws(() => parseStreamOptions(options), { message });
  assert.equal(parseStreamOptions({ ...stream, reconnect: '2' }).reconnectMs, 2000);
});

test('a client without reconnect fails at once when nobody listens', () =>
  inFolder(async (folder) => {
    const { netdev, emit } = new Probe();
    const options = { type: 'stream', id: 'n', 'addr.type': 'unix', 'addr.path': path.join(folder, 'none') };
    await assert.rejects(openStreamBackend(netdev, options, emit), /Failed to connect/);
    assert.equal(netdev.wire, null);
  }));

test('a hub carries a frame to every other port, and through a netdev on a cable', async () => {
  const hubs = new Hubs();
  const none = (): null => null;
  const [a, b] = [new Probe('a'), new Probe('b')];
  const outside = new Netdev({ id: 'up' });
  const wire: string[] = [];
  outside.wire = (frame) => wire.push(Buffer.from(frame).toString());
  const cable = new Netdev({ id: 'hub-up' });
  const backends = [
    openHubportBackend(a.netdev, { type: 'hubport', id: 'a', hubid: '0' }, hubs, none),
    openHubportBackend(b.netdev, { type: 'hubport', id: 'b', hubid: '0' }, hubs, none),
    openHubportBackend(cable, { type: 'hubport', id: 'c', hubid: '0', netdev: 'up' }, hubs, () => outside),
  ];
  a.netdev.sendFromGuest(Buffer.from('from a'));
  assert.deepEqual([a.frames, b.frames, wire], [[], ['from a'], ['from a']]);
  outside.receiveFromWire(Buffer.from('from up'));
  assert.deepEqual([a.frames, b.frames, wire], [['from up'], ['from a', 'from up'], ['from a']]);
  assert.throws(() => openHubportBackend(new Netdev({ id: 'x' }), { hubid: '0', netdev: 'zz' }, hubs, none), {
    message: "netdev 'zz' not found",
  });
  for (const backend of backends) await backend.close();
  assert.equal(hubs.hub(0).ports, 0);
});

test('what a filter injects goes past the filters of the peer; what is sent, through both chains', async () => {
  const hubs = new Hubs();
  const [outside, cable, other] = [
    new Netdev({ id: 'up' }),
    new Netdev({ id: 'hub-up' }),
    new Netdev({ id: 'b' }),
  ];
  const [wire, guest, seen]: string[][] = [[], [], []];
  outside.wire = (frame) => wire!.push(Buffer.from(frame).toString());
  other.guest = (frame) => guest!.push(Buffer.from(frame).toString());
  const backends = [
    openHubportBackend(cable, { type: 'hubport', id: 'c', hubid: '0', netdev: 'up' }, hubs, () => outside),
    openHubportBackend(other, { type: 'hubport', id: 'b', hubid: '0' }, hubs, () => null),
  ];
  const probe = (id: string): NetFilter => ({
    id,
    typeName: 'filter-probe',
    queue: 'all',
    enabled: true,
    attached: () => undefined,
    receive: (packet) => {
      seen!.push(`${id}: ${Buffer.from(packet).toString()}`);
      return false;
    },
    handleEvent: () => undefined,
    properties: () => ({}),
    close: () => undefined,
  });
  const [near, far] = [probe('near'), probe('far')];
  outside.insert(near);
  cable.insert(far);
  outside.receiveFromWire(Buffer.from('sent'));
  outside.passOn(near, Buffer.from('injected'), 'tx');
  assert.deepEqual(seen!.splice(0), ['near: sent', 'far: sent']);
  assert.deepEqual(guest!.splice(0), ['sent', 'injected']);
  cable.passOn(far, Buffer.from('back'), 'tx');
  assert.deepEqual([seen!.splice(0), wire!.splice(0)], [[], ['back']]);
  // A link that is down: the netdev sends nothing, what its peer sends is seen and lost, what is injected passes.
  outside.linkDown = true;
  outside.receiveFromWire(Buffer.from('sent'));
  other.sendFromGuest(Buffer.from('answer'));
  outside.passOn(near, Buffer.from('injected'), 'tx');
  assert.deepEqual(seen!.splice(0), ['far: answer', 'near: answer']);
  assert.deepEqual([wire!.splice(0), guest!.splice(0)], [[], ['injected']]);
  for (const backend of backends) await backend.close();
  // Nobody there: nothing is sent, nothing injected, nothing seen.
  outside.linkDown = false;
  outside.receiveFromWire(Buffer.from('sent'));
  outside.passOn(near, Buffer.from('injected'), 'rx');
  assert.deepEqual([seen, wire, guest], [[], [], []]);
});
