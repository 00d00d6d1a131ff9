/** The console of a VM: everybody hears it, who comes later hears the end of it, and nobody holds the guest up. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, stat, symlink } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { ConsoleHub } from '../../../src/ha/room/console-hub.ts';
import type { ConsolePaths } from '../../../src/ha/room/console-hub.ts';
import { until } from '../../helpers/colo.ts';

const KEPT = 64 * 1024;

/** A VM's serial port with one client at a time, as colo vm has it. */
class Serial {
  readonly server = net.createServer();
  typed = '';
  #socket: net.Socket | null = null;

  constructor(at: string) {
    this.server.on('connection', (socket) => {
      this.#socket = socket;
      socket.on('error', () => undefined);
      socket.on('data', (bytes) => (this.typed += bytes.toString()));
      this.server.emit('heard');
    });
    this.server.listen(at);
  }

  say(text: string): void {
    this.#socket!.write(text);
  }

  async cut(): Promise<void> {
    const again = once(this.server, 'heard');
    this.#socket!.destroy();
    await again;
  }
}

class Client {
  text = '';
  readonly socket: net.Socket;

  constructor(at: string) {
    this.socket = net.connect(at);
    this.socket.on('data', (bytes) => {
      this.text += bytes.toString();
      this.socket.emit('more');
    });
  }

  async until(end: string): Promise<void> {
    while (!this.text.endsWith(end)) await once(this.socket, 'more');
  }
}

async function rig(t: TestContext): Promise<{ paths: ConsolePaths; serial: Serial }> {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-console-'));
  const at = (name: string): string => path.join(folder, name);
  const paths = { serial: at('serial.sock'), console: at('console.sock'), consoleLog: at('console.log') };
  const serial = new Serial(paths.serial);
  t.after(async () => {
    serial.server.close();
    await rm(folder, { recursive: true });
  });
  return { paths, serial };
}

test('two clients hear the guest, and it hears both', async (t) => {
  const { paths, serial } = await rig(t);
  const hub = new ConsoleHub(paths);
  await hub.ready;
  serial.say('booting\n');
  const [one, two] = [new Client(paths.console), new Client(paths.console)];
  await Promise.all([one.until('booting\n'), two.until('booting\n')]);
  one.socket.write('a');
  two.socket.write('b');
  await until('both', 60_000, () => serial.typed.length === 2);
  await serial.cut();
  await until('the connection', 60_000, () => {
    serial.say('.');
    return one.text.endsWith('.');
  });
  const ended = Promise.all([once(one.socket, 'end'), once(two.socket, 'end')]);
  hub.close();
  await ended;
  await until('it is on disk', 60_000, async () =>
    /^booting\n\.+$/.test(await readFile(paths.consoleLog, 'utf8')),
  );
});

test('who comes later hears the end, from an earlier daemon too', async (t) => {
  const { paths, serial } = await rig(t);
  const first = new ConsoleHub(paths);
  await first.ready;
  const listener = new Client(paths.console);
  for (let line = 0; line < 1000; line++) serial.say(`${String(line).padStart(99, ' ')}\n`);
  await listener.until('999\n');
  const closed = once(listener.socket, 'close');
  first.close();
  await closed;
  await until('all is on disk', 60_000, async () => (await stat(paths.consoleLog)).size === 100_000);
  const second = new ConsoleHub(paths);
  t.after(() => second.close());
  await second.ready;
  const late = new Client(paths.console);
  await late.until('999\n');
  assert.equal(late.text, listener.text.slice(-KEPT));
  serial.say('more\n');
  await late.until('more\n');
  late.socket.destroy();
});

test('the log has a bound, and a client that does not read is dropped', async (t) => {
  const { paths, serial } = await rig(t);
  const hub = new ConsoleHub(paths);
  t.after(() => hub.close());
  await hub.ready;
  const idle = net.connect(paths.console);
  idle.on('error', () => undefined).pause();
  await once(idle, 'connect');
  const reader = new Client(paths.console);
  const block = `${'x'.repeat(63)}\n`.repeat(1024);
  for (let count = 0; count < 64; count++) {
    reader.text = '';
    serial.say(`${block}${count}\n`);
    await reader.until(`\n${count}\n`);
  }
  await until('it is dropped', 60_000, () => {
    idle.resume();
    return idle.destroyed || idle.readableEnded;
  });
  await until(
    'it is moved',
    60_000,
    async () => (await readFile(`${paths.consoleLog}.1`).catch(() => '')).length > 0,
  );
  assert.ok((await readFile(paths.consoleLog)).length <= 2 ** 20 + block.length);
  reader.socket.destroy();
});

test('a disk without room holds nobody up', async (t) => {
  const { paths, serial } = await rig(t);
  await symlink('/dev/full', paths.consoleLog);
  const hub = new ConsoleHub(paths);
  t.after(() => hub.close());
  await hub.ready;
  const client = new Client(paths.console);
  for (const word of ['one', 'two', 'three']) {
    serial.say(word);
    await client.until(word);
  }
  client.socket.destroy();
});
