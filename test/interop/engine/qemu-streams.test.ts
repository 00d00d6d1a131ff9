/** Serial ports and chardevs of passed-through devices on stock QEMU: both ways, and the same across swaps of its process. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';
import { testFolder } from '../../helpers/bare-process.ts';
import { writeKeyGuest } from '../../helpers/key-guest.ts';
import { noQemu, qemuVm } from '../../helpers/live-vm.ts';

/** A client of a chardev, with what it was told. */
class Client {
  text = '';
  readonly socket: net.Socket;

  constructor(file: string) {
    this.socket = net.connect(file);
    this.socket.on('data', (chunk: Buffer) => (this.text += chunk.toString('latin1')));
  }

  async until(pattern: RegExp): Promise<void> {
    while (!pattern.test(this.text)) await once(this.socket, 'data');
  }
}

test('streams are bridged, and stay through swaps', { skip: noQemu }, async (t) => {
  const folder = await testFolder(t);
  const at = (name: string): string => path.join(folder, name);
  const line = async (name: string, more: string): Promise<string> => {
    await writeKeyGuest(at(`${name}.raw`));
    return (
      `-serial unix:${at(`${name}.0`)},server=on,wait=off -serial unix:${at(`${name}.1`)},server=on,wait=off ` +
      `-chardev socket,id=bios,path=${at(`${name}.bios`)},server=on,wait=off ` +
      `-device isa-debugcon,iobase=0x402,chardev=bios -drive if=ide,id=d0,file=${at(`${name}.raw`)},format=raw ${more}`
    );
  };
  const p = await qemuVm(t, await line('p', ''));
  const s = await qemuVm(t, await line('s', '-incoming defer'));
  const clients = ['p.0', 's.0', 's.1', 'p.bios'].map((name) => new Client(at(name)));
  const [console, copy, other, bios] = clients as [Client, Client, Client, Client];
  t.after(() => clients.forEach(({ socket }) => socket.destroy()));
  assert.equal(p.vm.engine?.serials.length, 3);
  for (const { socket } of clients) if (socket.connecting) await once(socket, 'connect');

  await p.vm.start();
  await bios.until(/SeaBIOS/);
  await console.until(/>/);
  console.socket.write('x');
  await console.until(/>x/);
  assert.deepEqual(
    ((await p.execute('query-chardev')) as { label: string }[]).map(({ label }) => label),
    ['bios', 'serial0', 'serial1'],
  );

  // The process behind the second machine is another one each time; its ports and their clients are the same.
  const [from, to] = [p.vm.engine, s.vm.engine];
  assert.ok(to);
  const pids = new Set<number>();
  for (const key of ['1', '2', '3']) {
    await from.pause();
    const snapshot = await from.capture({ full: key === '1' });
    if (to.state === 'running') await to.pause();
    const [mice] = await Promise.all([s.execute('query-mice'), to.load([snapshot])]);
    assert.ok(Array.isArray(mice));
    await Promise.all([from.resume(), to.resume()]);
    pids.add((to as unknown as { pid: number }).pid);
    for (const client of [console, copy]) {
      client.socket.write(key);
      await client.until(new RegExp(`${key}$`));
    }
  }
  assert.equal(pids.size, 3);
  assert.equal(copy.text, '123');
  assert.ok(!copy.socket.destroyed && !other.socket.destroyed);
});
