import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { PassThrough } from 'node:stream';
import { test } from 'node:test';
import { Chardevs } from '../../../src/chardev/registry.ts';
import { SocketChardev } from '../../../src/chardev/socket.ts';
import { StdioChardev } from '../../../src/chardev/stdio.ts';
import { RecordingFrontend, connectTo, portOf, socketConfig, tempFolder, turns } from './support.ts';

test('adding, finding, using and removing, with the texts of QEMU', async (t) => {
  const chardevs = new Chardevs();
  t.after(() => chardevs.closeAll());
  const added = await chardevs.add(socketConfig({ id: 'ma' }));
  assert.equal(chardevs.find('ma'), added);
  await chardevs.add({ backend: 'null', id: 'n' });
  assert.deepEqual(
    chardevs.all().map(({ id }) => id),
    ['ma', 'n'],
  );
  await assert.rejects(chardevs.add(socketConfig({ id: 'ma' })), {
    message: "Chardev with id 'ma' already exists",
  });
  await assert.rejects(chardevs.remove('x'), { message: "Chardev 'x' not found" });
  const frontend = new RecordingFrontend();
  added.attach(frontend, 'mirror');
  await assert.rejects(chardevs.remove('ma'), { message: "Chardev 'ma' is busy" });
  added.detach(frontend);
  await chardevs.remove('ma');
  assert.equal(chardevs.find('ma'), null);
});

test('two additions of one id at once: the second is refused', async (t) => {
  const chardevs = new Chardevs();
  t.after(() => chardevs.closeAll());
  const [first, second] = await Promise.allSettled([
    chardevs.add(socketConfig({ id: 'c' })),
    chardevs.add(socketConfig({ id: 'c' })),
  ]);
  assert.equal(first.status, 'fulfilled');
  assert.equal(second.status, 'rejected');
});

test('chardev-add that fails says which chardev and why, and leaves the id free', async (t) => {
  const chardevs = new Chardevs();
  t.after(() => chardevs.closeAll());
  const file = path.join(await tempFolder(t), 'absent', 'x.sock');
  const backend = (server: boolean): unknown => ({
    type: 'socket',
    data: { addr: { type: 'unix', data: { path: file } }, server },
  });
  await assert.rejects(chardevs.addBackend('d', backend(false)), {
    message: `Failed to add chardev 'd': Failed to connect to '${file}': No such file or directory`,
  });
  await assert.rejects(chardevs.addBackend('d', backend(true)), {
    message: `Failed to add chardev 'd': Failed to bind socket to ${file}: No such file or directory`,
  });
  const inet = (host: string, port: string, server: boolean): unknown => ({
    type: 'socket',
    data: { addr: { type: 'inet', data: { host, port } }, server },
  });
  const taken = await chardevs.add(socketConfig({ id: 'taken' }));
  assert.ok(taken instanceof SocketChardev);
  const port = String(portOf(taken));
  await assert.rejects(chardevs.addBackend('d', inet('127.0.0.1', port, true)), {
    message: "Failed to add chardev 'd': Failed to find an available port: Address already in use",
  });
  await assert.rejects(chardevs.addBackend('d', inet('127.0.0.1', 'x', false)), {
    message:
      "Failed to add chardev 'd': address resolution failed for 127.0.0.1:x: Servname not supported for ai_socktype",
  });
  await chardevs.remove('taken');
  await assert.rejects(chardevs.addBackend('d', inet('127.0.0.1', port, false)), {
    message: `Failed to add chardev 'd': Failed to connect to '127.0.0.1:${port}': Connection refused`,
  });
  await assert.rejects(chardevs.addBackend('d', { type: 'socket', data: {} }), {
    message: "Parameter 'backend.data.addr' is missing",
  });
  await chardevs.addBackend('d', inet('127.0.0.1', '0', true));
});

test('the pair of chardevs of the COLO guide that meet in one process', async (t) => {
  const chardevs = new Chardevs();
  t.after(() => chardevs.closeAll());
  const compare0 = await chardevs.add(socketConfig({ id: 'compare0' }));
  assert.ok(compare0 instanceof SocketChardev);
  const port = String(portOf(compare0));
  const client = await chardevs.add(
    socketConfig({ id: 'compare0-0', server: false, address: { type: 'inet', host: '127.0.0.1', port } }),
  );
  assert.equal(client.connected, true);
  await compare0.waitConnected();
});

test('a file takes what is written, null everything', async (t) => {
  const chardevs = new Chardevs();
  t.after(() => chardevs.closeAll());
  const file = path.join(await tempFolder(t), 'serial.log');
  const log = await chardevs.add({ backend: 'file', id: 'f', path: file, append: false });
  assert.equal(log.write(Buffer.from('boot')), true);
  assert.equal(log.writePair(Buffer.from('ed'), Buffer.from('\n')), true);
  await chardevs.remove('f');
  assert.equal(await readFile(file, 'utf8'), 'booted\n');
  const nothing = await chardevs.add({ backend: 'null', id: 'n' });
  assert.equal(nothing.write(Buffer.alloc(8 * 1024 * 1024)), true);
  await assert.rejects(
    chardevs.add({ backend: 'file', id: 'g', path: `${file}/x`, append: false }),
    /Could not open/,
  );
});

test('standard input is one user’s, raw on a terminal, with Ctrl-C kept', async () => {
  const input = new PassThrough() as PassThrough & { isTTY: boolean; setRawMode: (on: boolean) => unknown };
  const modes: boolean[] = [];
  input.isTTY = true;
  input.setRawMode = (on) => modes.push(on);
  const output = new PassThrough();
  let interrupted = 0;
  const chardev = new StdioChardev(
    { backend: 'stdio', id: 's', signal: true },
    { input: input as never, output: output as never, interrupt: () => interrupted++ },
  );
  await chardev.open();
  const frontend = new RecordingFrontend();
  input.write('early');
  chardev.attach(frontend, 'serial');
  await frontend.until(() => frontend.received.length === 5);
  chardev.write(Buffer.from('out'));
  assert.equal(output.read(), null);
  await turns(1);
  assert.equal(String(output.read()), 'out');
  input.write(Buffer.of(3));
  input.write('x');
  await frontend.until(() => frontend.received.length === 6);
  assert.equal(interrupted, 1);
  await chardev.close();
  assert.deepEqual(modes, [true, false]);
  assert.deepEqual(frontend.calls, ['open', 'close']);
  assert.equal(output.destroyed, false);
});

test('one chardev may have the standard streams', async () => {
  const chardevs = new Chardevs();
  await chardevs.add({ backend: 'null', id: 'other' });
  const first = await chardevs.add({ backend: 'stdio', id: 'a', signal: true });
  try {
    await assert.rejects(chardevs.add({ backend: 'stdio', id: 'b', signal: true }), {
      message: 'cannot use stdio by multiple character devices',
    });
  } finally {
    await first.close();
    await chardevs.closeAll();
  }
});

test('a client connects to a chardev that was found in the registry', async (t) => {
  const chardevs = new Chardevs();
  t.after(() => chardevs.closeAll());
  const server = await chardevs.addBackend('s', {
    type: 'socket',
    data: { addr: { type: 'inet', data: { host: '127.0.0.1', port: '0' } } },
  });
  assert.ok(server instanceof SocketChardev);
  await connectTo(t, server);
  await server.waitConnected();
  assert.match(server.filename, /^tcp:127\.0\.0\.1:\d+,server=on <-> 127\.0\.0\.1:\d+$/);
});
