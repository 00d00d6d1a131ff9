/**
 * Filters between two netdevs, and the comparer with a COLO frame in another program: the objects of a process without
 * a guest at work, once in the built program and once in QEMU.
 */
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import {
  CAPABILITIES,
  execute,
  qemuVersion,
  startBare,
  testFolder,
  unixServer,
} from '../../helpers/bare-process.ts';
import { arp, udp } from '../../unit/net/frames.ts';
import { accepted } from './accepted.ts';
import { FrameSocket } from './qemu.ts';

const compare = {
  'qom-type': 'colo-compare',
  id: 'comp0',
  primary_in: 'p',
  secondary_in: 's',
  outdev: 'o',
  iothread: 'io',
};
const mirror = { 'qom-type': 'filter-mirror', id: 'm0', netdev: 'hn0', outdev: 'm' };
const redirector = { 'qom-type': 'filter-redirector', id: 'r0', netdev: 'hn0' };

const text = (frame: Uint8Array | undefined): string => Buffer.from(frame ?? []).toString('latin1');

/** The frames that have come, once there are `count`. */
async function upTo(socket: FrameSocket, count: number): Promise<readonly Uint8Array[]> {
  await socket.until((frames) => frames.length >= count, `${count} frames`);
  return socket.frames;
}

for (const program of ['colo', 'qemu'] as const) {
  const skip = program === 'qemu' && qemuVersion === null ? 'qemu-system-x86_64 is not installed' : false;

  test(`filters between two netdevs: ${program}`, { skip }, async (t) => {
    const line =
      '-netdev stream,id=wire,server=on,addr.type=unix,addr.path=DIR/wire ' +
      '-netdev stream,id=guest,server=on,addr.type=unix,addr.path=DIR/guest ' +
      '-netdev hubport,id=h0,hubid=0,netdev=wire -netdev hubport,id=h1,hubid=0,netdev=guest';
    const bare = await startBare(t, program, path.join(await testFolder(t), 'vm'), line);
    const { type, home } = bare;
    await type(CAPABILITIES);
    for (const id of ['copy', 'out', 'in']) {
      await type(execute('chardev-add', { id, backend: unixServer(id) }));
    }
    const wire = await FrameSocket.connect(path.join(home, 'wire'));
    const guest = await FrameSocket.connect(path.join(home, 'guest'));
    await accepted(bare, { names: [], streams: 2 });
    wire.send(udp('plain'));
    await upTo(guest, 1);
    await type(execute('object-add', { ...mirror, netdev: 'wire', queue: 'tx', outdev: 'copy' }));
    const copy = await FrameSocket.connect(path.join(home, 'copy'));
    await accepted(bare, { names: ['copy'] });
    wire.send(udp('mirrored'));
    assert.deepEqual(await upTo(copy, 1), [udp('mirrored')]);
    await upTo(guest, 2);
    await type(
      execute('object-add', { ...redirector, netdev: 'wire', queue: 'rx', outdev: 'out', indev: 'in' }),
    );
    const out = await FrameSocket.connect(path.join(home, 'out'));
    const back = await FrameSocket.connect(path.join(home, 'in'));
    await accepted(bare);
    guest.send(udp('taken away'));
    assert.deepEqual(await upTo(out, 1), [udp('taken away')]);
    back.send(udp('put in'));
    assert.deepEqual(await upTo(wire, 1), [udp('put in')]);
    await type(execute('qom-set', { path: '/objects/r0', property: 'status', value: 'off' }));
    guest.send(udp('straight'));
    assert.deepEqual((await upTo(wire, 2))[1], udp('straight'));
    await type(execute('object-del', { id: 'r0' }));
    await type(execute('object-del', { id: 'm0' }));
    wire.send(udp('last'));
    await upTo(guest, 3);
    assert.deepEqual([copy.frames.length, out.frames.length], [1, 1]);
    for (const peer of [wire, guest, copy, out, back]) peer.close();
  });

  test(`the comparer and a COLO frame in another program: ${program}`, { skip }, async (t) => {
    const bare = await startBare(t, program, path.join(await testFolder(t), 'vm'), '-object iothread,id=io');
    const { type, home } = bare;
    await type(CAPABILITIES);
    for (const id of ['p', 's', 'o', 'n']) {
      await type(execute('chardev-add', { id, backend: unixServer(id) }));
    }
    await type(execute('object-add', { ...compare, notify_dev: 'n', compare_timeout: 60_000 }));
    const [primary, secondary, out, frame] = (await Promise.all(
      ['p', 's', 'o', 'n'].map((id) => FrameSocket.connect(path.join(home, id))),
    )) as [FrameSocket, FrameSocket, FrameSocket, FrameSocket];
    await accepted(bare);
    frame.send(Buffer.from('COLO_USERSPACE_PROXY_INIT'));
    assert.equal(text((await upTo(frame, 1))[0]), 'COLO_COMPARE_GET_XEN_INIT');
    // What is the same on both sides is let go. QEMU does not compare ARP.
    primary.send(arp());
    if (program === 'colo') secondary.send(arp());
    assert.deepEqual(await upTo(out, 1), [arp()]);
    primary.send(udp('same'));
    secondary.send(udp('same'));
    assert.deepEqual((await upTo(out, 2))[1], udp('same'));
    // What differs asks for a checkpoint, and waits for it.
    primary.send(udp('mine'));
    secondary.send(udp('thine'));
    assert.equal(text((await upTo(frame, 2))[1]), 'DO_CHECKPOINT');
    assert.equal(out.frames.length, 2);
    frame.send(Buffer.from('COLO_CHECKPOINT'));
    assert.deepEqual((await upTo(out, 3))[2], udp('mine'));
    for (const peer of [primary, secondary, out, frame]) peer.close();
    await type(execute('object-del', { id: 'comp0' }));
  });
}
