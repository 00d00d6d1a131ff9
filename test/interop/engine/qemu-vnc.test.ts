/** VNC in front of stock QEMU: one address and one connection, whichever process executes the guest. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';
import { testFolder } from '../../helpers/bare-process.ts';
import { writeKeyGuest } from '../../helpers/key-guest.ts';
import { Console, noQemu, qemuVm } from '../../helpers/live-vm.ts';
import { RfbClient } from '../../helpers/rfb-client.ts';

const isOther = (a: Buffer, b: Buffer): boolean =>
  a.length !== b.length || a.reduce((count, byte, at) => count + Number(byte !== b[at]), 0) > 200;
const isBlank = (picture: Buffer): boolean => picture.every((byte) => byte === 0);

test(
  'a client of a secondary keeps its connection through swaps, and sees each new state',
  { skip: noQemu },
  async (t) => {
    const folder = await testFolder(t);
    const line = async (name: string): Promise<string> => {
      await writeKeyGuest(path.join(folder, `${name}.raw`));
      const disk = `-drive if=ide,id=d0,file=${path.join(folder, `${name}.raw`)},format=raw`;
      return `-vga std ${disk} -vnc unix:${path.join(folder, name)}`;
    };
    const p = await qemuVm(t, await line('p'));
    const s = await qemuVm(t, `${await line('s')} -incoming defer`);
    const [from, to] = [p.vm.engine, s.vm.engine];
    assert.ok(from && to);
    const guest = new Console(p);
    await p.vm.start();
    await guest.until('>');

    // A primary's: every byte as it comes, and its keys reach the guest.
    const viewer = await RfbClient.connect({ path: path.join(folder, 'p') }, [0, -223]);
    await viewer.update(false);
    assert.ok(!isBlank(viewer.picture));
    viewer.key(0x71);
    await guest.until('>q');

    // With encodings that only one server can go on with: it is sent none of them.
    const watcher = await RfbClient.connect(
      { path: path.join(folder, 's') },
      [16, 7, 6, 0, -223, -258, -260],
    );
    const pids = new Set<number>();
    for (const round of [1, 2, 3]) {
      const asked = watcher.update(round === 1);
      await from.pause();
      const snapshot = await from.capture({ full: round === 1 });
      if (to.state === 'running') await to.pause();
      if (round === 1) {
        await asked;
        assert.ok(isOther(watcher.picture, viewer.picture), 'the machine waits for its first state');
      }
      await to.load([snapshot]);
      await Promise.all([from.resume(), to.resume()]);
      if (round > 1) await asked;
      await watcher.update(true);
      pids.add((to as unknown as { pid: number }).pid);
      assert.deepEqual([watcher.width, watcher.height], [viewer.width, viewer.height]);
      await viewer.update(false);
      assert.ok(!isBlank(watcher.picture));
      // All but the cursor, which blinks by the host's clock.
      assert.ok(!isOther(watcher.picture, viewer.picture));
    }
    assert.equal(pids.size, 3);
    assert.ok(watcher.isOpen && viewer.isOpen);
    assert.deepEqual(
      [...watcher.seen].filter((encoding) => encoding > 0),
      [],
    );

    // It only looks, until its machine is nobody's secondary any more; then the same connection is heard.
    const copy = new Console(s);
    watcher.key(0x78);
    watcher.pointer(10, 10, 1);
    // Answered, so that the key has been read.
    await watcher.update(false);
    s.vm.run.mark('running');
    watcher.key(0x79);
    await copy.until('y');
    assert.equal(copy.text, 'y');

    const vnc = (await s.execute('query-vnc')) as Record<string, unknown>;
    assert.deepEqual(
      [vnc['enabled'], vnc['host'], vnc['family'], vnc['auth']],
      [true, path.join(folder, 's'), 'unix', 'none'],
    );
    assert.equal((vnc['clients'] as object[]).length, 1);
    assert.deepEqual(
      s.events.map(({ event }) => event).filter((event) => event.startsWith('VNC_')),
      ['VNC_CONNECTED', 'VNC_INITIALIZED'],
    );
    watcher.socket.destroy();
    viewer.socket.destroy();
    await s.event('VNC_DISCONNECTED');
  },
);

test(
  'with a password a swap disconnects the client, and the password holds for the next process',
  { skip: noQemu },
  async (t) => {
    const folder = await testFolder(t);
    const p = await qemuVm(t, '-vga std');
    const s = await qemuVm(t, `-vga std -vnc unix:${path.join(folder, 's')},password=on -incoming defer`);
    const [from, to] = [p.vm.engine, s.vm.engine];
    assert.ok(from && to);
    await s.execute('set_password', { protocol: 'vnc', password: 'secret' });
    assert.equal(await s.hmp('change vnc password secreter'), '');
    const offered = async (): Promise<[net.Socket, number[]]> => {
      const socket = net.connect(path.join(folder, 's'));
      socket.once('data', () => socket.write('RFB 003.008\n'));
      await once(socket, 'data');
      const [types] = (await once(socket, 'data')) as [Buffer];
      return [socket, [...types]];
    };
    await to.load([await from.capture({ full: true })]);
    const [socket, types] = await offered();
    assert.deepEqual(types, [1, 2], 'one type, VNC authentication');
    const closed = once(socket, 'close');
    await from.resume();
    await from.pause();
    await to.load([await from.capture({ full: false })]);
    await closed;
    const [again, same] = await offered();
    assert.deepEqual(same, types);
    again.destroy();
    assert.equal(((await s.execute('query-vnc')) as { auth: string }).auth, 'vnc');
  },
);
