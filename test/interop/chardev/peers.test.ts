// Our socket chardev with QEMU's own (a QMP monitor on it as the source of bytes) and with socat.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { RecordingFrontend, openSocket, portOf, tempFolder } from '../../unit/chardev/support.ts';

const missing = (tool: string, flag: string): string | false =>
  spawnSync(tool, [flag]).error ? `${tool} is not installed` : false;
const noQemu = missing('qemu-system-x86_64', '--version');
const noSocat = missing('socat', '-V');

function start(t: TestContext, command: string, args: readonly string[]): () => Promise<void> {
  const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'ignore'] });
  const stop = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  };
  t.after(stop);
  return stop;
}

const qemuArgs = (chardev: string): string[] => [
  '-machine',
  'none',
  '-display',
  'none',
  '-nodefaults',
  '-chardev',
  chardev,
  '-mon',
  'chardev=q,mode=control',
];

const text = (frontend: RecordingFrontend): string => frontend.received.toString();

test(
  'our client with reconnect talks to a server chardev of QEMU, also after it was restarted',
  { skip: noQemu },
  async (t) => {
    const file = path.join(await tempFolder(t), 'qemu.sock');
    const client = await openSocket(t, {
      server: false,
      address: { type: 'unix', path: file },
      reconnectMs: 20,
    });
    const frontend = new RecordingFrontend();
    client.attach(frontend, 'test');
    for (let round = 0; round < 2; round++) {
      frontend.received = Buffer.alloc(0);
      const stop = start(t, 'qemu-system-x86_64', qemuArgs(`socket,id=q,path=${file},server=on,wait=off`));
      await frontend.until(() => text(frontend).endsWith('\r\n'));
      assert.match(text(frontend), /^\{"QMP"/);
      assert.equal(client.bytesIn, frontend.received.length);
      assert.equal(client.writePair(Buffer.from('{"execute":"qmp_capab'), Buffer.from('ilities"}\n')), true);
      await frontend.until(() => text(frontend).includes('"return"'));
      const calls = frontend.calls.length;
      await stop();
      await frontend.until(() => frontend.calls.length > calls);
    }
    assert.deepEqual(frontend.calls, ['open', 'close', 'open', 'close']);
  },
);

test('our server is found by a client chardev of QEMU that reconnects', { skip: noQemu }, async (t) => {
  const server = await openSocket(t);
  const frontend = new RecordingFrontend();
  server.attach(frontend, 'test');
  const target = `socket,id=q,host=127.0.0.1,port=${portOf(server)}`;
  // The option was renamed; a QEMU that does not know the old name says so and ends.
  const old = spawnSync('qemu-system-x86_64', ['--version'], { encoding: 'utf8' }).stdout.includes(
    'version 7.',
  );
  start(t, 'qemu-system-x86_64', qemuArgs(`${target},${old ? 'reconnect=1' : 'reconnect-ms=100'}`));
  await server.waitConnected();
  await frontend.until(() => text(frontend).endsWith('\r\n'));
  assert.match(text(frontend), /^\{"QMP"/);
  // Our side gives the connection up; QEMU comes again and greets again.
  server.detach(frontend);
  const failing = new RecordingFrontend();
  failing.onData = () => {
    throw new Error('give up this connection');
  };
  server.attach(failing, 'failing');
  server.write(Buffer.from('{"execute":"qmp_capabilities"}\n'));
  await failing.until(() => failing.calls.includes('close'));
  server.detach(failing);
  const again = new RecordingFrontend();
  server.attach(again, 'again');
  await again.until(() => text(again).endsWith('\r\n'));
  assert.match(text(again), /^\{"QMP"/);
});

test('megabytes through socat come back as they were sent', { skip: noSocat }, async (t) => {
  const file = path.join(await tempFolder(t), 'ours.sock');
  const server = await openSocket(t, { address: { type: 'unix', path: file } });
  const frontend = new RecordingFrontend();
  const chunks: Buffer[] = [];
  let received = 0;
  frontend.onData = (chunk) => {
    chunks.push(Buffer.from(chunk));
    received += chunk.length;
    frontend.onOpen();
  };
  server.attach(frontend, 'test');
  start(t, 'socat', [`UNIX-CONNECT:${file}`, 'EXEC:cat']);
  await server.waitConnected();
  const piece = Buffer.alloc(50_000);
  let sent = 0;
  for (let i = 0; i < 200; i++) {
    piece.fill(i);
    while (!server.write(piece)) {
      const before = received;
      await frontend.until(() => received > before);
    }
    sent += piece.length;
  }
  await frontend.until(() => received === sent);
  assert.equal(server.bytesOut, sent);
  assert.equal(server.bytesIn, sent);
  const all = Buffer.concat(chunks);
  for (let i = 0; i < 200; i++) {
    assert.ok(all.subarray(i * 50_000, (i + 1) * 50_000).equals(Buffer.alloc(50_000, i)), `piece ${i}`);
  }
});
